"""A step of pre-training: batch → masks → networks → terms → update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_topomae.losses.position import point_distance
from nnunet_topomae.losses.pretraining import PretrainingLoss
from nnunet_topomae.losses.term import BRANCHES, Target
from nnunet_topomae.losses.topology import Topology
from nnunet_topomae.networks.copretrain import BranchOutput, CoPretrainingNetwork
from nnunet_topomae.pretext.masking import draw_masks
from nnunet_topomae.pretext.position import LENGTH, from_centre

Batch = Mapping[str, torch.Tensor]  # of `data/dataloading.py`
Readings = dict[str, torch.Tensor]  # scalars by name, on the device: to read them would make the host wait
VIT_ALONE = ("vit",)
MAX_GRADIENT_NORM = 1.0  # of each network, customary for transformers
POINT_ERRORS = tuple(f"point_error_{branch}" for branch in BRANCHES)  # in voxels
GRADIENTS = tuple(f"{what}_{branch}" for what in ("gradient_norm", "clipped") for branch in BRANCHES)


class PretrainingStep:
    """What pre-training does with a batch.

    Args:
        network: what is called: `plain_network`, or that in the wrappers of torch.compile and DDP.
        plain_network: the two networks.
        loss: the loss.
        optimizer: of all weights.
        scaler: of gradients in half precision; None: all is done in single precision.
        mask_ratio: part of the tokens that is masked.
        views: masks a crop.
        spacing: mm a voxel.
        device: of the networks.
    """

    def __init__(
        self,
        network: nn.Module,
        plain_network: CoPretrainingNetwork,
        loss: PretrainingLoss,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        mask_ratio: float,
        views: int,
        spacing: Sequence[float],
        device: torch.device,
    ) -> None:
        self.network = network
        self.branches: dict[str, nn.Module] = {name: getattr(plain_network, name) for name in BRANCHES}
        self.loss = loss
        self.optimizer = optimizer
        self.scaler = scaler
        self.mask_ratio = mask_ratio
        self.views = views
        self.spacing = torch.tensor(spacing, dtype=torch.float32, device=device)
        self.device = device
        self.mask_generator = torch.Generator()
        self.early_topology = EarlyTopology(self.branches, loss.topology)

    def train(self, batch: Batch, branches: Sequence[str] = BRANCHES, topology: int = 1) -> Readings:
        """One step of the optimiser for both networks, or for the ViT alone. Arguments as of `forward`.

        Raises FloatingPointError where the loss is not finite and no scaler skips the step.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss, values = self.forward(batch, branches, topology)
        if self.scaler is None and not torch.isfinite(loss):
            parts = ", ".join(f"{name} {value.item():g}" for name, value in values.items())
            raise FloatingPointError(f"the loss is {loss.item()} ({parts})")
        scaler = self.scaler or torch.amp.GradScaler(enabled=False)
        scaler.scale(loss).backward()
        for other in set(BRANCHES).difference(branches):
            self.branches[other].zero_grad(set_to_none=True)  # zeros, which decay would still act on
        scaler.unscale_(self.optimizer)
        norms = self.clip_gradients(branches)
        scaler.step(self.optimizer)
        scaler.update()
        return _detached({"loss": loss, **values, **norms})

    def forward(
        self, batch: Batch, branches: Sequence[str] = BRANCHES, topology: int = 1
    ) -> tuple[torch.Tensor, Readings]:
        """The loss, and every value that is logged, by name.

        Args:
            batch: crops.
            branches: both, or `VIT_ALONE`.
            topology: how many times its term counts in this step; 0: it is left out.
        """
        diagrams = self.loss.submit_target(batch.get("data_on_host", batch["data"])) if topology else None
        image, points, shape = (
            batch[name].to(self.device, non_blocking=True) for name in ("data", "points", "volume_shape")
        )
        places = from_centre(points, shape, self.spacing)
        masks = self.draw_masks(len(image))
        target = self.loss.target(image, places, masks.to(self.device, non_blocking=True), diagrams)
        with_partner = len(branches) == len(BRANCHES)
        with self.early_topology.during(target), torch.autocast("cuda", enabled=self.device.type == "cuda"):
            answer = self.network(image, masks, with_partner=with_partner)
        outputs = answer._asdict() if with_partner else {"vit": answer}
        values = self.loss(outputs, target)
        total = self.loss.total(values, topology)
        for branch, output in outputs.items():
            distance = point_distance(output.points[:, 0].detach().float(), places, LENGTH / self.spacing)
            values[f"point_error_{branch}"] = distance.mean()
        if not with_partner and isinstance(self.network, DistributedDataParallel):  # awaits a gradient of each weight
            total = total + 0 * sum(weight.sum() for weight in self.branches["partner"].parameters())
        return total, values

    def validate(self, batch: Batch) -> Readings:
        """What is logged of a batch that nothing is learnt from."""
        loss, values = self.forward(batch)
        return _detached({"loss": loss, **values})

    def clip_gradients(self, branches: Sequence[str]) -> Readings:
        """Each network by itself: in a common norm the partner's gradient would decide how far the ViT may go.

        Returns the norms before, and whether they were clipped.
        """
        readings: Readings = {}
        for branch in branches:
            norm = nn.utils.clip_grad_norm_(self.branches[branch].parameters(), MAX_GRADIENT_NORM)
            readings |= {f"gradient_norm_{branch}": norm, f"clipped_{branch}": norm > MAX_GRADIENT_NORM}
        return readings

    def draw_masks(self, batch_size: int) -> torch.Tensor:
        """[B, V, N] bool on the host, True where a token is hidden."""
        num_tokens = self.loss.geometry.num_tokens
        return draw_masks(batch_size, self.views, num_tokens, self.mask_ratio, self.mask_generator)

    def seed_masks(self, seed: int, epoch: int, rank: int) -> None:
        """Masks follow from these three, those of an epoch in training from a new draw where the seed is negative.

        Epoch -1 is validation, whose masks are the same in every epoch, so that curves are comparable.
        """
        if seed < 0 <= epoch:
            self.mask_generator.seed()  # anew; not those of another training in this process
        else:
            self.mask_generator.manual_seed(hash((seed, epoch, rank)) & 0x7FFFFFFFFFFF)


class EarlyTopology:
    """Topology is computed on the CPU while the networks run: of the first while the second does.

    Hooks, not two calls: under DDP and torch.compile both networks are one module, called once a step.
    """

    def __init__(self, branches: Mapping[str, nn.Module], topology: Topology) -> None:
        self.topology = topology
        self._target: Target | None = None
        for name, network in branches.items():
            network.register_forward_hook(partial(self._submit, name))

    @contextmanager
    def during(self, target: Target) -> Iterator[None]:
        """Within, what a network says is handed over as soon as it is there: unless topology is left out."""
        self._target = None if target.diagrams is None else target
        try:
            yield
        finally:
            self._target = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _submit(self, branch: str, network: nn.Module, inputs: object, output: BranchOutput) -> None:
        if self._target is not None:
            self.topology.submit(branch, output, self._target)


def _detached(values: Readings) -> Readings:
    return {name: value.detach().float() for name, value in values.items()}
