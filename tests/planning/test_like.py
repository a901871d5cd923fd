import pytest

from nnunet_topomae.planning.like import plans_like

THEIRS = {"spacing": [1, 1, 1], "patch_size": [160, 160, 160], "normalization_schemes": ["ZScoreNormalization"]}


def like(plans, transpose_forward=(0, 1, 2), **theirs):
    return plans_like(plans, THEIRS | theirs, transpose_forward, "like")["configurations"]["3d_fullres"]


@pytest.fixture
def anisotropic(plans):
    plans["configurations"]["3d_fullres"] |= {"spacing": [4.0, 0.5, 0.5], "median_image_size_in_voxels": [40, 512, 400]}
    return plans


def test_spacing_and_normalisation_are_theirs_and_the_patch_is_as_far_as_the_images_are_large(anisotropic):
    new = like(anisotropic)
    assert new["spacing"] == [1, 1, 1] and new["normalization_schemes"] == ["ZScoreNormalization"]
    assert new["median_image_size_in_voxels"] == [160, 256, 200]
    assert new["patch_size"] == [160, 160, 160]
    assert new["architecture"]["arch_kwargs"]["strides"] == [[1] * 3, *[[2] * 3] * 5]  # six stages, as ResEncL has
    assert new["data_identifier"] == "like_3d_fullres"
    assert like(anisotropic, spacing=[2, 2, 2])["patch_size"] == [80, 128, 112]  # 100 voxels, padded by nnU-Net


def test_their_axes_are_brought_into_the_order_of_these(anisotropic):
    anisotropic["transpose_forward"] = [2, 0, 1]
    new = like(anisotropic, transpose_forward=[1, 0, 2], spacing=[1, 3, 2], patch_size=[32, 64, 96])
    assert new["spacing"] == [2, 3, 1]  # of the file's axes: 3, 1, 2


def test_the_same_images_need_no_new_preprocessing(plans):
    planned = plans["configurations"]["3d_fullres"]
    new = like(plans, normalization_schemes=planned["normalization_schemes"], spacing=None)
    assert new["data_identifier"] == planned["data_identifier"]


def test_channels_normalised_each_in_its_own_way_must_be_as_many(plans):
    with pytest.raises(ValueError, match="know 2 channels, normalised by CT, Z, these data have 1"):
        like(plans, normalization_schemes=["CT", "Z"])
