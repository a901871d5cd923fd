"""What there is to know of a checkpoint: its weights, the training that it comes from, and what kind it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from safetensors import SafetensorError
from safetensors.torch import load_file

from nnunet_topomae.checkpoint_files import read_restricted
from nnunet_topomae.config import PLANS_SECTION
from nnunet_topomae.files import read_json
from nnunet_topomae.hub import DESCRIPTION, VIT
from nnunet_topomae.networks.copretrain import VIT_ENCODER, is_pretraining
from nnunet_topomae.networks.foreign import as_pretraining
from nnunet_topomae.planning.plans_file import Plans, configuration_of
from nnunet_topomae.training.cases_seen import CasesSeen, recorded_cases
from nnunet_topomae.training.provenance import Provenance, recorded_provenance

IN_ORDER = (0, 1, 2)
ADAPTATION_PLAN = "nnssl_adaptation_plan"
WANTED = (
    "not a checkpoint of TopoMAEPretrainer, which is wanted here, such as "
    "TopoMAEPretrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth"
)


@dataclass(frozen=True)
class Origin:
    """The training that a checkpoint comes from.

    Attributes:
        plans: of nnU-Net, with the knobs of that training in their `topomae` section.
        configuration_name, fold: as in nnU-Net's command.
    """

    plans: Plans
    configuration_name: str
    fold: int | str

    @property
    def configuration(self) -> ConfigurationManager:
        return configuration_of(self.plans, self.configuration_name)

    @property
    def image_channels(self) -> int | None:
        """Without those of a cascade's previous stage; None where it is not said."""
        schemes = self.configuration.configuration.get("normalization_schemes")
        return len(schemes) if schemes else None

    @property
    def transpose_forward(self) -> Sequence[int]:
        """The axes of an image file in the order in which a network sees them."""
        return self.plans.get("transpose_forward", IN_ORDER)

    def differences(self, plans: Plans, configuration: ConfigurationManager) -> list[str]:
        """What that training's images had otherwise than those of `configuration`."""
        before, now = (
            _facts(own, configuration.configuration)
            for own, configuration in ((self.plans, self.configuration), (plans, configuration))
        )
        return [
            f"{name}: {before[name]} in pre-training, {now[name]} here"
            for name in before
            if before[name] != now[name] and before[name] is not None
        ]


