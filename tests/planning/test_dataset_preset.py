from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_topomae.config import ConfigError, TopoMAEConfig
from nnunet_topomae.networks.partners import Partner
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.planning.dataset_preset import DatasetPreset, apply_preset, load_preset, preset_names, preset_plans

PLANS = Path(__file__).parents[2] / "plans"

# Stem as published, in https://github.com/Amshaker/unetr_plus_plus; patients or cases of each part.
PUBLISHED = {
    "synapse": ((64, 128, 128), (2, 4, 4), {"train": 18, "val": 12}),
    "btcv": ((64, 128, 128), (2, 4, 4), {"train": 24, "val": 6}),
    "acdc": ((16, 160, 160), (1, 4, 4), {"train": 140, "val": 20, "test": 40}),
    "msd_brain": ((128, 128, 128), (4, 4, 4), {"train": 387, "val": 73, "test": 24}),
    "msd_lung": ((32, 192, 192), (1, 4, 4), {"train": 50, "val": 13}),
}


def test_every_dataset_of_the_field_has_a_preset() -> None:
    assert preset_names() == sorted(PUBLISHED)


def partner_of(name: str, plans: dict) -> Partner:
    """What a training with the preset's plans has beside the ViT."""
    variant = preset_plans(load_preset(name), plans, "new")
    return Blueprint.of(variant["configurations"]["3d_fullres"], TopoMAEConfig.from_plans(variant)).partner


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_preset_gives_the_published_strides(name: str, plans: dict) -> None:
    patch, stem, _ = PUBLISHED[name]
    arguments = partner_of(name, plans).arguments(1)
    assert (arguments["patch_size"], arguments["stem_stride"]) == (patch, stem)
    assert arguments["stage_strides"] == [(2, 2, 2)] * 3


