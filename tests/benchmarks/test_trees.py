"""Trees whose label's topology is known exactly, and hidden from a threshold; and the arms that are trained on them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gudhi
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn

from nnunet_topomae.config import TopoMAEConfig, environment_name
from nnunet_topomae.topology import betti_matching_error

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "trainers")]
import few_labels  # noqa: E402
import vessel_splits  # noqa: E402
from SoftClDiceFinetuner import ClDiceLoss  # noqa: E402
from trees import STEP, Case, draw_case, write_dataset  # noqa: E402


@pytest.fixture(scope="module", params=range(2))
def case(request: pytest.FixtureRequest) -> Case:
    return draw_case(np.random.default_rng(request.param))


@pytest.mark.parametrize("voxels_are", ["vertices", "top_dimensional_cells"])
def test_the_label_is_one_piece_with_the_loops_that_were_put_in(case: Case, voxels_are: str) -> None:
    complex_ = gudhi.CubicalComplex(**{voxels_are: 1.0 - case.label})
    complex_.compute_persistence()
    assert complex_.persistent_betti_numbers(0, 0.5)[:3] == list(case.betti_numbers)
    assert case.betti_numbers[0] == 1 and case.betti_numbers[1] >= 2 and case.betti_numbers[2] == 0


def test_branches_taper(case: Case) -> None:
    trunk, *branches = case.tubes
    assert all((np.diff(tube.radii) <= 0).all() for tube in (trunk, *branches[:8]))
    assert trunk.radii[0] > 1.5 * trunk.radii[-1] > 2 * min(tube.radii.min() for tube in branches)
    for tube in case.tubes:
        assert np.linalg.norm(np.diff(tube.points, axis=0), axis=1).max() < 3 * STEP


def test_contrast_drops_out_where_the_label_goes_on(case: Case) -> None:
    inside = case.label == 1
    dark, bright = inside & (case.contrast < 0.4), inside & (case.contrast == 1)
    assert 0.05 < dark.sum() / inside.sum() < 0.4
    background = np.median(case.image[~inside])
    assert np.median(case.image[dark]) - background < (np.median(case.image[bright]) - background) / 2


def test_a_threshold_breaks_the_tree(case: Case) -> None:
    """The best of all by Dice."""
    inside = case.label == 1
    masks = [case.image > np.quantile(case.image, share) for share in np.linspace(0.9, 0.995, 20)]
    best = max(masks, key=lambda mask: (mask & inside).sum() / (mask.sum() + inside.sum()))
    assert sum(betti_matching_error(best, inside)) > 20 * sum(case.betti_numbers)


def test_the_data_set_is_nnunets_and_its_seed_decides(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("again", 0), ("other", 1)):
        write_dataset(tmp_path / folder, 4, seed)
    a, again, other = (
        [sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in sorted((tmp_path / folder).glob("*/*.nii.gz"))]
        for folder in ("a", "again", "other")
    )
    assert len(a) == 8 and all(map(np.array_equal, a, again)) and not any(map(np.array_equal, a, other))
    splits = json.loads((tmp_path / "a" / "few_label_splits.json").read_text())
    names = [f"tree_{number:03d}" for number in range(4)]
    assert splits == {"2": {"labelled": names[:2], "unlabelled": [], "val": names[2:]}}
    assert list(json.loads((tmp_path / "a" / "betti_numbers.json").read_text())) == names


def test_vessels_are_split_by_animal(shared_data: Path) -> None:
    stacks = json.loads((shared_data / "Dataset020_Vessels" / "stacks.json").read_text())
    for split in vessel_splits.splits_by_animal(stacks, set(vessel_splits.VALIDATION)).values():
        train, val = (
            {case[:-2] for case in cases} for cases in (split["labelled"] + split["unlabelled"], split["val"])
        )
        assert val == set(vessel_splits.VALIDATION) and train | val == set(stacks) and not train & val
    assert len({case[:-2] for case in split["labelled"]}) == 4
    with pytest.raises(ValueError, match="one animal"):
        vessel_splits.splits_by_animal(stacks, {vessel_splits.ONE_ANIMAL[0]})


@pytest.mark.parametrize("name", few_labels.ARMS)
def test_the_knobs_of_each_arm_are_valid(name: str) -> None:
    arm = few_labels.ARMS[name]
    for knobs in (arm.knobs, few_labels.PRETRAININGS[arm.pretraining or "full"]):
        TopoMAEConfig.resolve({}, {environment_name(knob): str(value) for knob, value in knobs.items()})


def test_soft_cldice_pulls_where_the_tree_is_broken() -> None:
    pytest.importorskip("monai")
    label = torch.zeros(1, 1, 12, 12, 12)
    label[..., 4:7, 4:7, :] = 1
    output = torch.stack([torch.zeros_like(label[0]), 8 * label[0] - 4], dim=1)
    output[..., 5:7] = output.new_tensor([0.0, -1.0]).view(1, 2, 1, 1, 1)
    output.requires_grad_()
    loss = ClDiceLoss(_Nothing(), LabelManager({"background": 0, "vessel": 1}, None))([output], [label])
    loss.backward()
    assert 0 < loss.item() < 1 and output.grad[0, 1, 5, 5, 5] < 0


class _Nothing(nn.Module):
    """In the place of nnU-Net's loss."""

    def forward(self, output: object, target: object) -> torch.Tensor:
        return torch.zeros(())
