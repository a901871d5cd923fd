"""What there is to know of a checkpoint: its weights, the training that it comes from, and what kind it is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunet_topomae.checkpoint_files import read_restricted, read_trusted_checkpoint
from nnunet_topomae.networks.copretrain import is_pretraining
from nnunet_topomae.planning.plans_file import Plans, configuration_of
from nnunet_topomae.training.cases_seen import CasesSeen, recorded_cases
from nnunet_topomae.training.provenance import Provenance, recorded_provenance

IN_ORDER = (0, 1, 2)
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
    def transpose_forward(self) -> Sequence[int]:
        """The axes of an image file in the order in which a network sees them."""
        return self.plans.get("transpose_forward", IN_ORDER)

    def differences(self, plans: Plans, configuration: ConfigurationManager) -> list[str]:
        """What that training's images had otherwise than those of `configuration`, and no weight's shape shows."""
        pairs = {
            "order of axes (weights follow it)": (
                list(self.transpose_forward),
                list(plans.get("transpose_forward", IN_ORDER)),
            ),
            "image reader": (self.plans.get("image_reader_writer"), plans.get("image_reader_writer")),
            "dataset": (self.plans.get("dataset_name"), plans["dataset_name"]),
            "spacing in mm": (_spacing(self.configuration), _spacing(configuration)),
            "normalisation": (_normalisation(self.configuration), _normalisation(configuration)),
        }
        return [
            f"{name}: {before} in pre-training, {now} here" for name, (before, now) in pairs.items() if before != now
        ]


def _spacing(configuration: ConfigurationManager) -> list[float]:
    return [round(float(edge), 3) for edge in configuration.spacing]


def _normalisation(configuration: ConfigurationManager) -> str:
    """The schemes that occur: how many channels have each, the adapted weights tell."""
    return ", ".join(sorted(set(configuration.normalization_schemes)))


@dataclass(frozen=True)
class Checkpoint:
    """What fine-tuning and export need of a checkpoint.

    Attributes:
        weights: the network's state dict, on the CPU.
        origin: None where the file holds weights alone.
        cases_seen: that the weights have been trained on (`training/cases_seen.py`); None where that is not recorded.
        kind: what it is, for a message.
        provenance: the weights that it comes from itself (`training/provenance.py`).
    """

    weights: dict[str, torch.Tensor]
    origin: Origin | None
    cases_seen: CasesSeen | None
    kind: str
    provenance: Provenance


def read_checkpoint(file: str | Path) -> Checkpoint:
    """Read a checkpoint of a nnU-Net trainer without running code that may hide in it.

    Raises:
        OSError: there is no such file, or no right to read it.
        ValueError: the file is no checkpoint, or holds objects that the restricted reader refuses.
    """
    content = read_restricted(file)
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise ValueError(f"{file} holds no 'network_weights': it was not written by a nnU-Net trainer")
    origin, provenance = _origin(content.get("init_args")), recorded_provenance(content)
    return Checkpoint(weights, origin, recorded_cases(content), _kind(content), provenance)


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


def _kind(content: Mapping[str, Any]) -> str:
    if "nnssl_adaptation_plan" in content:
        return "a checkpoint in the layout of nnssl, with one network"
    if isinstance(content.get("trainer_name"), str):
        return f"a checkpoint of {content['trainer_name']}"
    return f"a checkpoint of another network, with weights named {', '.join(list(content['network_weights'])[:3])}"


def refuse_pretraining_checkpoint(checkpoint: str | Path) -> None:
    """Raises ValueError where -pretrained_weights, which takes a whole network, names one of TopoMAEPretrainer."""
    if is_pretraining(read_trusted_checkpoint(checkpoint)["network_weights"]):
        quoted = shlex.quote(str(checkpoint))
        raise ValueError(
            f"-pretrained_weights {quoted} is a checkpoint of TopoMAEPretrainer, which holds other networks than "
            f"TopoMAEFinetuner. To fine-tune it, leave the option out and set NNUNET_TOPOMAE_PRETRAINED={quoted}"
        )
