"""The loss of fine-tuning: nnU-Net's, and one of shape for the components, tunnels and cavities of each class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn

from nnunet_topomae.topology import TopologicalLoss

TIES = 1e-3  # weight of the probability where the voxels of a label are all alike


class SegmentationLoss(nn.Module):
    """nnU-Net's loss + λ · mean over samples and classes of 1/2 · Σ_k W2(D_k(1 − p), D_k(1 − y))².

    p is the predicted probability of a class in each voxel, y its label, 0 or 1. In the sublevel sets of 1 − y each
    component, tunnel and cavity of the label lives from 0 to 1: the distance counts those that are missing or too many,
    by how sure the network is of them (X. Hu et al., *Topology-preserving deep image segmentation*, NeurIPS 2019). It
    says nothing about where they are: nnU-Net's loss does. Of deep supervision the output in full resolution counts.

    With a `place` in the topological loss it does: a class that lies elsewhere is one too many, and one is missing. The
    voxels of a label are all alike: p decides which of them are critical, or a large loop would be far from itself.

    Attributes:
        topology_weight: λ of the next step; with 0, as in validation, nothing is computed.
        topology_terms: the unweighted term of each step that computed it.

    Args:
        base: nnU-Net's loss.
        topology: the topological loss.
        labels: tell classes from regions, and which voxels to ignore.
    """

    def __init__(self, base: nn.Module, topology: TopologicalLoss, labels: LabelManager) -> None:
        super().__init__()
        self.base, self.topology, self.labels = base, topology, labels
        self.topology_weight = 0.0
        self.topology_terms: list[float] = []

    def forward(
        self, output: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor | Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """A scalar. `output` [B, classes or regions, D, H, W], `target` as nnU-Net gives it, both by resolution."""
        loss = self.base(output, target)
        if not self.topology_weight:
            return loss
        probabilities, labels = self.class_maps(_full_resolution(output), _full_resolution(target))
        if self.topology.place:
            labels = labels.lerp(probabilities.detach(), TIES)
        terms = self.topology.submit(1 - probabilities, 1 - labels).result()
        self.topology_terms.append(sum(terms.per_dimension.values()))
        return loss + self.topology_weight * terms.loss

    def class_maps(self, output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """p and y, both [B, K, D, H, W] float32, of K classes without the background, or regions.

        Both are 0 where the label is to be ignored.
        """
        if self.labels.has_regions:
            probabilities = output.float().sigmoid()
            labels, ignored = target[:, : output.shape[1]], target[:, output.shape[1] :]
        else:
            probabilities = output.float().softmax(dim=1)[:, 1:]
            classes = torch.arange(1, output.shape[1], device=target.device).view(1, -1, 1, 1, 1)
            labels, ignored = target == classes, target == self.labels.ignore_label
        if self.labels.has_ignore_label:
            probabilities, labels = (maps.masked_fill(ignored.bool(), 0) for maps in (probabilities, labels))
        return probabilities, labels.float()


def _full_resolution(maps: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    return maps if isinstance(maps, torch.Tensor) else maps[0]
