from __future__ import annotations

import copy
import os
import random
from functools import partial

import numpy as np
import pytest
import torch

from nnunet_topomae.checkpoint_files import read_restricted, read_trusted_checkpoint
from nnunet_topomae.networks.copretrain import PARTS
from nnunet_topomae.planning.plans_file import configuration_of
from nnunet_topomae.training.checkpoint import (
    Origin,
    read_checkpoint,
    read_pretraining,
)

PLANS = {
    "dataset_name": "Dataset001_A",
    "configurations": {
        "3d_fullres": {
            "spacing": [1.2000000476837158, 1.0, 1.0],
            "normalization_schemes": ["Z"],
            "patch_size": [8, 8, 8],
            "architecture": {},
        }
    },
}
CONTENT = {
    "network_weights": {"weight": torch.arange(3000.0)},
    "init_args": {"plans": PLANS, "configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
}


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(CONTENT, tmp_path / "checkpoint.pth")
    return tmp_path / "checkpoint.pth"


def test_weights_and_origin_are_read(checkpoint):
    content = read_checkpoint(checkpoint)
    assert torch.equal(content.weights["weight"], torch.arange(3000.0))
    assert content.origin == Origin(PLANS, "3d_fullres", 0)


@pytest.mark.parametrize("content", [[1], {"weights": {}}, {"network_weights": 3}, {"network_weights": {"a": 3}}])
def test_other_contents_are_refused(checkpoint, content):
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match="checkpoint.pth holds no 'network_weights'"):
        read_checkpoint(checkpoint)


def test_a_missing_file_is_not_taken_for_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "nowhere.pth")


def test_damage_is_a_value_error_that_names_the_file(checkpoint):
    whole = checkpoint.read_bytes()
    draw = random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole[: draw.randrange(len(whole))])
        for _ in range(draw.randrange(4)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        checkpoint.write_bytes(damaged)
        with pytest.raises(ValueError, match="checkpoint.pth (cannot be read as a checkpoint|holds no)"):
            read_checkpoint(checkpoint)


class Call:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("read", [read_checkpoint, partial(read_restricted, mmap=True)], ids=["whole", "mmap"])
def test_what_could_run_a_program_is_named_and_not_run(checkpoint, monkeypatch, read):
    monkeypatch.chdir(checkpoint.parent)
    torch.save(CONTENT | {"logging": Call()}, checkpoint)
    with pytest.raises(ValueError, match=r"could run a program when it is opened \(\w+.mkdir\)$"):
        read(checkpoint)
    assert not (checkpoint.parent / "executed").exists()


def test_differences_are_named_where_both_are_known():
    here = copy.deepcopy(PLANS)
    origin = Origin(PLANS, "3d_fullres", 0)
    here["configurations"]["3d_fullres"]["spacing"] = [1.2, 1.0, 1.0]
    assert origin.differences(here, configuration_of(here, "3d_fullres")) == []

    here |= {"dataset_name": "Dataset002_B", "transpose_forward": [1, 0, 2], "image_reader_writer": "SimpleITKIO"}
    here["configurations"]["3d_fullres"] |= {"spacing": [3, 1, 1], "normalization_schemes": ["CT", "Z", "CT"]}
    here["configurations"]["3d_fullres"]["patch_size"] = [8, 16, 8]
    assert origin.differences(here, configuration_of(here, "3d_fullres")) == [
        "order of axes (weights follow it): [0, 1, 2] in pre-training, [1, 0, 2] here",
        "dataset: Dataset001_A in pre-training, Dataset002_B here",
        "spacing in mm: [1.2, 1.0, 1.0] in pre-training, [3.0, 1.0, 1.0] here",
        "normalisation: Z in pre-training, CT, Z here",
        "channels: 1 in pre-training, 3 here",
        "patch: [8, 8, 8] in pre-training, [8, 16, 8] here",
    ]


def test_numbers_of_numpy_are_read(checkpoint):
    logged = [np.float64(0.5), np.float32(1), np.int64(2), np.bool_(True)]  # what nnU-Net's trainers log
    torch.save(CONTENT | {"logging": logged, "trainer_name": "nnUNetTrainer"}, checkpoint)
    assert read_checkpoint(checkpoint).kind == "a checkpoint of nnUNetTrainer"


@pytest.mark.parametrize("read", [read_checkpoint, read_trusted_checkpoint])
def test_a_file_in_pytorchs_old_layout_is_read(checkpoint, read):
    torch.save(CONTENT, checkpoint, _use_new_zipfile_serialization=False)
    assert read(checkpoint)


PRETRAINING = {f"{part}a.weight": torch.ones(2) for part in PARTS}
WANTED = "not a checkpoint of TopoMAEPretrainer, which is wanted here"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"trainer_name": "TopoMAEFinetuner", "_best_ema": np.float64(1)}, "a checkpoint of TopoMAEFinetuner"),
        ({"trainer_name": "nnUNetTrainer"}, "a checkpoint of nnUNetTrainer"),
        ({"nnssl_adaptation_plan": {}}, "a checkpoint in the layout of nnssl, with one network"),
        ({}, "a checkpoint of another network, with weights named weight"),
    ],
)
def test_a_checkpoint_of_another_kind_is_named_and_what_is_wanted_is_said(checkpoint, content, kind):
    torch.save({"network_weights": CONTENT["network_weights"]} | content, checkpoint)
    with pytest.raises(ValueError, match=f"checkpoint.pth is {kind}, {WANTED}"):
        read_pretraining(checkpoint)


def test_exported_safetensors_are_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=f"vit_encoder.safetensors holds one network.*{WANTED}"):
        read_pretraining(tmp_path / "vit_encoder.safetensors")


def test_a_pretraining_is_known_by_its_weights_whatever_its_trainer_is_called(checkpoint):
    content = CONTENT | {"network_weights": PRETRAINING, "trainer_name": "MyPretrainer"}
    torch.save(content, checkpoint)
    assert read_pretraining(checkpoint).weights.keys() == PRETRAINING.keys()


@pytest.mark.parametrize("content", [b"not a checkpoint", b""])
def test_a_damaged_file_that_nnunet_is_about_to_read_is_named(checkpoint, content):
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint.pth cannot be read as a checkpoint"):
        read_trusted_checkpoint(checkpoint)
