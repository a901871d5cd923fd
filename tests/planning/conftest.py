from __future__ import annotations

import pytest


def configuration(**changes: object) -> dict:
    """A configuration of an isotropic dataset as nnU-Net plans it: patch 64³, five stages."""
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "batch_size": 2,
        "patch_size": [64, 64, 64],
        "median_image_size_in_voxels": [100.0, 120.0, 120.0],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 5,
                "features_per_stage": [32, 64, 128, 256, 320],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 5,
                "strides": [[1, 1, 1]] + [[2, 2, 2]] * 4,
                "n_conv_per_stage": [2] * 5,
                "n_conv_per_stage_decoder": [2] * 4,
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        **changes,
    }


@pytest.fixture
def planned() -> dict:
    return configuration()


@pytest.fixture
def plans() -> dict:
    return {
        "dataset_name": "Dataset007_Toy",
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "configurations": {
            "2d": {"data_identifier": "nnUNetPlans_2d", "batch_size": 12, "patch_size": [128, 128]},
            "3d_fullres": configuration(),
        },
    }


@pytest.fixture
def dataset_json() -> dict:
    return {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 1000}
