"""What a term of the pre-training loss is: a name, a weight, and a formula over what the networks answered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks.copretrain import BranchOutput, CoPretrainingOutput, completed
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.tokens import gather_tokens, patchify
from nnunet_topomae.topology import Diagrams, PendingLoss

BRANCHES = CoPretrainingOutput._fields
Outputs = Mapping[str, BranchOutput]  # by branch, in float32; the ViT alone in the steps that it takes alone


@dataclass(frozen=True)
class Target:
    """What a batch of crops asks of the networks.

    Attributes:
        image: [B, C, D, H, W], what is to be reconstructed.
        points: [B, 9, 3], where the crops lie (`from_centre` of `pretext/position.py`).
        masks: [B, V, N] bool on the host, True where the networks see nothing, for each mask of a crop (view).
        hidden: [B, V, K], the tokens that these hide, where the image lies.
        geometry: of the tokens.
        diagrams: of the images, under way; None: topology is left out.
        pending: topological losses that have been begun, by branch.
    """

    image: torch.Tensor
    points: torch.Tensor
    masks: torch.Tensor
    hidden: torch.Tensor
    geometry: Geometry
    diagrams: list[Future[Diagrams]] | None = None
    pending: dict[str, PendingLoss] = field(default_factory=dict)

    def tokens(self, views: int) -> torch.Tensor:
        """[B, views, K, C·d·h·w], what the first masks hide."""
        return gather_tokens(patchify(self.image, self.geometry.token_size)[:, None], self.hidden[:, :views])

    def completed(self, output: BranchOutput) -> torch.Tensor:
        """[B, C, D, H, W], the images with what a network says that the first mask hides."""
        return completed(self.image, output.tokens[:, :1], self.hidden, self.geometry)[:, 0]


class Term(ABC):
    """A term of the loss.

    Attributes:
        name: its weight is the knob `weight_<name>`.
        curves: the names under which its values are logged.
    """

    name: ClassVar[str]
    curves: ClassVar[tuple[str, ...]]

    def __init__(self, config: TopoMAEConfig, geometry: Geometry) -> None:
        self.weight: float = getattr(config, f"weight_{self.name}")

    @abstractmethod
    def __call__(self, branch: str, outputs: Outputs, target: Target) -> dict[str, torch.Tensor]:
        """What the network `branch` is to learn from, scalars without the weight, by curve; nothing where it cannot be
        computed of these networks. The answer of the other one is taken as it is."""


class BranchTerm(Term):
    """One value a network."""

    def __init_subclass__(cls) -> None:
        cls.curves = tuple(f"{cls.name}_{branch}" for branch in BRANCHES)

    def __call__(self, branch: str, outputs: Outputs, target: Target) -> dict[str, torch.Tensor]:
        return {f"{self.name}_{branch}": self.of_branch(branch, outputs[branch], target)}

    @abstractmethod
    def of_branch(self, branch: str, output: BranchOutput, target: Target) -> torch.Tensor:
        """The value of the network `branch`, a scalar."""


class JointTerm(Term):
    """One value for both networks together, by what each says of the first view, which they share."""

    def __init_subclass__(cls) -> None:
        cls.curves = (cls.name,)

    def __call__(self, branch: str, outputs: Outputs, target: Target) -> dict[str, torch.Tensor]:
        if len(outputs) < len(BRANCHES):
            return {}
        (other,) = (BranchOutput(*map(torch.Tensor.detach, outputs[name])) for name in BRANCHES if name != branch)
        return {self.name: self.of_both(outputs[branch], other, target)}

    @abstractmethod
    def of_both(self, output: BranchOutput, other: BranchOutput, target: Target) -> torch.Tensor:
        """The value, a scalar, whichever network the first is; its gradient flows to that one alone."""
