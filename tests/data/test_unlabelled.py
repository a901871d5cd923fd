import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nnunet_topomae.data.unlabelled import add_unlabelled
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


@pytest.fixture
def add(workshop):
    def add(images: Path, **kwargs) -> list[str]:
        dataset_json = json.loads((workshop.dataset / "dataset.json").read_text())
        return add_unlabelled(images, workshop.dataset, workshop.plans, "3d_fullres", dataset_json, 2, **kwargs)

    return add


@pytest.fixture
def scans(phantom, tmp_path) -> Path:
    """Two images without labels."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, file in zip(("scan_a", "scan_b"), sorted((phantom.raw_dataset / "imagesTs").iterdir()), strict=True):
        shutil.copy(file, folder / f"{name}_0000.nii.gz")
    return folder


def test_pretraining_draws_crops_of_added_images_and_nothing_else_sees_them(workshop, add, scans):
    assert add(scans) == ["scan_a", "scan_b"]
    pretrainer, finetuner = workshop.build(TopoMAEPretrainer), workshop.build(TopoMAEFinetunerFromScratch)
    (train, val), labelled = pretrainer.do_split(), finetuner.do_split()
    assert set(train) - set(labelled[0]) == {"scan_a", "scan_b"} and list(val) == list(labelled[1])

    pretrainer.run_training()
    drawn = {key for _ in range(20) for key in next(pretrainer.dataloader_train)["keys"]}
    assert {"scan_a", "scan_b"} & drawn and set(labelled[0]) & drawn


def test_an_added_image_is_preprocessed_like_a_labelled_one(phantom, workshop, add, tmp_path):
    first = sorted((phantom.raw_dataset / "imagesTr").iterdir())[0]
    case = first.name.removesuffix("_0000.nii.gz")
    (tmp_path / "copies").mkdir()
    shutil.copy(first, tmp_path / "copies" / "copy_0000.nii.gz")
    add(tmp_path / "copies")
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.initialize()
    dataset = trainer.dataset_of([case, "copy"])
    np.testing.assert_array_equal(dataset.load_case(case)[0][:], dataset.load_case("copy")[0][:])


def test_images_of_labelled_cases_are_refused(phantom, add):
    with pytest.raises(ValueError, match="labelled cases of these names.*other names"):
        add(phantom.raw_dataset / "imagesTr")


def test_nothing_is_overwritten_unasked(add, scans):
    add(scans)
    with pytest.raises(FileExistsError, match="holds these cases already: scan_a, scan_b"):
        add(scans)
    assert add(scans, overwrite=True) == ["scan_a", "scan_b"]


def test_a_broken_image_is_named_and_leaves_nothing_behind(workshop, add, scans):
    (scans / "scan_b_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match="case scan_b cannot be preprocessed"):
        add(scans)
    assert not list(workshop.dataset.glob("*unlabelled*"))


def test_a_missing_channel_and_an_empty_folder_are_said(add, scans, tmp_path):
    (scans / "scan_a_0000.nii.gz").rename(scans / "scan_a.nii.gz")
    with pytest.raises(ValueError, match=r"not 1 files \(one a channel\) in .* for: "):
        add(scans)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image named as nnU-Net wants it, CASE_0000.nii.gz"):
        add(tmp_path / "empty")
