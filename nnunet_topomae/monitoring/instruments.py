"""Is each network alive, and does it know more than nothing? Read off a few validation crops once an epoch.

A part that has died is not seen in the losses: the other network answers for it. These figures show it: how much the
tokens of a ViT differ from each other, what is left of the answer without it, errors beside those of an answer that
nothing was learnt for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from nnunet_topomae.losses.position import position_loss
from nnunet_topomae.losses.pretraining import PretrainingLoss
from nnunet_topomae.losses.reconstruction import masked_mean
from nnunet_topomae.losses.term import BRANCHES
from nnunet_topomae.monitoring.inpainting import harmonic_inpainting
from nnunet_topomae.monitoring.shape import BettiNumbersOfLevels, hidden_share
from nnunet_topomae.networks.ablation import ablated
from nnunet_topomae.networks.copretrain import CoPretrainingNetwork
from nnunet_topomae.networks.hybrid import HybridSegmentationNetwork
from nnunet_topomae.networks.tokens import expand_mask

DEAD_TOKEN_STD = 0.1  # a ViT's output has passed a layer norm: a healthy one varies by 0.5 to 0.8 over its tokens
NUM_CROPS = 16

TOKEN_STD = "vit_token_std"
LABEL_SHARE = "vit_label_share"
RECONSTRUCTION_RATIOS = tuple(f"error_over_harmonic_{name}" for name in (*BRANCHES, "zero"))
BETTI_RATIOS = tuple(f"betti_over_harmonic_{name}" for name in BRANCHES)
POINT_RATIOS = tuple(f"points_over_constant_{name}" for name in BRANCHES)
HIDDEN_SHARES = tuple(f"topology_hidden_share_{name}" for name in BRANCHES)
PULLING = ("topology", "position")  # terms that are worth nothing where they are too weak to be felt
PULLS = tuple(f"{term}_pull_{name}" for term in PULLING for name in BRANCHES)
PRETRAINING_INSTRUMENTS = (*RECONSTRUCTION_RATIOS, *BETTI_RATIOS, *POINT_RATIOS, *HIDDEN_SHARES, *PULLS, TOKEN_STD)
FINETUNING_INSTRUMENTS = ("cosine_vit", "cosine_partner", TOKEN_STD, LABEL_SHARE)


def token_std(features: torch.Tensor) -> float:
    """Standard deviation over the tokens of features [B, N, C], mean over crops and channels; 0: all tokens alike."""
    return features.float().std(dim=1).mean().item()


def is_dead(std: float) -> bool:
    """Whether a ViT whose tokens vary by `std` (`token_std`) says the same everywhere."""
    return std < DEAD_TOKEN_STD


class PretrainingInstruments:
    """The same crops under the same masks, whenever they are read.

    `error_over_harmonic_*`: mean squared error on masked voxels over that of harmonic inpainting, which learns nothing
    (`monitoring/inpainting.py`), of each network, and of zero, the mean of a z-scored image. `betti_over_harmonic_*`:
    the same of the Betti error (`monitoring/shape.py`). `points_over_constant_*`: error of the nine points over that of
    their mean over the crops, on each axis over those that show padding on it apart from those that do not: a volume
    smaller than the patch lies in its middle, and to see that is not to know a place. `topology_hidden_share_*`: see
    `hidden_share`. `topology_pull_*`, `position_pull_*`: how strongly a term pulls at an encoder (`pull`), over
    reconstruction. `vit_token_std`: see `token_std`.

    What has no weight in the loss nobody has asked the networks for, and is not judged.

    Args:
        image: [B, C, D, H, W], crops; points: [B, 9, 3], where they lie (`from_centre`); padded: [B, 3], on which axes
            they reach out of their volume; masks: [B, 1, N]. All on the CPU.
        loss: of pre-training.
        batch_size: crops at a time.
    """

    def __init__(
        self,
        image: torch.Tensor,
        points: torch.Tensor,
        padded: torch.Tensor,
        masks: torch.Tensor,
        loss: PretrainingLoss,
        batch_size: int,
    ) -> None:
        self.image, self.points, self.masks = image, points, masks
        self.loss = loss
        self.batch_size = batch_size
        self.weights = loss.weights
        self.voxel_mask = expand_mask(masks[:, 0], loss.geometry.token_grid, loss.geometry.token_size)
        self.betti = BettiNumbersOfLevels(image, loss.geometry)
        self.diagrams = loss.topology.loss.diagrams(image) if self.weights["topology"] else []
        harmonic = harmonic_inpainting(image, self.voxel_mask)
        self.harmonic_error, self.harmonic_betti_error = self._masked_error(harmonic), self.betti.error(harmonic)
        self.zero_error = self._masked_error(torch.zeros_like(image))
        self.constant_error = position_loss(_means_by_padding(points, padded), points).item()

    @torch.no_grad()
    def read(self, network: CoPretrainingNetwork, device: torch.device, scale: float = 1.0) -> dict[str, float]:
        """Of a network in evaluation mode, by `PRETRAINING_INSTRUMENTS`' names; `scale` is the gradient scaler's."""
        features: list[torch.Tensor] = []
        handle = network.vit.encoder.register_forward_hook(lambda module, inputs, output: features.append(output.cpu()))
        batches = zip(*(value.split(self.batch_size) for value in (self.image, self.masks)), strict=True)
        try:
            outputs = [network(image.to(device), masks.to(device)) for image, masks in batches]
        finally:
            handle.remove()
        readings = {"error_over_harmonic_zero": _ratio(self.zero_error, self.harmonic_error)}
        for name in BRANCHES:
            completed, points = (
                torch.cat([answer[:, 0].float().cpu() for answer in answers])
                for answers in zip(*(getattr(output, name) for output in outputs), strict=True)
            )
            readings[f"error_over_harmonic_{name}"] = _ratio(self._masked_error(completed), self.harmonic_error)
            readings[f"betti_over_harmonic_{name}"] = _ratio(self.betti.error(completed), self.harmonic_betti_error)
            if self.weights["topology"]:
                share = hidden_share(self.loss.topology.loss, completed, self.diagrams, self.voxel_mask)
                readings[f"topology_hidden_share_{name}"] = share
            if self.weights["position"]:
                error = position_loss(points, self.points).item()
                readings[f"points_over_constant_{name}"] = _ratio(error, self.constant_error)
        return {**readings, **self._pulls(network, device, scale), TOKEN_STD: token_std(torch.cat(features))}

    @torch.enable_grad()
    def _pulls(self, network: CoPretrainingNetwork, device: torch.device, scale: float) -> dict[str, float]:
        """On the first batch."""
        terms = [name for name in PULLING if self.weights[name]]
        if not terms:
            return {}
        image, points, masks = (value[: self.batch_size].to(device) for value in (self.image, self.points, self.masks))
        target = self.loss.target(image, points, masks)
        with torch.autocast("cuda", enabled=device.type == "cuda"):  # no more memory than a step of training
            answers = {branch: network(image, masks, branch) for branch in BRANCHES}
        outputs = {branch: self.loss.answered(branch, answer, target) for branch, answer in answers.items()}
        pulls: dict[str, float] = {}
        for branch in BRANCHES:
            values = self.loss(branch, outputs, target)
            weights = list(getattr(network, branch).encoder.parameters())
            of_term = {
                name: pull(self.weights[name] * values[f"{name}_{branch}"], weights, scale)
                for name in ("reconstruction", *terms)
            }
            pulls |= {f"{name}_pull_{branch}": _ratio(of_term[name], of_term["reconstruction"]) for name in terms}
        return pulls

    def _masked_error(self, volume: torch.Tensor) -> float:
        return masked_mean((volume - self.image) ** 2, self.voxel_mask).item()


def _means_by_padding(points: torch.Tensor, padded: torch.Tensor) -> torch.Tensor:
    """[B, 9, 3], the mean over those crops whose axis is padded likewise."""
    alike = (padded[:, None] == padded).float()  # [B, B, 3]
    return torch.einsum("bcx,cpx->bpx", alike / alike.sum(dim=1, keepdim=True), points)


def pull(term: torch.Tensor, weights: Sequence[torch.Tensor], scale: float) -> float:
    """Norm of the gradient of a scalar with respect to all these weights together.

    It is computed at `scale` times its size, since half precision knows nothing below 6e-8.
    """
    gradients = torch.autograd.grad(scale * term, weights, retain_graph=True, allow_unused=True)
    return math.hypot(*(gradient.norm().item() for gradient in gradients if gradient is not None)) / scale


def _ratio(error: float, yardstick: float) -> float:
    """NaN where knowing nothing is no error: all crops lie at one place, or are constant."""
    return error / yardstick if yardstick > 0 else math.nan


@torch.no_grad()
def label_share(network: HybridSegmentationNetwork, image: torch.Tensor, has_regions: bool) -> float:
    """Part of the voxels, of those that are foreground with or without it, whose label the ViT decides.

    That is how many change where the ViT's features are replaced by their mean over the tokens; 0 where there is no
    foreground at all.

    Args:
        network: one with a ViT, in evaluation mode and without deep supervision.
        image: [B, C, D, H, W] on the network's device.
        has_regions: each output is a region by itself (nnU-Net's region-based training), not one of exclusive classes.
    """
    labels = _foreground(network(image), has_regions)
    with ablated(network, "vit_mean"):
        without = _foreground(network(image), has_regions)
    changed = (labels != without).any(dim=1).sum()
    return (changed / (labels | without).any(dim=1).sum().clamp_min(1)).item()


def _foreground(logits: torch.Tensor, has_regions: bool) -> torch.Tensor:
    """[B, K, D, H, W] bool: which foreground classes, or regions, each voxel belongs to."""
    if has_regions:
        return logits > 0
    classes = torch.arange(1, logits.shape[1], device=logits.device).reshape(-1, 1, 1, 1)
    return logits.argmax(dim=1, keepdim=True) == classes


def cosines(
    parts: Mapping[str, Sequence[torch.Tensor]], before: Mapping[str, Sequence[torch.Tensor]]
) -> dict[str, float]:
    """Cosine of the weights of each part, taken as one vector, to those that it had before."""
    return {name: _cosine(parts[name], weights) for name, weights in before.items()}


def _cosine(now: Sequence[torch.Tensor], before: Sequence[torch.Tensor]) -> float:
    """In float64: the sum over a ViT-B's weights was 2 to 8 % off in float32."""
    products = torch.zeros(2, 2, dtype=torch.float64)
    for pair in zip(now, before, strict=True):
        vectors = torch.stack([weight.detach().cpu().double().flatten() for weight in pair])
        products += vectors @ vectors.T
    return (products[0, 1] / (products[0, 0] * products[1, 1]).sqrt()).item()
