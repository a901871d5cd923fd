"""Reading nnU-Net's checkpoints."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunet_topomae.planning.plans_file import Plans, configuration_of


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

    def differences(self, plans: Plans, configuration: ConfigurationManager) -> list[str]:
        """What that training's images had otherwise than those of `configuration`, and no weight's shape shows."""
        pairs = {
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
    """

    weights: dict[str, torch.Tensor]
    origin: Origin | None


def read_checkpoint(file: str | Path) -> Checkpoint:
    """Read a checkpoint of a nnU-Net trainer without running code that may hide in it.

    A checkpoint is a pickle, and unpickling can run anything; here PyTorch's restricted reader is used.

    Raises:
        OSError: there is no such file, or no right to read it.
        ValueError: the file is no checkpoint, or holds objects that the restricted reader refuses.
    """
    with open(file, "rb") as stream:
        try:
            content: Any = torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in as many ways as a zip or a pickle has parts
            raise ValueError(f"{file} cannot be read as a checkpoint: {_reason(error)}") from None
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise ValueError(f"{file} holds no 'network_weights': it was not written by a nnU-Net trainer")
    return Checkpoint(weights, _origin(content.get("init_args")))


def _reason(error: Exception) -> str:
    """What PyTorch objects to, without its advice to read the file without restrictions."""
    if not isinstance(error, pickle.UnpicklingError):
        return f"{type(error).__name__}: {error}"
    names = re.findall(r"GLOBAL (\S+)", str(error))
    return "it is damaged, or holds what could run a program when it is opened" + "".join(f" ({n})" for n in names[:1])


def _origin(init_args: Any) -> Origin | None:
    try:
        return Origin(init_args["plans"], init_args["configuration"], init_args["fold"])
    except (KeyError, TypeError):
        return None


def read_trusted_checkpoint(file: str | Path) -> dict[str, Any]:
    """All of a checkpoint that nnU-Net is about to load itself, or has: its pickle is trusted. Tensors stay on disk."""
    return torch.load(file, map_location="cpu", weights_only=False, mmap=True)


def weights_option(command: Sequence[str]) -> str | None:
    """What nnU-Net's option -pretrained_weights names on a command line (`sys.argv`): it tells a trainer only there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-p")  # else the plans' name would be read as the short form of the other
    parser.add_argument("-pretrained_weights")
    return parser.parse_known_args(command[1:])[0].pretrained_weights


def refuse_pretraining_checkpoint(checkpoint: str | Path) -> None:
    """Raises ValueError where -pretrained_weights, which takes a whole network, names one of TopoMAEPretrainer."""
    if read_trusted_checkpoint(checkpoint).get("trainer_name") == "TopoMAEPretrainer":
        raise ValueError(
            f"-pretrained_weights {checkpoint} is a checkpoint of TopoMAEPretrainer, which holds other networks than "
            f"TopoMAEFinetuner. To fine-tune it, leave the option out and set NNUNET_TOPOMAE_PRETRAINED={checkpoint}"
        )
