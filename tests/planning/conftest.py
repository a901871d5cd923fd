from __future__ import annotations

import pytest


@pytest.fixture
def planned(planned_network) -> dict:
    """A configuration of an isotropic dataset as nnU-Net plans it: patch 64³, five stages."""
    architecture = planned_network("PlainConvUNet", [[1, 1, 1]] + [[2, 2, 2]] * 4)
    architecture["arch_kwargs"]["features_per_stage"] = [32, 64, 128, 256, 320]
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "batch_size": 2,
        "patch_size": [64, 64, 64],
        "median_image_size_in_voxels": [100.0, 120.0, 120.0],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "architecture": architecture,
    }


@pytest.fixture
def plans(planned) -> dict:
    return {
        "dataset_name": "Dataset007_Toy",
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "configurations": {
            "2d": {"data_identifier": "nnUNetPlans_2d", "batch_size": 12, "patch_size": [128, 128]},
            "3d_fullres": planned,
        },
    }


@pytest.fixture
def dataset_json() -> dict:
    return {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 1000}