def _facts(plans: Plans, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What images are like as a network sees them; None for what is not said."""
    schemes, spacing, patch = (configuration.get(key) for key in ("normalization_schemes", "spacing", "patch_size"))
    return {
        "order of axes (weights follow it)": list(plans.get("transpose_forward", IN_ORDER)),
        "image reader": plans.get("image_reader_writer"),
        "dataset": plans.get("dataset_name"),
        "spacing in mm": spacing and [round(float(edge), 3) for edge in spacing],
        "normalisation": schemes and ", ".join(sorted(set(schemes))),
        "channels": schemes and len(schemes),
        "patch": patch and [int(edge) for edge in patch],
    }


@dataclass(frozen=True)
class Checkpoint:
    """What one needs to know to go on from a checkpoint, or to export it.

    Attributes:
        weights: the network's state dict, on the CPU.
        origin: None where the file holds weights alone.
        cases_seen: that the weights have been trained on (`training/cases_seen.py`); None where that is not recorded.
        kind: what it is, for a message.
        encoder_only: whether its decoder belongs to another kind of network (SparK, NoSkip of nnssl).
        patch_size: that it is meant to be used with, where it says so.
        provenance: the weights that it comes from itself (`training/provenance.py`).
    """

    weights: dict[str, torch.Tensor]
    origin: Origin | None
    cases_seen: CasesSeen | None
    kind: str
    encoder_only: bool = False
    patch_size: Sequence[int] | None = None
    provenance: Provenance = field(default_factory=list)

    @property
    def has_vit(self) -> bool:
        """Whether a ViT of ours is in it: of a pre-training, or of a fine-tuning."""
        return any(name.startswith("vit.") for name in self.weights)

    def as_pretraining(self, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
        """The weights for a network that looks for these names (`networks/foreign.py`). Raises ValueError."""
        return as_pretraining(self.weights, wanted, self.encoder_only)


def read_checkpoint(file: str | Path) -> Checkpoint:
    """Read weights of a nnU-Net trainer, of nnssl, or exported by us, without running code that may hide in the file.

    Raises:
        OSError: there is no such file, or no right to read it.
        ValueError: the file holds no weights, or objects that the restricted reader refuses.
    """
    content = _read_safetensors(Path(file)) if Path(file).suffix == ".safetensors" else read_restricted(file)
    candidates = [content.get("network_weights"), content, *content.values()] if isinstance(content, dict) else []
    weights = next(filter(_is_state_dict, candidates), None)
    if weights is None:
        raise ValueError(f"{file} holds no 'network_weights': it was not written by a nnU-Net trainer")
    plan = content.get(ADAPTATION_PLAN) or {}
    origin = _origin(content.get("init_args")) or _nnssl_origin(plan)
    described = f"{content.get('trainer_name')} {plan.get('architecture_plans')}"
    encoder_only = "spark_weights" in content or re.search("spark|noskip", described, re.IGNORECASE) is not None
    patch_size = plan.get("recommended_downstream_patchsize")
    cases, provenance, kind = recorded_cases(content), recorded_provenance(content), _kind(content, weights)
    return Checkpoint(weights, origin, cases, kind, encoder_only, patch_size, provenance)


def _is_state_dict(content: Any) -> TypeGuard[dict[str, torch.Tensor]]:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(weight, torch.Tensor) for weight in content.values())
    )


def _read_safetensors(file: Path) -> dict[str, Any]:
    """In the layout of a checkpoint, with the ViT and the `encoders.json` that lie beside an exported network."""
    try:
        content: dict[str, Any] = {"network_weights": load_file(file)}
        if (vit := file.with_name(VIT)).is_file() and vit != file:
            content["network_weights"] |= {f"{VIT_ENCODER}{name}": weight for name, weight in load_file(vit).items()}
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from None
    if (description := file.with_name(DESCRIPTION)).is_file():
        try:
            content |= _exported(read_json(description))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{description} is not what export-encoder writes: {error!r}") from error
    return content


def _exported(description: Mapping[str, Any]) -> dict[str, Any]:
    """What `export.describe_encoders` writes, as a checkpoint says it."""
    pretraining, images = description["pretraining"], description["images"]
    configuration = {
        "spacing": images["spacing_mm"],
        "normalization_schemes": [channel["scheme"] for channel in images["normalisation"]],
        "patch_size": description["geometry"]["patch_size"],
        "architecture": {},
    }
    plans = {
        "dataset_name": pretraining["dataset"],
        "plans_name": pretraining["plans"],
        "transpose_forward": images["transpose_forward"],
        PLANS_SECTION: {"partner": description["partner"]["kind"]},
        "configurations": {pretraining["configuration"]: configuration},
    }
    init_args = {"plans": plans, "configuration": pretraining["configuration"], "fold": pretraining["fold"]}
    past = {name: pretraining.get(name) for name in ("cases_seen", "provenance")}
    return {"init_args": init_args, "trainer_name": "export-encoder", **past}


def read_pretraining(file: str | Path) -> Checkpoint:
    """As `read_checkpoint`, of a checkpoint of TopoMAEPretrainer. Raises ValueError that says what another one is."""
    if Path(file).suffix == ".safetensors":
        raise ValueError(f"{file} holds one network, as nnunet-topomae export-encoder writes it, {WANTED}")
    checkpoint = read_checkpoint(file)  # known by its weights: a subclass of its trainer has another name
    if not is_pretraining(checkpoint.weights):
        raise ValueError(f"{file} is {checkpoint.kind}, {WANTED}")
    return checkpoint


def _origin(init_args: Any) -> Origin | None:
    try:
        return Origin(init_args["plans"], init_args["configuration"], init_args["fold"])
    except (KeyError, TypeError):
        return None


def _nnssl_origin(adaptation_plan: Mapping[str, Any]) -> Origin | None:
    """Of nnssl's plan, whose one configuration names no architecture."""
    try:
        plans = adaptation_plan["pretrain_plan"]
        (name, configuration), *_ = plans["configurations"].items()
        return Origin({**plans, "configurations": {name: {**configuration, "architecture": {}}}}, name, "all")
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _kind(content: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> str:
    if ADAPTATION_PLAN in content:
        return "a checkpoint in the layout of nnssl, with one network"
    if isinstance(content.get("trainer_name"), str):
        return f"a checkpoint of {content['trainer_name']}"
    return f"a checkpoint of another network, with weights named {', '.join(list(weights)[:3])}"
