"""What is left of a network when one of its parts says nothing: does the part matter?

An ablation leaves every weight of a trained network in place and replaces what a module gives by something that holds
no information about where or what: how much of the answer does that part decide?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nnunet_topomae.networks.unetrpp import EfficientPairedAttention
from nnunet_topomae.networks.vit import ViTEncoder


def _mean_over_tokens(module: nn.Module, inputs: tuple[Any, ...], features: torch.Tensor) -> torch.Tensor:
    return features.mean(dim=1, keepdim=True).expand_as(features)


def _nothing(module: nn.Module, inputs: tuple[Any, ...], residual: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(residual)


Replacement = Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor]

# By name: the modules concerned, and what takes the place of their output.
ABLATIONS: Mapping[str, tuple[type[nn.Module], Replacement]] = {
    "vit_mean": (ViTEncoder, _mean_over_tokens),  # every token gets the mean of the ViT's features
    "epa_identity": (EfficientPairedAttention, _nothing),  # a residual branch: UNETR++'s blocks only convolve
}


@contextmanager
def ablated(network: nn.Module, name: str) -> Iterator[None]:
    """Ablate within a `with` block. Raises ValueError where the network has no such part."""
    kind, replacement = ABLATIONS[name]
    handles = [module.register_forward_hook(replacement) for module in network.modules() if isinstance(module, kind)]
    if not handles:
        raise ValueError(f"ablation {name}: the network has no {kind.__name__}")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
