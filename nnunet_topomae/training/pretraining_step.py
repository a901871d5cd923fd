"""A step of pre-training: batch → masks → networks → terms → update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_topomae.losses.position import point_distance
from nnunet_topomae.losses.pretraining import PretrainingLoss
from nnunet_topomae.losses.term import BRANCHES, Outputs, Target
from nnunet_topomae.networks.copretrain import BranchOutput, CoPretrainingNetwork
from nnunet_topomae.pretext.masking import draw_masks
from nnunet_topomae.pretext.position import LENGTH, from_centre

Batch = Mapping[str, torch.Tensor]  # of `data/dataloading.py`
Readings = dict[str, torch.Tensor]  # scalars by name, on the device: to read them would make the host wait
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
        self.distributed = isinstance(network, DistributedDataParallel)  # which would await gradients of both networks
        self.network: nn.Module = network.module if isinstance(network, DistributedDataParallel) else network
        self.branches: dict[str, nn.Module] = {name: getattr(plain_network, name) for name in BRANCHES}
        self.loss = loss
        self.optimizer = optimizer
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        self.mask_ratio = mask_ratio
        self.views = views
        self.spacing = torch.tensor(spacing, dtype=torch.float32, device=device)
        self.device = device
        self.mask_generator = torch.Generator()

    def train(self, batch: Batch, others: Iterable[Batch] = (), topology: float = 1) -> Readings:
        """One step of both networks, and before it one of the ViT alone with each of `others`.

        The host waits for topology alone, and for that of each network with work queued on the device: for the
        partner's with the ViT's steps, for the ViT's with the partner's backward pass. They share no parameter.

        Args:
            batch: crops.
            others: crops for the ViT; the values of these steps are not returned.
            topology: how many times its term counts in the common step; 0: it is left out.

        Raises:
            FloatingPointError: a loss is not finite, and no scaler skips the step.
        """
        target = self.target(batch, topology > 0)
        partner = self.answer("partner", target)
        for other in others:
            target_of_vit = self.target(other, with_topology=False)
            self.update({"vit": self.answer("vit", target_of_vit)}, target_of_vit)
        outputs = {"partner": partner, "vit": self.answer("vit", target)}
        readings = self.update(outputs, target, topology)
        return _detached(readings | self.point_errors(outputs, target))

    def validate(self, batch: Batch, topology: float = 1) -> Readings:
        """What is logged of a batch that nothing is learnt from. Arguments as of `train`."""
        target = self.target(batch, topology > 0)
        outputs = {branch: self.answer(branch, target) for branch in BRANCHES}
        values = {name: value for branch in outputs for name, value in self.loss(branch, outputs, target).items()}
        loss = self.loss.total(values, topology)
        return _detached({"loss": loss, **values, **self.point_errors(outputs, target)})

    def target(self, batch: Batch, with_topology: bool = True) -> Target:
        """What the batch asks under new masks; the diagrams of its images are begun."""
        image, points, shape = (
            batch[name].to(self.device, non_blocking=True) for name in ("data", "points", "volume_shape")
        )
        places = from_centre(points, shape, self.spacing)
        return self.loss.target(image, places, self.draw_masks(len(image)), with_topology)

    def answer(self, branch: str, target: Target) -> BranchOutput:
        """What a network says; its topology is begun."""
        with torch.autocast("cuda", enabled=self.device.type == "cuda"):
            output = self.network(target.image, target.masks, branch)
        return self.loss.answered(branch, output, target)

    def update(self, outputs: Outputs, target: Target, topology: float = 1) -> Readings:
        """A step of the optimiser for the networks whose `outputs` there are; returns what is logged of it."""
        self.optimizer.zero_grad(set_to_none=True)
        values = self.backward(outputs, target, topology)
        self.scaler.unscale_(self.optimizer)
        norms = self.clip_gradients(outputs)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {"loss": self.loss.total(values, topology), **values, **norms}

    def backward(self, outputs: Outputs, target: Target, topology: float = 1) -> Readings:
        """Gradients, of each network by itself in the order of `outputs`; returns the terms."""
        values: Readings = {}
        for branch in outputs:
            terms = self.loss(branch, outputs, target)
            loss = self.loss.total(terms, topology)
            if not self.scaler.is_enabled() and not torch.isfinite(loss):
                parts = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
                raise FloatingPointError(f"the loss is {loss.item()} ({parts})")
            self.scaler.scale(loss).backward()
            if self.distributed:
                average_gradients(self.branches[branch].parameters())
            values |= terms
        return values

    def point_errors(self, outputs: Outputs, target: Target) -> Readings:
        """In voxels; of points that nobody asked for there is none."""
        if not self.loss.weights["position"]:
            return {}
        return {
            f"point_error_{branch}": point_distance(output.points[:, 0], target.points, LENGTH / self.spacing).mean()
            for branch, output in outputs.items()
        }

    def clip_gradients(self, branches: Iterable[str]) -> Readings:
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


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Over all processes, in one transfer."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients]) / dist.get_world_size()
    dist.all_reduce(together)
    for gradient, mean in zip(gradients, together.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _detached(values: Readings) -> Readings:
    """Kept to the end of the epoch: copies, since a mean may be a view of all that it is the mean of."""
    return {name: value.detach().float().clone() for name, value in values.items()}
