from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from nnunet_topomae.config import ConfigError
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.partners import Partner
from nnunet_topomae.networks.summary import NetworkSummary
from nnunet_topomae.planning import memory
from nnunet_topomae.planning.memory import GIB, USABLE_MEMORY, fit_plans, largest_batch

MIB = 2**20


@pytest.fixture(autouse=True)
def simple_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks whose memory is known: 1 GiB, and 1000 bytes a voxel in pre-training, 2000 in fine-tuning."""

    def cost(bytes_per_voxel: int):  # noqa: ANN202
        def summarise(*arguments: object) -> NetworkSummary:
            (geometry,) = (argument for argument in arguments if isinstance(argument, Geometry))
            return NetworkSummary(0, 0, GIB, bytes_per_voxel * int(np.prod(geometry.patch_size)))

        return summarise

    monkeypatch.setattr(memory, "summarise_pretraining", cost(1000))
    monkeypatch.setattr(memory, "summarise_finetuning", cost(2000))


def card(crops: float, patch: tuple[int, ...]) -> float:
    """GiB of a card with room for so many crops in fine-tuning, the dearer phase."""
    return (GIB + crops * 2000 * np.prod(patch)) / USABLE_MEMORY / GIB


def test_the_batch_fits_the_dearer_phase_and_leaves_a_margin() -> None:
    phases = [NetworkSummary(0, 0, 10 * MIB, MIB), NetworkSummary(0, 0, 0, 2 * MIB)]
    assert largest_batch(phases, 100 / USABLE_MEMORY / 1024) == 50
    assert largest_batch(phases, 20 / USABLE_MEMORY / 1024) == 10
    assert largest_batch(phases, 9 / USABLE_MEMORY / 1024) == 0


def test_a_patch_that_fits_stays_and_the_batch_grows(plans: dict, dataset_json: dict) -> None:
    new = fit_plans(plans, dataset_json, card(5.5, (64, 64, 64)), "mine", "small")
    before, after = plans["configurations"]["3d_fullres"], new["configurations"]["3d_fullres"]
    assert after == before | {"batch_size": 5}
    assert new["plans_name"] == "mine" and new["topomae"] == {"preset": "small"}
    assert new["configurations"]["2d"] == plans["configurations"]["2d"]
    assert "topomae" not in plans, "the original plans are left alone"


def test_no_batch_covers_more_than_a_twentieth_of_the_dataset(plans: dict, dataset_json: dict) -> None:
    voxels = 100 * 120 * 120
    dataset_json["numTraining"] = 20 * 3 * 64**3 // voxels + 1
    new = fit_plans(plans, dataset_json, card(100, (64, 64, 64)), "mine", "base")
    assert new["configurations"]["3d_fullres"]["batch_size"] == 3
    dataset_json["numTraining"] = 1
    new = fit_plans(plans, dataset_json, card(100, (64, 64, 64)), "mine", "base")
    assert new["configurations"]["3d_fullres"]["batch_size"] == 2, "nnU-Net's smallest"


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.76, 0.76), (1.2, 0.8, 0.7)])
@pytest.mark.parametrize("part", [0.9, 0.4, 0.1, 0.04])
def test_a_patch_that_does_not_fit_shrinks_as_in_the_planner_of_nnunet(
    plans: dict, dataset_json: dict, spacing: tuple[float, ...], part: float
) -> None:
    median = np.array([150, 400, 380])
    large = planner_of_nnunet(spacing, median, 1e12)
    limit = part * np.prod(large["patch_size"])
    expected = planner_of_nnunet(spacing, median, limit)

    plans["configurations"]["3d_fullres"] |= large
    new = fit_plans(plans, dataset_json, card(2, (limit,)), "mine", "base")["configurations"]["3d_fullres"]
    assert new["patch_size"] == list(expected["patch_size"]) and new["batch_size"] == 2
    for key in ("strides", "kernel_sizes", "features_per_stage", "n_conv_per_stage", "n_conv_per_stage_decoder"):
        ours, theirs = (plan["architecture"]["arch_kwargs"][key] for plan in (new, expected))
        assert np.array_equal(ours, theirs), key


def test_the_plans_own_network_is_measured_at_every_patch_that_is_tried(
    plans: dict, dataset_json: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def summarise(channels: int, geometry: Geometry, vit: object, partner: Partner, *rest: object) -> NetworkSummary:
        tried.append((geometry.patch_size, tuple(partner.stage_grids)))
        return NetworkSummary(0, 0, GIB, 1000 * int(np.prod(geometry.patch_size)))

    monkeypatch.setattr(memory, "summarise_pretraining", summarise)
    patch = plans["configurations"]["3d_fullres"]["patch_size"]
    new = fit_plans(plans, dataset_json, card(1, patch), "mine", "base", partner="plan")
    assert new["topomae"] == {"preset": "base", "partner": "plan"}
    assert len({grids for _, grids in tried}) == len(tried) > 1 and all(grids[0] == patch for patch, grids in tried)


@pytest.mark.parametrize(("section", "preset"), [({}, "tiny"), ({"preset": "small"}, "small")])
def test_what_is_not_asked_for_is_as_the_plans_have_it(
    plans: dict, dataset_json: dict, section: dict, preset: str
) -> None:
    plans["topomae"] = section
    new = fit_plans(plans, dataset_json, 8.0, "mine")
    asked = fit_plans(plans, dataset_json, 8.0, "mine", preset, "plan")
    assert new["configurations"] == asked["configurations"] and new["topomae"] == section


def planner_of_nnunet(spacing: tuple[float, ...], median: np.ndarray, max_voxels: float) -> dict:
    """What nnU-Net plans if its network's memory is the number of voxels, and two crops may have max_voxels each."""
    planner = object.__new__(ExperimentPlanner)
    vars(planner).update(
        dataset_json={"channel_names": {"0": "CT"}, "labels": {}},
        UNet_base_num_features=32,
        UNet_class=SimpleNamespace(__module__="", __name__=""),
        UNet_reference_val_3d=max_voxels,
        UNet_reference_val_corresp_GB=8,
        UNet_vram_target_GB=8,
        UNet_reference_val_corresp_bs_3d=2,
        UNet_featuremap_min_edge_length=4,
        UNet_blocks_per_stage_encoder=(2,) * 14,
        UNet_blocks_per_stage_decoder=(2,) * 13,
        UNet_min_batch_size=2,
        UNet_max_features_3d=320,
        max_dataset_covered=0.05,
        preprocessor_name="DefaultPreprocessor",
        static_estimate_VRAM_usage=lambda patch_size, *rest: np.prod(patch_size, dtype=float),
        determine_normalization_scheme_and_whether_mask_is_used_for_norm=lambda: (["CTNormalization"], [False]),
    )
    return planner.get_plans_for_configuration(np.array(spacing), median, "data", 0.0, {})


def test_what_cannot_fit_is_said(plans: dict, dataset_json: dict) -> None:
    with pytest.raises(ValueError, match=r"not even 2 crops of \[.*\] fit 1 GiB with the base networks: .*--preset"):
        fit_plans(plans, dataset_json, 1.0, "mine", "base")
    with pytest.raises(ConfigError, match="preset = 'huge' is not valid: .*auto, tiny, small, base"):
        fit_plans(plans, dataset_json, 8.0, "mine", "huge")
    del plans["configurations"]["3d_fullres"]
    with pytest.raises(ValueError, match="nnUNetPlans of Dataset007_Toy has no 3d configuration"):
        fit_plans(plans, dataset_json, 8.0, "mine", "base")
