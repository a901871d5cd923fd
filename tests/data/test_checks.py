from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_topomae.data.checks import check_images, check_previous_stage

RNG = np.random.default_rng(0)


def dataset(**images):
    def load_case(key):
        if images[key] is None:
            raise EOFError("blosc: truncated")
        return images[key], None, None, None

    return SimpleNamespace(load_case=load_case, source_folder="preprocessed", identifiers=list(images))


def test_good_images_pass():
    check_images(dataset(a=RNG.normal(size=(1, 4, 4, 4)), b=RNG.normal(size=(2, 4, 4, 4))), ["a", "b"])


def test_every_bad_case_is_named_with_its_fault():
    bad = RNG.normal(size=(1, 4, 4, 4))
    bad[0, 0, 0, :2] = np.nan, np.inf
    images = dataset(good=RNG.normal(size=(1, 4, 4, 4)), holes=bad, empty=np.zeros((1, 4, 4, 4)), broken=None)
    with pytest.raises(ValueError) as error:
        check_images(images, images.identifiers)
    message = str(error.value)
    assert "3 of 4 preprocessed images in preprocessed" in message
    assert "holes: 2 voxels are NaN or infinite" in message
    assert "empty: constant, every voxel is 0" in message
    assert "broken: cannot be read (EOFError: blosc: truncated)" in message
    assert "good" not in message


def test_cases_without_a_segmentation_of_the_previous_stage_are_named(tmp_path):
    for key in ("a", "c.1"):
        (tmp_path / f"{key}.b2nd").touch()
    check_previous_stage(tmp_path, ["a", "c.1"], "nnUNetv2_train")
    with pytest.raises(FileNotFoundError, match="for 2 of 3 cases: b, c. (.|\n)*  nnUNetv2_train 1 3d_lowres FOLD"):
        check_previous_stage(tmp_path, ["a", "b", "c"], "nnUNetv2_train 1 3d_lowres FOLD")
