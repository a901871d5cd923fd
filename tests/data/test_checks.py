import pickle
from types import SimpleNamespace

import blosc2
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


def test_good_cases_pass(dataset):
    assert check(dataset(a=noise(), b=noise(channels=2))) == []


def test_constant_cases_are_legal_and_reported(dataset):
    half = np.concatenate([np.full((1, 5, 6, 5), 2, np.float32), np.full((1, 5, 6, 5), 3, np.float32)], axis=1)
    one_slice = noise()[:, :1]
    assert check(dataset(half=half, one_slice=one_slice, all=np.full((1, 10, 6, 5), 2, np.float32))) == ["all"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
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


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files_are_named(dataset, tmp_path, part):
    cases = dataset(whole=noise(), cut=noise())
    for file in tmp_path.glob("cut*"):
        content = file.read_bytes()
        file.write_bytes(content[: int(part * len(content))])
        with pytest.raises(ValueError, match="1 of 2 (.|\n)*  cut: cannot be read"):
            check(cases)
        file.write_bytes(content)
    assert check(cases) == []


def test_missing_files_are_named(dataset, tmp_path):
    cases = dataset(whole=noise(), gone=noise())
    for file in tmp_path.glob("gone*"):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(ValueError, match="gone: cannot be read .FileNotFoundError"):
            check(cases)
        file.write_bytes(content)


def test_what_is_left_of_a_case_without_image_is_an_error(dataset, tmp_path):
    dataset_class = type(dataset(whole=noise()))
    check_none_missing(dataset_class, tmp_path)
    (tmp_path / "gone.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="1 cases without their image: gone. Preprocess again"):
        check_none_missing(dataset_class, tmp_path)


def test_a_case_named_like_a_label_is_to_be_renamed(tmp_path):
    for name in ("scan_5_seg", "scan_6"):
        nnUNetDatasetBlosc2.save_case(
            noise(), noise(), {}, str(tmp_path / name), chunks=(1, 4, 4, 4), blocks=(1, 2, 4, 4)
        )
    with pytest.raises(
        ValueError, match="ends in _seg for a label.*: scan_5_seg. Give these cases other names in the raw"
    ):
        check_none_missing(nnUNetDatasetBlosc2, tmp_path)


def test_a_compressed_volume_is_read_a_few_slices_at_a_time(tmp_path):
    image = blosc2.asarray(noise(), chunks=(1, 4, 6, 5), blocks=(1, 2, 6, 5))

    class Watched:
        shape, chunks = image.shape, image.chunks
        largest = 0

        def __getitem__(self, index):
            part = image[index]
            self.largest = max(self.largest, part.size)
            return part

    watched = Watched()
    dataset = SimpleNamespace(
        source_folder=tmp_path,
        folder_with_segs_from_previous_stage=None,
        load_case=lambda key: (watched, None, None, None),
    )
    assert check_cases(dataset, ["a"], labels=None) == []
    assert watched.largest == 4 * 6 * 5


def test_cases_without_a_segmentation_of_the_previous_stage_are_named(tmp_path):
    for key in ("a", "c.1"):
        (tmp_path / f"{key}.b2nd").touch()
    check_previous_stage(tmp_path, ["a", "c.1"], "nnUNetv2_train")
    with pytest.raises(FileNotFoundError, match="for 2 of 3 cases: b, c. (.|\n)*  nnUNetv2_train 1 3d_lowres FOLD"):
        check_previous_stage(tmp_path, ["a", "b", "c"], "nnUNetv2_train 1 3d_lowres FOLD")
