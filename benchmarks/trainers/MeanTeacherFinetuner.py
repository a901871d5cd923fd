"""A mean teacher with a masked student, a prototype of segmenting with unlabelled images: an arm of `few_labels.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import nn

from nnunet_topomae.files import read_json
from nnunet_topomae.networks.tokens import expand_mask
from nnunet_topomae.pretext.masking import draw_masks
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch

WEIGHT = 0.5  # at the end; it grows by exp(−5 (1 − t/T)²), T being all of the training
SURE = 0.8  # where the teacher's largest probability is above, the student follows
HIDDEN = 0.25  # of the student's tokens
MOMENTUM = 0.99


class ConsistencyLoss(nn.Module):
    """nnU-Net's loss of the labelled part of a batch + weight · (Dice + cross-entropy to the teacher) of the rest.

    Attributes:
        teacher: [B', classes, D, H, W], the teacher's probabilities for the rest; None: all of the batch is labelled.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.weight = 0.0
        self.teacher: torch.Tensor | None = None

    def forward(self, output: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
        """A scalar, of both by resolution."""
        if self.teacher is None:
            return self.base(output, target)
        labelled = len(target[0])
        loss = self.base([maps[:labelled] for maps in output], target)
        return loss + self.weight * consistency(output[0][labelled:].float(), self.teacher)


def consistency(logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Soft Dice loss of the foreground + cross-entropy, where the teacher is sure."""
    sure = teacher.amax(dim=1, keepdim=True) > SURE
    entropy = -(teacher * logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)
    student, wanted = ((maps * sure)[:, 1:].transpose(0, 1).flatten(1) for maps in (logits.softmax(dim=1), teacher))
    dice = (2 * (student * wanted).sum(dim=1) + 1e-5) / ((student + wanted).sum(dim=1) + 1e-5)
    return (entropy * sure).sum() / sure.sum().clamp(min=1) + 1 - dice.mean()


class MeanTeacherFinetuner(TopoMAEFinetunerFromScratch):
    """Of the unlabelled cases of the split, as many crops a step as of the labelled ones (Tarvainen and Valpola 2017).

    The teacher, a moving average of the network, sees them as they are; the network sees them partly masked and with
    other intensities. Training ends with the teacher in its place. One that goes on begins with a new teacher.
    """

    def _build_loss(self) -> nn.Module:
        return ConsistencyLoss(super()._build_loss())

    def on_train_start(self) -> None:
        super().on_train_start()
        self.teacher = deepcopy(self.plain_network).eval().requires_grad_(False)
        rotation, in_plane, crop_size, mirror = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch_size = self.configuration_manager.patch_size
        transforms = self.get_training_transforms(patch_size, rotation, None, mirror, in_plane).transforms
        geometric = [each for each in transforms if isinstance(_inner(each), (SpatialTransform, MirrorTransform))]
        of_labels = (SpatialTransform, MirrorTransform, RemoveLabelTransform, MaskImageTransform)
        self.intensity = ComposeTransforms([each for each in transforms if not isinstance(_inner(each), of_labels)])
        cases = self.dataset_of(read_json(self.splits_file)[self.fold]["unlabelled"])
        sizes = self.batch_size, crop_size, patch_size
        self.unlabelled = nnUNetDataLoader(
            cases, *sizes, self.label_manager, oversample_foreground_percent=0, transforms=ComposeTransforms(geometric)
        )

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        crops = next(self.unlabelled)["data"]
        with torch.no_grad(), torch.autocast("cuda", enabled=self.device.type == "cuda"):
            self.loss.teacher = self.teacher(crops.to(self.device))[0].float().softmax(dim=1)
        step, num_steps = self.lr_scheduler.current_step, self.lr_scheduler.num_steps
        self.loss.weight = WEIGHT * math.exp(-5 * (1 - step / num_steps) ** 2)
        seen = batch | {"data": torch.cat([batch["data"].cpu(), self.seen_by_student(crops)])}
        output = super().train_step(seen)
        self.loss.teacher = None
        self.follow(min(1 - 1 / (step + 2), MOMENTUM))
        return output

    def seen_by_student(self, crops: torch.Tensor) -> torch.Tensor:
        """With other intensities, and zero in hidden tokens."""
        changed = torch.stack([self.intensity(image=crop.clone())["image"] for crop in crops])
        grid, generator = self.geometry.token_grid, torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        masks = draw_masks(len(crops), 1, math.prod(grid), HIDDEN, generator)[:, 0]
        return changed.masked_fill(expand_mask(masks, grid, self.geometry.token_size), 0)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """The teacher, after a step of the network."""
        for theirs, ours in zip(self.teacher.parameters(), self.plain_network.parameters(), strict=True):
            theirs.lerp_(ours, 1 - momentum)
        for theirs, ours in zip(self.teacher.buffers(), self.plain_network.buffers(), strict=True):
            theirs.copy_(ours)

    def on_train_end(self) -> None:
        self.plain_network.load_state_dict(self.teacher.state_dict())
        super().on_train_end()


def _inner(transform: Any) -> Any:
    return transform.transform if isinstance(transform, RandomTransform) else transform
