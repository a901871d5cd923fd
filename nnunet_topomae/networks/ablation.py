"""What is left of a network when one of its parts says nothing: does the part matter?

An ablation leaves every weight in place and replaces what a module gives by something that holds no information about
where or what. It serves a trained network, to see how much of its answer the part decides, and a training, to see what
the network makes of the data without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from nnunet_topomae.networks.unetrpp import EfficientPairedAttention
from nnunet_topomae.networks.vit import ViTEncoder


def _mean_over_tokens(module: nn.Module, inputs: tuple[Any, ...], features: torch.Tensor) -> torch.Tensor:
    return features.mean(dim=1, keepdim=True).expand_as(features)


def _nothing(module: nn.Module, inputs: tuple[Any, ...], residual: torch.Tensor) -> torch.Tensor:
    return 0 * residual  # not zeros: DDP wants a gradient for every parameter


Replacement = Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor]

# By name: the modules concerned, and what takes the place of their output.
ABLATIONS: MappingProxyType[str, tuple[type[nn.Module], Replacement]] = MappingProxyType(
    {
        "vit_mean": (ViTEncoder, _mean_over_tokens),  # every token gets the mean of the ViT's features
        "epa_identity": (EfficientPairedAttention, _nothing),  # a residual branch: UNETR++'s blocks only convolve
    }
)


def ablate(network: nn.Module, name: str) -> list[RemovableHandle]:
    """Ablate for good, until the handles are removed. Raises ValueError where the network has no such part."""
    kind, replacement = ABLATIONS[name]
    handles = [module.register_forward_hook(replacement) for module in network.modules() if isinstance(module, kind)]
    if not handles:
        raise ValueError(f"ablation {name}: the network has no {kind.__name__}")
    return handles


@contextmanager
def ablated(network: nn.Module, name: str) -> Iterator[None]:
    """Ablate within a `with` block."""
    handles = ablate(network, name)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
