"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): memory for time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from nnunet_topomae.networks.partners import Partner
from nnunet_topomae.networks.transformer import Block


def with_checkpoints(network: nn.Module, partner: Partner) -> nn.Module:
    """`network`, in which the blocks of the ViT and of its partner keep only their input in training: the rest is
    computed again when the gradient comes by. Values, gradients and batch statistics are the same."""
    kinds: tuple[type[nn.Module], ...] = (Block, *partner.blocks)
    blocks: list[nn.Module] = [module for module in network.modules() if isinstance(module, kinds)]
    for block in blocks:
        with_batch_norm = any(isinstance(module, _BatchNorm) for module in block.modules())
        again = partial(_counted_once, block) if with_batch_norm else partial(checkpoint, use_reentrant=False)
        block.forward = partial(_forward, block, block.forward, again)
    return network


def _forward(
    block: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], again: Callable[..., Any], x: torch.Tensor
) -> Any:
    return again(forward, x) if block.training and torch.is_grad_enabled() else forward(x)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # PyTorch gives it no types; it cannot trace the contexts
def _counted_once(block: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Any:
    return checkpoint(forward, x, use_reentrant=False, context_fn=partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the first computation and of the second."""
    return nullcontext(), _batch_counted_already(block)


@contextmanager
def _batch_counted_already(block: nn.Module) -> Iterator[None]:
    """The second time a batch does not enter the running statistics."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in before:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
