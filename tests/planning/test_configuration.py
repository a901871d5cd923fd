from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_topomae.planning.configuration import kernel_sizes, with_patch

spacings = st.tuples(*[st.floats(0.3, 8.0)] * 3)
patches = st.tuples(*[st.integers(8, 320)] * 3)


@given(spacing=spacings, patch=patches)
@settings(max_examples=200, deadline=None)
def test_kernels_for_the_strides_of_the_planner_are_those_of_the_planner(
    spacing: tuple[float, ...], patch: tuple[int, ...]
) -> None:
    _, strides, kernels, _, _ = get_pool_and_conv_props(spacing, patch, 4, 999999)
    assert kernel_sizes(spacing, strides) == [list(kernel) for kernel in kernels]


@pytest.mark.parametrize("architecture", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize(
    ("patch", "strides", "features"),
    [
        ([16, 32, 32], None, [32, 64, 128, 256]),
        ([16, 32, 32], [[1, 1, 1], *[[1, 2, 2]] * 2, *[[2, 2, 2]] * 3], [32, 64, 128, 256, 320, 320]),
    ],
)
def test_nnunet_builds_its_own_network_from_the_variant(
    planned: dict, architecture: str, patch: list[int], strides: list | None, features: list[int]
) -> None:
    unet = planned["architecture"]
    unet["network_class_name"] = f"dynamic_network_architectures.architectures.unet.{architecture}"
    if architecture == "ResidualEncoderUNet":
        unet["arch_kwargs"]["n_blocks_per_stage"] = unet["arch_kwargs"].pop("n_conv_per_stage")
    new = with_patch(planned, patch, strides)
    kwargs = new["architecture"]["arch_kwargs"]
    assert kwargs["features_per_stage"] == features and kwargs["n_stages"] == len(features)
    names, imports = new["architecture"]["network_class_name"], new["architecture"]["_kw_requires_import"]
    with torch.device("meta"):
        network = get_network_from_plans(names, kwargs, imports, 1, 3, allow_init=False, deep_supervision=False)
        assert network(torch.zeros(1, 1, *patch)).shape == (1, 3, *patch)


def test_spacing_rescales_the_median_image_and_the_original_is_left_alone(planned: dict) -> None:
    before = deepcopy(planned)
    new = with_patch(planned, [32, 64, 64], spacing=[2.0, 1.0, 0.5])
    assert new["median_image_size_in_voxels"] == [50.0, 120.0, 240.0] and new["spacing"] == [2.0, 1.0, 0.5]
    assert planned == before


def test_strides_must_divide_the_patch(planned: dict) -> None:
    with pytest.raises(ValueError, match=r"patch \[40, 64, 64\] is not a multiple of its total strides \[16, 16, 16\]"):
        with_patch(planned, [40, 64, 64], [[1, 1, 1]] + [[2, 2, 2]] * 4)
    divisors = np.prod(with_patch(planned, [40, 64, 64])["architecture"]["arch_kwargs"]["strides"], axis=0)
    assert divisors.tolist() == [8, 16, 16]
