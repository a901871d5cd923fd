"""A pre-training is exported, its model card is filled in, and the real client uploads it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from nnunet_topomae import cli
from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.hub import local_weights
from nnunet_topomae.networks import CoPretrainingNetwork
from nnunet_topomae.planning.blueprint import Blueprint

CASES = {"0f1e2d": "Anna_Meier", "3c4b5a": "Bo_Li"}
SECRETS = [*CASES.values(), *CASES, "/home/anna"]
OPENMIND = f"hf://AnonRes/ResEncL-OpenMind-MAE@{'ab' * 20}/checkpoint_final.pth"
STATEMENT = "Brain MRI of Lab, with consent (board 7/2026)."


@pytest.fixture(scope="module")
def checkpoint(planned_network, tmp_path_factory) -> Path:
    """Of a pre-training on two patients that began with OpenMind's weights."""
    configuration = {
        "patch_size": [16, 16, 16],
        "batch_size": 2,
        "spacing": [1.0, 0.5, 0.5],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": planned_network("PlainConvUNet", [[1, 1, 1], [2, 2, 2], [2, 2, 2]]),
    }
    plans = {
        "dataset_name": "Dataset007_Brains",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {"mean": 40.0}},
        "configurations": {"3d_fullres": configuration},
        "topomae": {"mask_ratio": 0.6, "pretrained": "/home/anna/openmind.pth"},
    }
    network = CoPretrainingNetwork(1, *Blueprint.of(configuration, TopoMAEConfig.from_plans(plans)))
    chain = [
        {"source": OPENMIND, "licence": "cc-by-4.0", "kind": "nnssl's"},
        {"source": "/home/anna/checkpoint_best.pth", "licence": "", "kind": "a checkpoint of TopoMAEPretrainer"},
    ]
    init_args = {
        "plans": plans,
        "configuration": "3d_fullres",
        "fold": 0,
        "dataset_json": {"channel_names": {"0": "T1"}},
        "cases_seen": {"Dataset007_Brains": CASES},
        "provenance": chain,
    }
    logging = {"train_losses": [2.0, 1.0], "error_over_harmonic_vit": [1.5, 0.75], "vit_token_std": [0.5, float("nan")]}
    file = tmp_path_factory.mktemp("pre-training") / "checkpoint_final.pth"
    torch.save({"network_weights": network.state_dict(), "init_args": init_args, "logging": logging}, file)
    return file


@pytest.fixture
def exported(checkpoint, tmp_path) -> Path:
    folder = tmp_path / "exported"
    cli.main(["export-encoder", str(checkpoint), "-o", str(folder)])
    return folder


@pytest.fixture
def finished(exported) -> Path:
    """With the fields of the card filled in as their owner would, who adds something of his own."""
    card = exported / "README.md"
    text = (
        card.read_text()
        .replace("license:", "license: cc-by-sa-4.0")
        .replace("## Pre-training", f"{STATEMENT}\n\n## Pre-training")
    )
    card.write_text(text)
    return exported


@pytest.fixture
def push(monkeypatch, hub):
    """`push(folder, *options)`, logged in."""
    monkeypatch.setenv("HF_TOKEN", hub.token)

    def push(folder: Path, *options: str) -> None:
        cli.main(["export-encoder", "-o", str(folder), "--push", "Lab/Brains", *options])

    return push


def test_the_card_tells_what_is_known(exported, capsys):
    text = (exported / "README.md").read_text()
    data = ModelCard(text).data
    assert data.library_name == "nnunet-topomae" and data.base_model == ["AnonRes/ResEncL-OpenMind-MAE"]
    assert data.license is None
    for line in (
        "| images        | 2 of Dataset007_Brains",
        "| channels      | T1",
        "| spacing       | 1 × 0.5 × 0.5 mm",
        "| length        | 2 epochs of 250 steps, batch 2",
        "- `mask_ratio`: 0.6\n",
        f"- {OPENMIND} (nnssl's; licence: cc-by-4.0)\n- checkpoint_best.pth (",
        "harmonic inpainting, which learns nothing | 0.75 | –",
        "-tr nnUNetTrainerAdam1en3 -pretrained_weights plan_network_nnunet.pth",
    ):
        assert line in text
    assert (
        json.loads((exported / "encoders.json").read_text())["pretraining"]["provenance"][0]["licence"] == "cc-by-4.0"
    )


def test_nothing_that_is_written_names_a_case(checkpoint, exported, tmp_path):
    files = {file.name: file.read_bytes() for file in exported.iterdir()}
    assert len(files) == 6
    assert not [(name, secret) for name, content in files.items() for secret in SECRETS if secret.encode() in content]
    asked = tmp_path / "asked for"
    cli.main(["export-encoder", str(checkpoint), "-o", str(asked), "--fingerprints"])
    found = {secret for file in asked.iterdir() for secret in SECRETS if secret.encode() in file.read_bytes()}
    assert found == set(CASES)


