"""Trainers built in this process, on copies of the phantom's folders that a test may spoil."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

BUDGET = {
    "preset": "tiny",
    "pretrain_epochs": 1,
    "finetune_epochs": 1,
    "iterations_per_epoch": 2,
    "val_iterations_per_epoch": 1,
    "validation_crops": 1,
    "topology_max_side": 12,
    "seed": 0,
}


@dataclass(frozen=True)
class Workshop:
    """A private copy of the phantom's preprocessed folder and an empty results folder, both set for nnU-Net."""

    dataset: Path
    results: Path

    @property
    def plans(self) -> dict:
        return json.loads((self.dataset / "nnUNetPlans.json").read_text())

    @property
    def images(self) -> Path:
        return self.dataset / "nnUNetPlans_3d_fullres"

    def build(
        self, trainer: type[nnUNetTrainer], configuration: str = "3d_fullres", plans=None, **knobs
    ) -> nnUNetTrainer:
        plans = plans or self.plans
        plans["topomae"] = BUDGET | knobs
        plans["continue_training"] = False
        dataset_json = json.loads((self.dataset / "dataset.json").read_text())
        return trainer(
            plans=plans, configuration=configuration, fold=0, dataset_json=dataset_json, device=torch.device("cpu")
        )


@pytest.fixture
def workshop(phantom, tmp_path, monkeypatch) -> Workshop:
    shutil.copytree(phantom.preprocessed_dataset, tmp_path / "preprocessed" / phantom.dataset_name)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # in this process, in order
    return Workshop(tmp_path / "preprocessed" / phantom.dataset_name, tmp_path / "results" / phantom.dataset_name)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
