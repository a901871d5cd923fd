"""Topology is computed on the CPU while the networks run: each reconstruction is handed over as soon as it is there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

import torch

from nnunet_topomae.losses.pretraining import BRANCHES, PretrainingLoss
from nnunet_topomae.networks.copretrain import BranchOutput, CoPretrainingNetwork
from nnunet_topomae.topology import Diagrams
from nnunet_topomae.topology.loss import PendingLoss


class EarlyTopology:
    """Hooks on both networks. In a forward pass within `during` the first network's topological loss is submitted
    before the second network begins.

    Hooks, not two calls: under DDP and torch.compile both networks are one module, called once a step.
    """

    def __init__(self, network: CoPretrainingNetwork, loss: PretrainingLoss) -> None:
        self.loss = loss
        self._context: tuple[torch.Tensor, torch.Tensor, list[Future[Diagrams]]] | None = None
        self._pending: dict[str, PendingLoss] = {}
        for branch in BRANCHES:
            getattr(network, branch).register_forward_hook(partial(self._submit, branch))

    @contextmanager
    def during(
        self, image: torch.Tensor, masks: torch.Tensor, target_diagrams: list[Future[Diagrams]] | None
    ) -> Iterator[dict[str, PendingLoss]]:
        """Gives the topological losses that have been submitted, by network: none without `target_diagrams`."""
        self._context = None if target_diagrams is None else (image, masks, target_diagrams)
        self._pending = {}
        try:
            yield self._pending
        finally:
            self._context = None

    @torch.compiler.disable
    def _submit(self, branch: str, module: torch.nn.Module, inputs: tuple, output: BranchOutput) -> None:
        if self._context is not None:
            self._pending[branch] = self.loss.submit_topology(branch, output, *self._context)
