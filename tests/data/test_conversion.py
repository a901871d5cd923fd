from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from nnunet_topomae import cli

SIZE = (8, 10, 12)
SYNAPSE_VALUE = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8}  # aorta, gallbladder, ..., stomach


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((-12.5, 4.0, 100.0))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The layout of the challenge's RawData.zip: labelled img0001 and img0022, unlabelled img0061."""
    folder = tmp_path / "RawData"
    rng = np.random.default_rng(0)
    for number in ("0001", "0022"):
        write(folder / f"Training/img/img{number}.nii.gz", rng.integers(-1000, 1000, SIZE, dtype=np.int16))
        label = rng.permutation(np.arange(np.prod(SIZE)) % 14).astype(np.uint8).reshape(SIZE)
        write(folder / f"Training/label/label{number}.nii.gz", label)
    write(folder / "Testing/img/img0061.nii.gz", rng.integers(-1000, 1000, SIZE, dtype=np.int16))
    return folder


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_synapse_keeps_eight_organs_and_nnunet_accepts_it(
    source: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.main(["convert", "synapse", str(source.parent), "-d", "8"])
    dataset = raw / "Dataset008_Synapse"
    assert sorted(path.name for path in dataset.glob("*/*")) == [
        "img0001.nii.gz",
        "img0001_0000.nii.gz",
        "img0022.nii.gz",
        "img0022_0000.nii.gz",
        "img0061_0000.nii.gz",
    ]
    for number in ("0001", "0022"):
        original, converted = source / f"Training/label/label{number}.nii.gz", dataset / f"labelsTr/img{number}.nii.gz"
        expected = np.vectorize(lambda value: SYNAPSE_VALUE.get(value, 0))(read(original))
        np.testing.assert_array_equal(read(converted), expected)
        before, after = sitk.ReadImage(str(original)), sitk.ReadImage(str(converted))
        for geometry in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(before, geometry)() == pytest.approx(getattr(after, geometry)())
        image = dataset / f"imagesTr/img{number}_0000.nii.gz"
        assert image.read_bytes() == (source / f"Training/img/img{number}.nii.gz").read_bytes()
    threads = SimpleNamespace(Pool=ThreadPool)  # start at once, unlike processes
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: threads)
    verify_dataset_integrity(str(dataset), num_processes=1)


def test_btcv_keeps_thirteen_organs_untouched(source: Path, raw: Path) -> None:
    cli.main(["convert", "btcv", str(source / "Training"), "-d", "9"])
    dataset = raw / "Dataset009_BTCV"
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    assert len(labels) == 14 and (labels["spleen"], labels["aorta"], labels["left adrenal gland"]) == (1, 8, 13)
    for number in ("0001", "0022"):
        copied, original = dataset / f"labelsTr/img{number}.nii.gz", source / f"Training/label/label{number}.nii.gz"
        assert copied.read_bytes() == original.read_bytes()
    assert not (dataset / "imagesTs").exists(), "Testing is not inside the folder that was named"


def test_acdc_is_taken_as_it_is_downloaded(tmp_path: Path, raw: Path, refused) -> None:
    refused("convert acdc", tmp_path, "-d", "27", saying="no patient.* in .*training: name the folder with training")
    image, label = np.zeros(SIZE, np.int16), np.ones(SIZE, np.uint8)
    for patient in ("training/patient001", "testing/patient101"):
        case = f"{patient}/{patient[-10:]}"
        write(tmp_path / f"{case}_4d.nii.gz", image)
        write(tmp_path / f"{case}_frame01.nii.gz", image)
        write(tmp_path / f"{case}_frame01_gt.nii.gz", label)
    cli.main(["convert", "acdc", str(tmp_path), "-d", "27"])
    dataset = raw / "Dataset027_ACDC"
    assert sorted(str(path.relative_to(dataset)) for path in dataset.glob("*/*")) == [
        "imagesTr/patient001_frame01_0000.nii.gz",
        "imagesTs/patient101_frame01_0000.nii.gz",
        "labelsTr/patient001_frame01.nii.gz",
    ]
    assert read(dataset / "labelsTr/patient001_frame01.nii.gz").all()
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 1
    refused("convert acdc", tmp_path, "-d", "27", saying="the id 27 is taken by Dataset027_ACDC")


@pytest.fixture
def refuses(raw: Path, refused) -> Callable[[Path, str], None]:
    def refuses(source: Path, message: str) -> None:
        refused("convert synapse", source, "-d", "8", saying=message)
        assert not raw.exists() or not list(raw.iterdir()), "nothing is left behind"

    return refuses


def test_each_image_needs_its_label_and_each_label_its_image(source: Path, refuses) -> None:
    (source / "Training/label/label0022.nii.gz").unlink()
    refuses(source, "without label: .*img0022.nii.gz")
    (source / "Training/img/img0001.nii.gz").unlink()
    refuses(source, "without label: .*img0022.nii.gz; without image: .*label0001.nii.gz")


def test_unknown_values_are_named_with_their_file(source: Path, refuses) -> None:
    for number, value in (("0001", 15), ("0022", 14)):
        write(source / f"Training/label/label{number}.nii.gz", np.full(SIZE, value, np.uint8))
    refuses(source, r"label0001.nii.gz has .* no organ: \[15\].*label0022.nii.gz has .* no organ: \[14\]")


def test_label_and_image_have_one_size(source: Path, refuses) -> None:
    write(source / "Training/label/label0001.nii.gz", np.zeros((8, 10, 11), np.uint8))
    refuses(source, r"label0001.nii.gz has size \(11, 10, 8\), but .*img0001.nii.gz has \(12, 10, 8\)")


def test_damaged_files_are_all_named(source: Path, refuses) -> None:
    damaged = [source / "Training/img/img0001.nii.gz", source / "Training/label/label0022.nii.gz"]
    for file in damaged:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    unlabelled = source / "Testing/img/img0061.nii.gz"
    unlabelled.unlink()
    unlabelled.symlink_to(".git/annex/objects/x")
    refuses(source, "img0001.nii.gz is cut off.*label0022.nii.gz is cut off.*img0061.nii.gz is a link to .git/annex")


def test_a_folder_without_images_is_refused(tmp_path: Path, refuses) -> None:
    refuses(tmp_path, r"no img/img\*.nii.gz in")


def test_a_dataset_is_never_overwritten(source: Path, raw: Path, refused) -> None:
    (raw / "Dataset008_Mine").mkdir(parents=True)
    refused(
        "convert synapse", source, "-d", "8", saying="the id 8 is taken by Dataset008_Mine: choose another one with -d"
    )
    assert [path.name for path in raw.iterdir()] == ["Dataset008_Mine"]
