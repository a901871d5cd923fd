"""One configuration of a plan with another patch size, spacing or pooling, still valid for nnU-Net's own trainers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from nnunet_topomae.private_names import pool_and_conv_props

MIN_FEATURE_MAP_EDGE = 4  # these three are nnU-Net's: ExperimentPlanner keeps them in its instances only
MAX_FEATURES = 320
MAX_POOLINGS = 999999

Configuration = dict[str, Any]
Strides = Sequence[Sequence[int]]


def pooling(spacing: Sequence[float], patch_size: Sequence[int]) -> tuple[Strides, tuple[int, ...], np.ndarray]:
    """nnU-Net's strides for a patch, the patch padded to what they divide, and these divisors per axis."""
    strides, padded, divisors = pool_and_conv_props(spacing, patch_size, MIN_FEATURE_MAP_EDGE, MAX_POOLINGS)
    return strides, tuple(int(size) for size in padded), divisors


def kernel_sizes(spacing: Sequence[float], strides: Strides) -> list[list[int]]:
    """Kernels of a U-Net with these strides: 1 on an axis until its spacing is within twice the finest, then 3.

    The rule of nnU-Net's planner, for strides that need not be its own.
    """
    kernels, kernel, current = [], np.ones(len(spacing), int), np.array(spacing, float)
    for stride in strides:
        current = current * stride
        kernel = np.where(current / current.min() < 2, 3, kernel)
        kernels.append(kernel.tolist())
    return [*kernels[:-1], [3] * len(spacing)]


def with_patch(
    configuration: Configuration,
    patch_size: Sequence[int],
    strides: Strides | None = None,
    spacing: Sequence[float] | None = None,
) -> Configuration:
    """A copy with this patch; the strides default to nnU-Net's for it, the spacing to the configuration's own.

    The U-Net in the plan gets as many stages as there are strides. `data_identifier` stays as it is: the caller
    changes it when the spacing, and with it the preprocessed data, is another.

    Raises:
        ValueError: the strides do not divide the patch.
    """
    new = deepcopy(configuration)
    patch_size = [int(size) for size in patch_size]
    if spacing is not None:
        zoom = np.array(configuration["spacing"]) / np.array(spacing)
        new["median_image_size_in_voxels"] = (np.array(configuration["median_image_size_in_voxels"]) * zoom).tolist()
        new["spacing"] = [float(size) for size in spacing]
    strides = [list(map(int, stride)) for stride in strides or pooling(new["spacing"], patch_size)[0]]
    divisors = np.prod(strides, axis=0)
    if np.any(np.array(patch_size) % divisors):
        raise ValueError(f"patch {patch_size} is not a multiple of its total strides {divisors.tolist()} on every axis")
    new["patch_size"] = patch_size
    _resize_unet(new["architecture"]["arch_kwargs"], strides, kernel_sizes(new["spacing"], strides))
    return new


def _resize_unet(arch_kwargs: dict[str, Any], strides: Strides, kernels: list[list[int]]) -> None:
    stages = len(strides)
    if stages != arch_kwargs["n_stages"]:
        first, *_ = features = arch_kwargs["features_per_stage"]
        widest = max(MAX_FEATURES, *features)
        arch_kwargs["features_per_stage"] = [min(widest, first * 2**stage) for stage in range(stages)]
    for key, length in (
        ("n_conv_per_stage", stages),
        ("n_blocks_per_stage", stages),
        ("n_conv_per_stage_decoder", stages - 1),
    ):
        if key in arch_kwargs:
            given = list(arch_kwargs[key])
            arch_kwargs[key] = (given + given[-1:] * length)[:length]
    arch_kwargs |= {"n_stages": stages, "strides": strides, "kernel_sizes": kernels}
