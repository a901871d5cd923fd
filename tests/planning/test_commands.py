"""describe, plan and apply-preset on the phantom, from the command line."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from nnunet_topomae import cli
from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks import CoPretrainingNetwork
from nnunet_topomae.networks.partners.plan import PlanPartner
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.planning.dataset_preset import preset_names
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


@pytest.fixture
def dataset(phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private copy of the phantom in nnUNet_preprocessed, without a split that other tests may have made."""
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_preprocessed" / phantom.dataset_name
    shutil.copytree(phantom.preprocessed_dataset, folder, ignore=shutil.ignore_patterns("splits_final.json"))
    return folder


def test_plan_writes_plans_that_train_on_the_data_that_are_there(
    dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, refused
) -> None:
    cli.main(["plan", "-d", "100", "--memory", "2", "--preset", "tiny"])
    assert "nnUNetTopoMAEPlans.json: train with -p nnUNetTopoMAEPlans" in capsys.readouterr().out
    refused(
        "plan -d 100 --memory 2 --preset tiny", saying="nnUNetTopoMAEPlans.json exists .* choose another name with -o"
    )

    cli.main(["describe", "-d", "100", "-p", "nnUNetTopoMAEPlans", "--memory", "2"])
    text = capsys.readouterr().out
    plans = json.loads((dataset / "nnUNetTopoMAEPlans.json").read_text())
    batch_size = plans["configurations"]["3d_fullres"]["batch_size"]
    for phase in ("pre-training", "fine-tuning"):
        (row,) = (line.split("|") for line in text.splitlines() if f" {phase} " in line)
        assert row[1].strip() == "tiny" and int(row[-2]) >= batch_size
    edges = " | ".join(map(str, plans["configurations"]["3d_fullres"]["patch_size"]))
    assert edges in " | ".join(text.replace("|", " ").split())

    plans["continue_training"] = False
    dataset_json = json.loads((dataset / "dataset.json").read_text())
    trainer = TopoMAEPretrainer(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    assert trainer.config.preset == "tiny" and trainer.configuration_manager.batch_size == batch_size
    assert Path(trainer.output_folder_base).name == "TopoMAEPretrainer__nnUNetTopoMAEPlans__3d_fullres"
    assert Path(trainer.preprocessed_dataset_folder).is_dir()


def test_plan_like_weights_is_for_images_as_they_know_them(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused
) -> None:
    plans = json.loads((dataset / "nnUNetPlans.json").read_text())
    network = PlanPartner.of(plans["configurations"]["3d_fullres"], "tiny").build(1, 1)
    known = {"spacing": [2, 2, 2], "patch_size": [160] * 3, "normalization_schemes": ["ZScoreNormalization"]}
    plan = {"pretrain_plan": {"configurations": {"onemmiso": known}}}
    file = tmp_path / "weights.pth"
    torch.save({"network_weights": network.state_dict(), "nnssl_adaptation_plan": plan}, file)
    cli.main(["plan", "-d", "100", "--like", str(file), "--preset", "tiny", "-o", "like"])
    assert "preprocess before: nnUNetv2_preprocess -d 100 -plans_name like -c 3d_fullres" in capsys.readouterr().out
    (configuration,) = json.loads((dataset / "like.json").read_text())["configurations"].values()
    assert configuration["spacing"] == [2, 2, 2] and configuration["data_identifier"] == "like_3d_fullres"

    refused(f"plan -d 100 --like {file} --partner unetrpp -o other", saying="is not in it. It holds a plain U-Net")
    pretraining = CoPretrainingNetwork(1, *Blueprint.of(plans["configurations"]["3d_fullres"], TopoMAEConfig()))
    origin = {"init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0}}
    torch.save({"network_weights": pretraining.state_dict(), **origin}, file)
    refused(f"plan -d 100 --like {file} --partner unetrpp -o other", saying="another encoder .* It holds a plain U-Net")
    flat = {"pretrain_plan": {"configurations": {"2d": known | {"spacing": [1, 1], "patch_size": [64, 64]}}}}
    torch.save({"network_weights": network.state_dict(), "nnssl_adaptation_plan": flat}, file)
    refused(f"plan -d 100 --like {file} -o other", saying="take those of a 3D configuration")

    residual = {"encoder.stages.0.blocks.0.conv1.conv.weight": torch.ones(1)}
    torch.save({"network_weights": residual, "nnssl_adaptation_plan": plan}, file)
    refused(f"plan -d 100 --like {file} -o other", saying="holds a residual U-Net. Plan with .* nnUNetPlannerResEncL")
    torch.save({"network_weights": residual}, file)
    refused(f"plan -d 100 --like {file} -o other", saying="does not say what images it was trained on: plan without")


def test_describe_shows_every_preset(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["describe", "-d", "100", "--all-presets"])
    rows = [line for line in capsys.readouterr().out.splitlines() if "pre-training" in line or "fine-tuning" in line]
    assert [row.split()[1] for row in rows] == ["tiny", "tiny", "small", "small", "base", "base"]


def test_apply_preset_says_what_comes_next(
    dataset: Path, phantom, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused
) -> None:
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (phantom.raw_dataset / "labelsTr").iterdir())
    mine = {"convert": "-", "patch_size": [16, 32, 32], "topomae": {}, "split": {"train": cases[:4], "val": cases[4:]}}
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    (tmp_path / "coarse.json").write_text(json.dumps(mine | {"spacing": [2.0, 1.0, 1.0]}))

    cli.main(["apply-preset", str(tmp_path / "mine.json"), "-d", "100"])
    text = capsys.readouterr().out
    assert "nnUNetv2_preprocess" not in text
    assert "train with: nnUNetv2_train 100 3d_fullres 0 -tr TopoMAEPretrainer -p nnUNetPlans_mine" in text

    cli.main(["apply-preset", str(tmp_path / "coarse.json"), "-d", "100", "-o", "coarse"])
    assert "nnUNetv2_preprocess -d 100 -plans_name coarse -c 3d_fullres" in capsys.readouterr().out
    refused(
        "apply-preset synapse -d 100", saying="30 cases of the synapse split are not in Dataset100_Phantom: img0001,"
    )


def test_the_commands_in_the_documentation_exist() -> None:
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    for line in re.findall("^    nnunet-topomae (.+)$", text, re.MULTILINE):
        cli._parser().parse_args(shlex.split(line.replace("-d ID", "-d 1"), comments=True))
    assert set(re.findall(r"^\| .* \| `(\w+)` \|", text, re.MULTILINE)) == set(preset_names())


def test_describe_says_what_it_cannot_do(dataset: Path, refused) -> None:
    refused("describe -d 100 -c 2d", saying="use the configuration 3d_fullres .or 3d_lowres. instead of 2d")
    refused("describe -d 100 -c 3d_lowres", saying="the plans hold no configuration '3d_lowres', only 2d, 3d_fullres")
    refused("describe -d 100 -p nothing", saying="nothing.json does not exist: name another with -p: nnUNetPlans")