def test_what_is_not_filled_in_is_not_uploaded(exported, push, hub, refused, capsys):
    refused(f"export-encoder --push Lab/Brains -o {exported}", saying="fill in `license:` at the top and the section")
    card = exported / "README.md"
    card.write_text(card.read_text().replace("license:", "license: cc-by-4.0"))
    refused(f"export-encoder --push Lab/Brains -o {exported}", saying="fill in the section 'Data statement'$")
    card.write_text(card.read_text().replace("license:", "license: ["))
    refused(f"export-encoder --push Lab/Brains -o {exported}", saying="are no YAML")
    refused(f"export-encoder --push Lab/Brains -o {exported.parent}", saying="has no README.md and encoders.json")
    refused(f"export-encoder --push Brains -o {exported}", saying="--push takes OWNER/NAME")
    assert not hub.requests


def test_an_upload_is_one_commit_to_a_private_repository(finished, push, hub, capsys):
    push(finished, "--yes")
    repository = hub.repositories["Lab/Brains"]
    assert repository.private and len(repository.commits) == 2  # the first is empty
    files = dict(repository.commits[repository.revisions["main"]])
    assert sorted(files) == sorted(file.name for file in finished.iterdir())
    card = files.pop("README.md").decode()
    assert "PRETRAINED=hf://Lab/Brains NNUNET_TOPOMAE_PARTNER=plan NNUNET_TOPOMAE_PRESET=tiny\n" in card
    assert STATEMENT in card
    assert files == {name: (finished / name).read_bytes() for name in files}
    told = capsys.readouterr().out
    assert "a new repository, private" in told and "licence cc-by-sa-4.0; no names of cases, no fingerprints" in told
    assert f"began with {OPENMIND} (nnssl's; licence: cc-by-4.0)" in told
    assert told.splitlines()[-1] == f"{hub.endpoint}/Lab/Brains/commit/{repository.revisions['main']}"

    sent = b"".join([*hub.received, *files.values(), card.encode()])  # in the first, files are coded by base 64
    assert not [secret for secret in SECRETS if secret.encode() in sent]
    assert local_weights("hf://Lab/Brains").licence == "cc-by-sa-4.0"


def test_an_upload_to_a_repository_that_is_there_adds_to_it(finished, push, hub, capsys):
    first = hub.commit("Lab/Brains", {"notes.txt": b"theirs", "README.md": b"old"})
    push(finished, "--yes")
    repository = hub.repositories["Lab/Brains"]
    files = repository.commits[repository.revisions["main"]]
    assert files["notes.txt"] == b"theirs" and files["README.md"] != b"old" and first in repository.commits
    assert "Lab/Brains, which is public:" in capsys.readouterr().out and not repository.private


@pytest.mark.parametrize(("answer", "uploads"), [("", False), ("n", False), ("y", True), ("Yes", True)])
def test_there_is_a_question_before_an_upload(finished, push, hub, monkeypatch, capsys, answer, uploads):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    push(finished)
    assert ("Lab/Brains" in hub.repositories) == uploads
    assert ("Nothing was uploaded." in capsys.readouterr().out) != uploads


def test_a_script_has_to_say_yes(finished, push, hub, refused):
    refused(f"export-encoder --push Lab/Brains -o {finished}", saying="no terminal to ask, --yes uploads")
    assert "Lab/Brains" not in hub.repositories


def test_who_may_not_write_is_told_so(finished, hub, refused, monkeypatch):
    for token, status in ((None, 401), ("hf_of_a_stranger", 403)):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        command = f"export-encoder --yes --push Lab/Brains -o {finished}"
        refused(command, saying=rf"access was refused \({status}\): log in with `hf auth login`")
    hub.stop()
    refused(command, saying="refused.*look at the connection")


def test_to_export_again_keeps_what_was_filled_in(checkpoint, finished, tmp_path, refused):
    before = {file: file.stat().st_mtime_ns for file in finished.iterdir()}
    refused(f"export-encoder {checkpoint} -o {finished}", saying="README.md.*vit_encoder.*not overwritten. Use --force")
    assert before == {file: file.stat().st_mtime_ns for file in finished.iterdir()}
    cli.main(["export-encoder", str(checkpoint), "-o", str(finished), "--force"])
    assert all(file.stat().st_mtime_ns > time for file, time in before.items())
    text = (finished / "README.md").read_text()
    assert "license: cc-by-sa-4.0\n" in text and f"\n{STATEMENT}\n" in text
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "README.md").write_text("# My project\n")
    refused(f"export-encoder {checkpoint} -o {theirs} --force", saying="README.md was not written by export-encoder")
    assert [file.name for file in theirs.iterdir()] == ["README.md"]
