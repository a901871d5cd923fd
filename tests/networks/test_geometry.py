import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunet_topomae.networks import Geometry, geometry_from_plan
from nnunet_topomae.networks.geometry import cumulative, grid, strides_from_plan


def plan(patch_size, spacing=(1, 1, 1)):
    """Patch and pooling as nnU-Net's planner chooses them."""
    _, pool_op_kernel_sizes, _, patch_size, _ = get_pool_and_conv_props(spacing, patch_size, 4, 999999)
    return tuple(int(size) for size in patch_size), pool_op_kernel_sizes


@pytest.mark.parametrize(
    ("patch_size", "spacing", "stem", "token_size", "token_grid", "bottleneck"),
    [
        # Hippocampus
        ((40, 56, 40), (1, 1, 1), (2, 2, 2), (8, 8, 8), (5, 7, 5), (5, 7, 5)),
        ((32, 32, 32), (1, 1, 1), (2, 2, 2), (8, 8, 8), (4, 4, 4), (4, 4, 4)),
        ((16, 16, 16), (1, 1, 1), (2, 2, 2), (4, 4, 4), (4, 4, 4), (4, 4, 4)),
        # Synapse has the published stem, whether its slices are thick or not
        ((64, 128, 128), (2.5, 0.8, 0.8), (2, 4, 4), (8, 16, 16), (8, 8, 8), (4, 4, 4)),
        ((64, 128, 128), (1, 1, 1), (2, 4, 4), (8, 16, 16), (8, 8, 8), (4, 4, 4)),
        # BraTS has the published stem
        ((128, 128, 128), (1, 1, 1), (4, 4, 4), (16, 16, 16), (8, 8, 8), (4, 4, 4)),
        ((96, 160, 160), (1, 0.8, 0.8), (2, 4, 4), (8, 16, 16), (12, 10, 10), (6, 5, 5)),
        # ACDC has the published stem
        ((16, 160, 160), (6.35, 1.52, 1.52), (1, 4, 4), (4, 16, 16), (4, 10, 10), (4, 5, 5)),
        # Thick slices keep their resolution while the others are halved: tokens about as long as wide in mm
        ((20, 256, 224), (5, 1.56, 1.56), (1, 4, 4), (4, 16, 16), (5, 16, 14), (5, 8, 7)),
        ((20, 256, 224), (10, 1.25, 1.25), (1, 4, 4), (2, 16, 16), (10, 16, 14), (5, 8, 7)),
        ((28, 256, 256), (3, 0.8, 0.8), (1, 4, 4), (4, 16, 16), (7, 16, 16), (7, 8, 8)),
        ((48, 192, 192), (3, 0.76, 0.76), (1, 4, 4), (4, 16, 16), (12, 12, 12), (6, 6, 6)),
        ((14, 320, 320), (10, 0.6, 0.6), (1, 4, 4), (1, 16, 16), (14, 20, 20), (7, 10, 10)),
        ((320, 320, 14), (0.6, 0.6, 10), (4, 4, 1), (16, 16, 1), (20, 20, 14), (10, 10, 7)),
        ((8, 256, 256), (8, 0.8, 0.8), (1, 4, 4), (2, 16, 16), (4, 16, 16), (4, 8, 8)),
    ],
)
def test_geometry_of_realistic_plans(patch_size, spacing, stem, token_size, token_grid, bottleneck):
    geometry = geometry_from_plan(*plan(patch_size, spacing))
    assert geometry == Geometry(patch_size, token_size)
    assert geometry.token_grid == token_grid and geometry.num_tokens == math.prod(token_grid)

    _, strides = strides_from_plan(*plan(patch_size, spacing))
    assert strides[0] == stem and grid(patch_size, cumulative(strides)[3]) == bottleneck


def test_three_halvings_leave_the_last_stage_without_a_stride():
    assert strides_from_plan(*plan((40, 56, 40)))[1] == ((2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1))


def test_six_halvings_use_five():
    _, strides = strides_from_plan((256, 256, 256), [(1, 1, 1)] + [(2, 2, 2)] * 6)
    assert strides == ((4, 4, 4), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def test_stride_of_four_counts_as_two_halvings():
    assert geometry_from_plan((64, 64, 64), [(1, 1, 1), (4, 4, 4), (2, 2, 2)]) == geometry_from_plan(
        (64, 64, 64), [(1, 1, 1)] + [(2, 2, 2)] * 3
    )


@settings(max_examples=200, deadline=None)
@given(
    patch_size=st.tuples(*[st.integers(24, 320)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 10)] * 3),
    order=st.permutations(range(3)),
)
def test_any_plan_gives_strides_that_turn_with_the_axes(patch_size, spacing, order):
    patch_size, strides = plan(patch_size, spacing)
    turned = [patch_size[a] for a in order], [[s[a] for a in order] for s in strides]
    _, ours = strides_from_plan(patch_size, strides)

    assert strides_from_plan(*turned)[1] == tuple(tuple(stride[a] for a in order) for stride in ours)
    for axis, total_stride in enumerate(cumulative(ours)[-1]):
        assert total_stride == min(math.prod(s[axis] for s in strides), 32)
    geometry = geometry_from_plan(patch_size, strides)
    assert geometry_from_plan(*turned).token_grid == tuple(geometry.token_grid[a] for a in order)


@pytest.mark.parametrize(
    ("patch_size", "strides", "message"),
    [
        ((256, 256), [(1, 1), (2, 2)], r"256×256 has 2 axes.*3d_fullres.*instead of 2d"),
        (
            (3, 256, 256),
            [(1, 1, 1)] + [(1, 2, 2)] * 6,
            r"3×256×256 is too small: its first axis has 3 voxels.*patch_size\[0\]",
        ),
        ((8, 8, 8), [(1, 1, 1), (2, 2, 2)], r"8×8×8 is too small.*no axis 2 times.*Enlarge patch_size\[0\]"),
        ((45, 48, 48), [(1, 1, 1), (3, 2, 2), (3, 2, 2)], r"stride 3 on the first axis.*powers of two"),
        ((40, 40.5, 40), [(1, 1, 1)] + [(2, 2, 2)] * 3, r"patch_size in the plans must hold integers.*not 40.5"),
        ((40, -40, 40), [(1, 1, 1)] + [(2, 2, 2)] * 3, r"integers from 1 to 65536, not -40"),
        ((40, "40", 40), [(1, 1, 1)] + [(2, 2, 2)] * 3, r"integers from 1 to 65536, not '40'"),
        ("40", [(1, 1, 1)] + [(2, 2, 2)] * 3, r"patch_size in the plans must be a list, not '40'"),
        ((40, 40, 40), [(1, 1, 1), (2, 2)], r"pool_op_kernel_sizes\[1\] .*must hold 3 numbers.*not \(2, 2\)"),
        ((40, 40, 40), [(1, 1, 1), (0, 2, 2)], r"pool_op_kernel_sizes\[1\] .*integers from 1 to 65536, not 0"),
        ((40, 40, 40), None, r"pool_op_kernel_sizes .strides. in the plans must be a list, not None"),
        ((40, 52, 40), [(1, 1, 1)] + [(2, 2, 2)] * 3, r"second axis of patch 40×52×40 has 52.*multiple of 8"),
    ],
)
def test_refuses_what_the_networks_cannot_take(patch_size, strides, message):
    with pytest.raises(ValueError, match=message):
        geometry_from_plan(patch_size, strides)


def test_geometry_checks_its_tokens_itself():
    with pytest.raises(ValueError, match="third axis"):
        Geometry((32, 32, 30), (4, 4, 4))
