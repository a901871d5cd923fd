from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_topomae import cli
from nnunet_topomae.data.dataset_json import read_dataset_json
from nnunet_topomae.data.unlabelled import UnlabelledImages
from nnunet_topomae.data.unlabelled_preprocessing import BadImageError, _stamps, add_unlabelled
from nnunet_topomae.planning.plans_file import configuration_of
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


@pytest.fixture
def add(workshop):
    def add(images: Path, **kwargs) -> list[str]:
        dataset_json = read_dataset_json(workshop.dataset)
        return add_unlabelled(images, workshop.dataset, workshop.plans, "3d_fullres", dataset_json, 1, **kwargs)

    return add


@pytest.fixture
def added(workshop) -> UnlabelledImages:
    return UnlabelledImages.of(workshop.dataset, configuration_of(workshop.plans, "3d_fullres"))


@pytest.fixture
def scans(phantom, tmp_path) -> Path:
    """Two images without labels."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, file in zip(("scan_a", "scan_b"), sorted((phantom.raw_dataset / "imagesTs").iterdir()), strict=True):
        shutil.copy(file, folder / f"{name}_0000.nii.gz")
    return folder


@pytest.fixture
def cases(phantom) -> list[str]:
    """The labelled ones."""
    return sorted(file.name.removesuffix(".nii.gz") for file in (phantom.raw_dataset / "labelsTr").iterdir())


def write_split(dataset: Path, train: list[str], val: list[str]) -> None:
    (dataset / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}]))


def plan_anew(dataset: Path) -> None:
    """As when the channel is called CT instead of MRI."""
    plans = json.loads((dataset / "nnUNetPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
    (dataset / "nnUNetPlans.json").write_text(json.dumps(plans))


def test_pretraining_draws_crops_of_added_images_and_nothing_else_sees_them(workshop, add, scans):
    assert add(scans) == ["scan_a", "scan_b"]
    pretrainer, finetuner = workshop.build(TopoMAEPretrainer), workshop.build(TopoMAEFinetunerFromScratch)
    (train, val), labelled = pretrainer.do_split(), finetuner.do_split()
    assert set(train) - set(labelled[0]) == {"scan_a", "scan_b"} and list(val) == list(labelled[1])

    pretrainer.run_training()
    drawn = {key for _ in range(20) for key in next(pretrainer.dataloader_train)["keys"]}
    assert {"scan_a", "scan_b"} & drawn and set(labelled[0]) & drawn


def test_an_added_image_is_preprocessed_like_a_labelled_one(phantom, workshop, add, cases, tmp_path):
    write_split(workshop.dataset, cases[:4], cases[4:])
    (tmp_path / "copies").mkdir()
    shutil.copy(phantom.raw_dataset / "imagesTr" / f"{cases[0]}_0000.nii.gz", tmp_path / "copies" / "copy_0000.nii.gz")
    add(tmp_path / "copies")
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.initialize()
    dataset = trainer.dataset_of([cases[0], "copy"])
    np.testing.assert_array_equal(dataset.load_case(cases[0])[0][:], dataset.load_case("copy")[0][:])


@pytest.mark.parametrize("split", [True, False])
def test_a_validation_case_under_another_name_and_format_is_refused(phantom, workshop, add, added, cases, scans, split):
    """Without a split each case will be validated on in one of the folds."""
    if split:
        write_split(workshop.dataset, cases[:4], cases[4:])
    image = sitk.ReadImage(str(phantom.raw_dataset / "imagesTr" / f"{cases[5]}_0000.nii.gz"))
    sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat64), str(scans / "secret_0000.nii.gz"), True, 9)
    with pytest.raises(BadImageError, match=f"2 of 3 images are added.*validation case {cases[5]}: secret"):
        add(scans)
    assert added.names == ["scan_a", "scan_b"]


def test_what_becomes_a_validation_case_later_stops_pretraining(phantom, workshop, add, cases, scans):
    write_split(workshop.dataset, cases[:4], cases[4:])
    shutil.copy(phantom.raw_dataset / "imagesTr" / f"{cases[0]}_0000.nii.gz", scans / "copy_0000.nii.gz")
    assert "copy" in add(scans)
    write_split(workshop.dataset, cases[1:], cases[:1])
    message = f"copies of validation cases .copy of {cases[0]}.(.|\n)*unlabelled remove -d Dataset100_Phantom .* copy$"
    with pytest.raises(ValueError, match=message):
        workshop.build(TopoMAEPretrainer).run_training()


def test_one_bad_image_does_not_cost_the_others(workshop, add, added, scans):
    (scans / "broken_0000.nii.gz").write_bytes(b"no image")
    content = (scans / "scan_a_0000.nii.gz").read_bytes()
    (scans / "cut_0000.nii.gz").write_bytes(content[: len(content) // 2])
    flat = sitk.GetImageFromArray(np.full((8, 8, 8), 7, np.float32))
    sitk.WriteImage(flat, str(scans / "flat_0000.nii.gz"))
    huge = sitk.GetImageFromArray(np.full((8, 8, 8), 3e38, np.float32))  # their sum is infinite
    sitk.WriteImage(huge, str(scans / "huge_0000.nii.gz"))
    with pytest.raises(BadImageError) as error:
        add(scans)
    message = str(error.value)
    assert "2 of 6 images are added" in message and "--skip-bad" in message
    for name, fault in (
        ("broken", "is no NIfTI file"),
        ("cut", "cut off or damaged"),
        ("flat", "all voxels have one value"),
        ("huge", "voxels are NaN or infinite"),
    ):
        assert re.search(f"{fault}[^;]*: {name}", message)
    assert added.names == ["scan_a", "scan_b"]

    said: list[str] = []
    assert add(scans, skip_bad=True, report=said.append) == ["scan_a", "scan_b"]
    assert said[0] == "2 of 6 images had been added before"
    assert said[1].startswith("Left out: ") and ": broken" in said[1] and ": huge" in said[1]
    assert [file.name for file in workshop.dataset.glob("*unlabelled*")] == [added.folder.name], "nothing else is left"


def rename(to: str):
    return lambda scans: (scans / "scan_a_0000.nii.gz").rename(scans / to)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda scans: (scans / "x_0000.nii.gz").symlink_to(".git/annex/objects/x"), "x_0000.nii.gz is a link .*: x"),
        (lambda scans: (scans / "scan_a_0000.nii").touch(), "scan_a_0000.nii.gz stands beside .*: scan_a"),
        (rename("phantom_tr_000_0000.nii.gz"), "the dataset has labelled cases of these names, .*: phantom_tr_000"),
        (rename("scan_seg_0000.nii.gz"), "nnU-Net takes what ends in _seg for a label, .*: scan_seg"),
        (rename("_0000.nii.gz"), "not named CASE_0000.nii.gz: _0000.nii.gz"),
        (rename("scan_a.nii.gz"), "not named CASE_0000.nii.gz: scan_a.nii.gz"),
        (rename("scan_a_0001.nii.gz"), r"not 1 files \(one a channel\) in .* for: scan_a"),
    ],
)
def test_what_the_folder_shows_is_said_before_any_work(add, added, scans, make, says):
    (scans / "._scan_b_0000.nii.gz").write_bytes(b"apple")
    make(scans)
    with pytest.raises(BadImageError, match=f"nothing is added yet: {says}. Mend"):
        add(scans)
    assert not added.names
    said: list[str] = []
    good = ["scan_a", "scan_b"] if (scans / "x_0000.nii.gz").is_symlink() else ["scan_b"]
    assert add(scans, skip_bad=True, report=said.append) == good == added.names
    assert "macOS" in said[0] and re.search(f"Left out: {says}", said[-1])


def test_the_spacing_beside_a_tiff_is_a_part_of_the_image(tmp_path):
    image = tmp_path / "scan.a_0000.tif"
    image.touch()
    (tmp_path / "scan.a.json").write_text('{"spacing": [2, 1, 1]}')
    assert set(_stamps("scan.a", {0: image})) == {"scan.a_0000.tif", "scan.a.json"}


def test_an_empty_folder_is_said(add, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no image named as nnU-Net wants it, CASE_0000.nii.gz"):
        add(tmp_path)


def test_an_interrupted_run_goes_on_where_it_stopped(workshop, add, added, scans, monkeypatch):
    real = UnlabelledImages.put
    monkeypatch.setattr(UnlabelledImages, "put", lambda self, name, *rest: real(self, name, *rest) or interrupt())

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(scans)
    (done,) = added.names
    monkeypatch.setattr(UnlabelledImages, "put", real)
    written = (added.folder / f"{done}.b2nd").stat().st_mtime_ns
    assert add(scans) == ["scan_a", "scan_b"] == added.names
    assert (added.folder / f"{done}.b2nd").stat().st_mtime_ns == written


def test_other_files_of_the_same_names_are_taken_on_demand_only(add, added, scans):
    add(scans)
    before = {name: added.record(name).fingerprint for name in added.names}
    shutil.copy(scans / "scan_b_0000.nii.gz", scans / "scan_a_0000.nii.gz")
    os.utime(scans / "scan_a_0000.nii.gz", (time.time() + 9,) * 2)
    with pytest.raises(FileExistsError, match="holds these cases already, made from other files: scan_a$"):
        add(scans)
    assert {name: added.record(name).fingerprint for name in added.names} == before
    add(scans, overwrite=True)
    assert added.record("scan_a").fingerprint == before["scan_b"]


def test_images_made_by_other_plans_are_refused_until_made_anew(workshop, add, added, scans):
    add(scans)
    plan_anew(workshop.dataset)
    advice = "unlabelled add -d Dataset100_Phantom -p nnUNetPlans -c 3d_fullres -i FOLDER"
    with pytest.raises(ValueError, match=f"made by other plans .normalization_schemes .*: scan_a, scan_b. .*{advice}"):
        workshop.build(TopoMAEPretrainer).run_training()

    said: list[str] = []
    (scans / "scan_b_0000.nii.gz").rename(scans.parent / "scan_b_0000.nii.gz")
    add(scans, report=said.append)
    assert len(said) == 1 and said[0].startswith("Added before, and not usable now: made by other plans")
    assert added.record("scan_a").settings["normalization_schemes"] == ["CTNormalization"]
    with pytest.raises(ValueError, match="made by other plans .*: scan_b. Add them again"):
        workshop.build(TopoMAEPretrainer).run_training()


def test_images_that_nothing_is_known_of_are_refused_until_made_anew(workshop, add, added, scans):
    add(scans)
    (added.folder / "scan_a.json").unlink()
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.initialize()
    with pytest.raises(ValueError, match="nothing tells what it was made with: scan_a. Add them again"):
        trainer._check_data()
    assert add(scans) == ["scan_a", "scan_b"]
    trainer._check_data()


def test_a_labelled_case_wins_over_an_added_copy_of_its_name(workshop, add, added, cases, scans):
    """In training and in validation: the image got its label after it was added."""
    add(scans)
    write_split(workshop.dataset, [*cases[1:], "scan_a"], [cases[0], "scan_b"])
    for name in added.names:
        for suffix in (".b2nd", "_seg.b2nd", ".pkl"):
            shutil.copy(workshop.images / f"{cases[0]}{suffix}", workshop.images / f"{name}{suffix}")
    trainer = workshop.build(TopoMAEPretrainer, seen_validation_cases="warn")  # they all are copies
    trainer.initialize()
    assert trainer.do_split() == (sorted([*cases[1:], "scan_a"]), [cases[0], "scan_b"])
    dataset = trainer.dataset_of(["scan_a", cases[0]])
    np.testing.assert_array_equal(dataset.load_case("scan_a")[0][:], dataset.load_case(cases[0])[0][:])
    trainer._check_data()
    log = next(Path(trainer.output_folder).glob("training_log*")).read_text()
    assert "the labelled cases are used of scan_a, scan_b" in log


def test_listed_and_removed_from_the_command_line(workshop, add, added, scans, refused, capsys):
    cli.main(["unlabelled", "list", "-d", "100"])
    assert capsys.readouterr().out.startswith("0 unlabelled images, 0 used")
    add(scans)
    shutil.copy(workshop.images / "phantom_tr_000.pkl", workshop.images / "scan_b.pkl")
    shutil.copy(workshop.images / "phantom_tr_000.b2nd", workshop.images / "scan_b.b2nd")
    capsys.readouterr()
    cli.main(["unlabelled", "list", "-d", "100"])
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[:2] == ["scan_a  used", "scan_b  not used: it has a label now"]
        and "2 unlabelled images, 1 used" in lines[2]
    )

    refused("unlabelled remove -d 100", saying="name images, or give --unusable, or --all")
    refused(
        "unlabelled remove -d 100 scan_a ../scan_b scan*",
        saying="not in .*_unlabelled: ../scan_b, scan[*]. Nothing was",
    )
    cli.main(["unlabelled", "remove", "-d", "100", "--unusable"])
    assert added.names == ["scan_a"] and {file.stem for file in added.folder.iterdir()} == {"scan_a", "scan_a_seg"}
    plan_anew(workshop.dataset)
    cli.main(["unlabelled", "list", "-d", "100"])
    assert "scan_a  made by other plans (normalization_schemes" in capsys.readouterr().out
    cli.main(["unlabelled", "remove", "-d", "100", "scan_a"])
    assert not added.names and not list(added.folder.iterdir())
    assert (scans / "scan_a_0000.nii.gz").is_file()
