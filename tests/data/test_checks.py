import pickle

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy

from nnunet_topomae.data.checks import LabelRange, check_cases, check_none_missing, check_previous_stage

FORMATS = {"b2nd": nnUNetDatasetBlosc2, "npz": nnUNetDatasetNumpy}
LABELS = LabelRange(-1, 3)


@pytest.fixture(params=FORMATS)
def dataset(request, tmp_path):
    """Writes `name=image` or `name=(image, label)` in one of nnU-Net's formats, and reads it back."""
    dataset_class = FORMATS[request.param]

    def write(**cases):
        for name, case in cases.items():
            image, label = case if isinstance(case, tuple) else (case, np.zeros((1, *case.shape[1:]), np.int8))
            kwargs = {"chunks": (1, 4, 4, 4), "blocks": (1, 2, 4, 4)} if request.param == "b2nd" else {}
            dataset_class.save_case(image, label, {"class_locations": {}}, str(tmp_path / name), **kwargs)
        return dataset_class(str(tmp_path))

    return write


def noise(channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(channels, 10, 6, 5)).astype(np.float32)


def check(dataset, labels=LABELS) -> list[str]:
    return check_cases(dataset, dataset.identifiers, labels)


def test_constant_cases_are_legal_and_reported(dataset):
    half = np.concatenate([np.full((1, 5, 6, 5), 2, np.float32), np.full((1, 5, 6, 5), 3, np.float32)], axis=1)
    one_slice = noise()[:, :1]
    assert check(dataset(half=half, one_slice=one_slice, all=np.full((1, 10, 6, 5), 2, np.float32))) == ["all"]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("where", [(0, 0, 0, 0), (1, 9, 5, 4)])
def test_one_voxel_that_is_not_finite_is_found(dataset, value, where):
    bad = noise(channels=2)
    bad[where] = value
    with pytest.raises(ValueError, match="bad: 1 voxels are NaN or infinite"):
        check(dataset(bad=bad))


def test_every_bad_case_is_named_with_its_fault(dataset):
    image, label = noise(), np.zeros((1, 10, 6, 5), np.int8)
    holes, stranger = image.copy(), label.copy()
    holes[0, 0, 0, :2] = np.nan, np.inf
    stranger[0, 3, 3, 3] = 4
    cases = dataset(good=image, holes=holes, other=(image, label[:, :9]), stranger=(image, stranger))
    with pytest.raises(ValueError) as error:
        check(cases)
    message = str(error.value)
    assert f"3 of 4 preprocessed cases in {cases.source_folder}" in message
    assert "holes: 2 voxels are NaN or infinite" in message
    assert "other: the image has (10, 6, 5) voxels, its label (9, 6, 5)" in message
    assert "stranger: labels reach from 0 to 4, dataset.json allows -1 to 3" in message
    assert "good" not in message
    with pytest.raises(ValueError, match="1 of 4.*\n  holes"):
        check(cases, labels=None)


@pytest.mark.parametrize("part", [None, 0.0, 0.01, 0.5, 0.999])
def test_truncated_and_missing_files_are_named(dataset, tmp_path, part):
    cases = dataset(whole=noise(), cut=noise())
    for file in tmp_path.glob("cut*"):
        content = file.read_bytes()
        file.unlink() if part is None else file.write_bytes(content[: int(part * len(content))])
        with pytest.raises(ValueError, match="1 of 2 (.|\n)*  cut: cannot be read"):
            check(cases)
        file.write_bytes(content)
    assert check(cases) == []


def test_cases_that_nnunet_would_leave_out_are_an_error(dataset, tmp_path):
    dataset_class = type(dataset(whole=noise()))
    check_none_missing(dataset_class, tmp_path)
    (tmp_path / "gone.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="1 cases without their image: gone. Preprocess again"):
        check_none_missing(dataset_class, tmp_path)
    if dataset_class is nnUNetDatasetBlosc2:
        dataset(scan_5_seg=noise())
        with pytest.raises(ValueError, match="ends in _seg for a label.*: scan_5_seg. Give these cases other names"):
            check_none_missing(dataset_class, tmp_path)


def test_cases_without_a_segmentation_of_the_previous_stage_are_named(tmp_path):
    for key in ("a", "c.1"):
        (tmp_path / f"{key}.b2nd").touch()
    check_previous_stage(tmp_path, ["a", "c.1"], "nnUNetv2_train")
    with pytest.raises(FileNotFoundError, match="for 2 of 3 cases: b, c. (.|\n)*  nnUNetv2_train 1 3d_lowres FOLD"):
        check_previous_stage(tmp_path, ["a", "b", "c"], "nnUNetv2_train 1 3d_lowres FOLD")