@pytest.mark.parametrize(
    ("name", "channels", "classes", "parameters"),
    [("synapse", 1, 9, 42.96e6), ("acdc", 1, 4, 66.8e6), ("msd_brain", 4, 4, 42.65e6)],
)
def test_the_preset_gives_the_published_network(
    name: str, channels: int, classes: int, parameters: float, plans: dict
) -> None:
    """Tables 1, 3 and 5 of Shaker et al., IEEE TMI 2024. That of the lung has the blocks of ACDC's, and no count."""
    with FakeTensorMode():
        network = partner_of(name, plans).build(channels, classes)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=1e-3)
    if name == "acdc":
        assert type(partner_of("msd_lung", plans)) is type(partner_of("acdc", plans))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_split_has_the_published_size_and_no_case_twice(name: str) -> None:
    split = load_preset(name).split  # raises if a case is listed twice
    assert {part: len(cases) for part, cases in split.items()} == PUBLISHED[name][2]
    assert all(cases == sorted(cases) for cases in split.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_figure_has_a_source(name: str) -> None:
    content = json.loads((PLANS / f"{name}.json").read_text())
    assert all(0 < result["dice"] < 100 and "arXiv" in result["source"] for result in content["published"])
    assert {"patch_size", "strides", "spacing", "schedule", "split"} <= set(content["sources"])


def test_splits_of_patients_do_not_leak() -> None:
    """The two frames of an ACDC patient are in the same part, and all 100 patients are in one."""
    parts = {part: {case[:10] for case in cases} for part, cases in load_preset("acdc").split.items()}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 100


PRESET = DatasetPreset(
    name="toy",
    convert="convert toy",
    patch_size=[32, 64, 64],
    strides=None,
    spacing=None,
    topomae={"finetune_epochs": 7},
    split={"train": ["a", "b"], "val": ["c"], "test": ["d"]},
)


@pytest.fixture
def folder(tmp_path: Path, plans: dict) -> Path:
    """Dataset007_Toy in nnUNet_preprocessed, planned."""
    folder = tmp_path / "Dataset007_Toy"
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    return folder


def test_plans_and_split_are_written_and_share_the_preprocessed_data(folder: Path) -> None:
    plans_file, split_file = apply_preset(PRESET, folder, "abcde", "nnUNetPlans", "new")
    assert json.loads(split_file.read_text()) == [PRESET.split]
    written = json.loads(plans_file.read_text())
    configuration = written["configurations"]["3d_fullres"]
    assert written["plans_name"] == "new" and configuration["patch_size"] == [32, 64, 64]
    assert configuration["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert TopoMAEConfig.from_plans(written).finetune_epochs == 7


def test_nothing_is_overwritten(folder: Path) -> None:
    apply_preset(PRESET, folder, "abcd", "nnUNetPlans", "new")
    with pytest.raises(FileExistsError, match="new.json exists and is not overwritten: choose another name with -o"):
        apply_preset(PRESET, folder, "abcd", "nnUNetPlans", "new")
    apply_preset(PRESET, folder, "abcd", "nnUNetPlans", "newer")  # the split that is there is the preset's own
    other = replace(PRESET, split={"train": ["a"], "val": ["b"]})
    with pytest.raises(FileExistsError, match="splits_final.json exists .* move it away for the toy split"):
        apply_preset(other, folder, "abcd", "nnUNetPlans", "newest")
    assert sorted(file.name for file in folder.iterdir()) == [
        "new.json",
        "newer.json",
        "nnUNetPlans.json",
        "splits_final.json",
    ]


def test_what_is_missing_is_said_before_anything_is_written(folder: Path, plans: dict) -> None:
    with pytest.raises(ValueError, match="2 cases of the toy split are not in Dataset007_Toy: b, d. .*: convert toy"):
        apply_preset(PRESET, folder, "ac", "nnUNetPlans", "new")
    with pytest.raises(FileNotFoundError, match="other.json does not exist: name another with -p: nnUNetPlans"):
        apply_preset(PRESET, folder, "abcd", "other", "new")
    with pytest.raises(ValueError, match=r"patch \[32, 64, 65\] is not a multiple"):
        apply_preset(replace(PRESET, patch_size=[32, 64, 65]), folder, "abcd", "nnUNetPlans", "new")
    del plans["configurations"]["3d_fullres"]
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match="no configuration '3d_fullres', only 2d"):
        apply_preset(PRESET, folder, "abcd", "nnUNetPlans", "new")
    assert [file.name for file in folder.iterdir()] == ["nnUNetPlans.json"]


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    content = json.loads((PLANS / "msd_lung.json").read_text())
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content | {"split": {"train": ["a"], "val": ["a"]}}))
    with pytest.raises(ValueError, match="mine.json: listed more than once: a"):
        load_preset(str(file))
    file.write_text(json.dumps({"convert": "-", "topomae": {}}))
    with pytest.raises(ValueError, match="mine.json has no patch_size, split: see plans/README.md"):
        load_preset(str(file))
    for change, message in (
        ({"split": ["a"]}, "no lists of cases in split"),
        ({"split": {"train": [1], "val": []}}, "no lists of cases in split"),
        ({"split": {"train": ["a"]}}, "no cases of train or val in split"),
        ({"patch_size": 64}, "no three sides of a patch"),
        ({"patch_size": [-40, 48, 40]}, "no three sides of a patch"),
        ({"strides": [1, 2, 2]}, "strides that are no rows of three"),
        ({"spacing": [0, 1, 1]}, "a spacing that is not three numbers"),
    ):
        file.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=f"mine.json has {message}"):
            load_preset(str(file))
    file.write_text(json.dumps(content | {"topomae": {"epochs": 3}}))
    with pytest.raises(ConfigError, match="unknown knob 'epochs'"):
        load_preset(str(file))
    file.write_text(json.dumps(content | {"split": {"train": ["a"], "val": ["b"]}}))
    assert load_preset(str(file)).name == "mine"
    with pytest.raises(ValueError, match="no preset 'brats': take one of acdc, btcv, msd_brain, msd_lung, synapse"):
        load_preset("brats")
