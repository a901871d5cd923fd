from __future__ import annotations

import json
from copy import deepcopy

import pytest

from nnunet_topomae.data.preprocessing_settings import differences, preprocessing_settings

PLANS = {
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {"0": {"mean": 40.0, "std": 10.0}, "1": {"mean": 3.0, "std": 1.0}},
    "configurations": {
        "3d_fullres": {
            "preprocessor_name": "DefaultPreprocessor",
            "patch_size": [32, 64, 64],
            "batch_size": 2,
            "spacing": [3.0, 1.5, 0.75],
            "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
            "use_mask_for_norm": [False, True],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
            "architecture": {},
        }
    },
}
DATASET_JSON = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}


def changed(path: str, value) -> list[str]:
    """What differs after one value was changed; `path` as plans/KEY/... or dataset/KEY/..."""
    files = {"plans": deepcopy(PLANS), "dataset": deepcopy(DATASET_JSON)}
    *parents, last = path.split("/")
    place = files
    for key in parents:
        place = place[key]
    place[last] = value
    before = json.loads(json.dumps(preprocessing_settings(PLANS, "3d_fullres", DATASET_JSON)))  # as it is stored
    after = preprocessing_settings(files["plans"], "3d_fullres", files["dataset"])
    return [difference.split(" ")[0] for difference in differences(before, after)]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dataset/channel_names", {"0": "PET", "1": "CT"}),
        ("plans/image_reader_writer", "NibabelIO"),
        ("plans/transpose_forward", [1, 0, 2]),
        ("plans/foreground_intensity_properties_per_channel/0", {"mean": 41.0, "std": 10.0}),
        ("plans/configurations/3d_fullres/spacing", [3.0, 1.5, 1.0]),
        ("plans/configurations/3d_fullres/preprocessor_name", "OtherPreprocessor"),
        ("plans/configurations/3d_fullres/normalization_schemes", ["CTNormalization", "NoNormalization"]),
        ("plans/configurations/3d_fullres/use_mask_for_norm", [False, False]),
        ("plans/configurations/3d_fullres/resampling_fn_data", "no_resampling_data_or_seg_to_shape"),
        ("plans/configurations/3d_fullres/resampling_fn_data_kwargs", {"is_seg": False, "order": 1}),
    ],
)
def test_what_changes_the_voxels_is_seen(path: str, value) -> None:
    assert changed(path, value) == [next(key for key in reversed(path.split("/")) if not key.isdigit())]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("plans/plans_name", "nnUNetTopoMAEPlans"),
        ("plans/topomae", {"preset": "tiny"}),
        ("plans/foreground_intensity_properties_per_channel/1", {"mean": 9.0, "std": 9.0}),  # z-scores do not use them
        ("plans/configurations/3d_fullres/patch_size", [16, 16, 16]),
        ("plans/configurations/3d_fullres/batch_size", 9),
        ("plans/configurations/3d_fullres/spacing", [3.0000000001, 1.5, 0.75]),
        ("dataset/labels", {"background": 0, "more": 1}),
        ("dataset/file_ending", ".mha"),
    ],
)
def test_what_leaves_the_voxels_as_they_are_is_not(path: str, value) -> None:
    assert changed(path, value) == []


def test_older_spellings_of_nnunet_mean_the_same() -> None:
    plans = {key.replace("per_channel", "by_modality"): value for key, value in PLANS.items()}
    old = preprocessing_settings(plans, "3d_fullres", {"modality": {"0": "CT", "1": "PET"}})
    assert plans != PLANS and old == preprocessing_settings(PLANS, "3d_fullres", DATASET_JSON)
