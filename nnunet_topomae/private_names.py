"""Names of nnU-Net and batchgeneratorsv2 that are nobody's interface, and may move with any release.

All are met here, so that a release that moves one is an error here, which names the versions, and not a silent change
of what is trained. Each function says what breaks without its name. Read in the versions of `TESTED`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners import network_topology
from packaging.version import Version

if TYPE_CHECKING:  # plans are read without PyTorch
    from torch import nn

# Oldest and newest release that the tests have passed on. pyproject.toml allows these, and those between.
TESTED = {"nnunetv2": ("2.8.0", "2.8.1"), "batchgeneratorsv2": ("0.3.4", "0.3.6")}


class MovedNameError(RuntimeError):
    """A release has moved a name that this package needs."""

    def __init__(self, name: str, need: str) -> None:
        super().__init__(
            f"{name} is not where it was, and is needed for {need}. Installed: "
            + ", ".join(f"{package} {version(package)}" for package in TESTED)
            + f"; {_tested()}. Install tested versions, or a newer nnunet-topomae"
        )


def untested_versions() -> str | None:
    """Which installed version is newer than those tested; None if none is.

    Raises:
        RuntimeError: one is older.
    """
    newer = []
    for package, (oldest, newest) in TESTED.items():
        installed = Version(version(package))
        if installed < Version(oldest):
            raise RuntimeError(f"{package} {installed} is too old ({_tested()}): pip install '{package}>={oldest}'")
        if installed > Version(newest):
            newer.append(f"{package} {installed}")
    return f"{' and '.join(newer)}: not tested with this package; {_tested()}" if newer else None


def _tested() -> str:
    return "tested: " + ", ".join(f"{package} {oldest} to {newest}" for package, (oldest, newest) in TESTED.items())


# ------------------------------------------------------------------------------------------------ batchgeneratorsv2


def drawn_motion(params: Mapping[str, Any]) -> tuple[np.ndarray | None, Sequence[float]]:
    """What a `SpatialTransform` has drawn: the linear map [axes, axes] in voxels, None where it only crops; the centre.

    Without it the nine points would not move with the crop. 0.3.2 and 0.3.3 apply the transpose of what they report.
    """
    try:
        return (None if params["grid"] is None else params["affine"]), params["center_location_in_pixels"]
    except KeyError as error:
        raise MovedNameError(f"parameter {error} of batchgeneratorsv2's SpatialTransform", "the nine points") from None


def gaussian_weights(sigma: float, width: float) -> list[float]:
    """Of batchgeneratorsv2's blur, `width` standard deviations from end to end. Without them ours would differ."""
    from batchgeneratorsv2.transforms.noise import gaussian_blur

    if not hasattr(gaussian_blur, "_build_kernel"):
        raise MovedNameError("_build_kernel of batchgeneratorsv2's Gaussian blur", "augmentation on the device")
    return gaussian_blur._build_kernel(sigma, truncate=width).tolist()


# ------------------------------------------------------------------------------------------------ nnU-Net


def curves(logger: Any) -> dict[str, list[Any]]:
    """Of nnU-Net's logger, by name; they are stored in checkpoints. Without them our terms cannot be logged."""
    try:
        return logger.local_logger.my_fantastic_logging
    except AttributeError:
        raise MovedNameError("local_logger.my_fantastic_logging of nnU-Net's MetaLogger", "curves") from None


def init_args(trainer: Any) -> dict[str, Any]:
    """What a trainer stores as `init_args` in its checkpoints. Without it a checkpoint cannot tell what it has seen."""
    try:
        return trainer.my_init_kwargs
    except AttributeError:
        raise MovedNameError("nnUNetTrainer.my_init_kwargs of nnU-Net", "the record of cases in checkpoints") from None


def wrap_networks_in(wrapper: type[nn.Module]) -> None:
    """Makes nnU-Net's trainers use another class than DDP. Without it they train on the GPUs of one machine only."""
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

    if not hasattr(trainer_module, "DDP"):
        raise MovedNameError("DDP in nnunetv2.training.nnUNetTrainer.nnUNetTrainer", "training on several machines")
    trainer_module.DDP = wrapper


def set_deep_supervision_weights(loss: Any, weights: Sequence[float]) -> None:
    """Of nnU-Net's `DeepSupervisionWrapper`. Without them the outputs would be weighted as nnU-Net's U-Net's are."""
    if not hasattr(loss, "weight_factors"):
        raise MovedNameError("DeepSupervisionWrapper.weight_factors of nnU-Net", "deep supervision as in UNETR++")
    loss.weight_factors = tuple(weights)


def named_weights(command: Sequence[str]) -> str | None:
    """What the option -pretrained_weights of nnUNetv2_train names in `sys.argv`: a trainer is not told otherwise.

    Without it a fine-tuning that was given a whole network would look for a pre-training too.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-p")  # else the plans' name would be read as the short form of the other
    parser.add_argument("-pretrained_weights")
    return parser.parse_known_args(command[1:])[0].pretrained_weights


def load_named_weights_by(load: Callable[[], None]) -> None:
    """Makes nnU-Net call this once instead of its own function for -pretrained_weights. Without it the option would
    take networks of the same shape alone, and run code that may hide in its file.
    """
    from nnunetv2.run import run_training

    if not hasattr(run_training, "load_pretrained_weights"):
        raise MovedNameError("load_pretrained_weights in nnunetv2.run.run_training", "the option -pretrained_weights")
    theirs = run_training.load_pretrained_weights

    def once(*arguments: Any, **options: Any) -> None:
        run_training.load_pretrained_weights = theirs
        load()

    run_training.load_pretrained_weights = once


def pool_and_conv_props(
    spacing: Sequence[float], patch_size: Sequence[int], min_feature_map_edge: int, max_poolings: int
) -> tuple[Sequence[Sequence[int]], Sequence[int], np.ndarray]:
    """nnU-Net's strides for a patch, the patch padded to what they divide, their product per axis.

    Without it no plan can be made for another patch.
    """
    function = getattr(network_topology, "get_pool_and_conv_props", None)
    result = function and function(spacing, patch_size, min_feature_map_edge, max_poolings)
    if result is None or len(result) != 5:
        raise MovedNameError("get_pool_and_conv_props of nnU-Net", "plans for another patch")
    _, strides, _, padded, divisors = result
    return strides, padded, divisors
