from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks.presets import PRESETS, ViTConfig
from nnunet_topomae.networks.summary import NetworkSummary
from nnunet_topomae.planning import memory
from nnunet_topomae.planning.gpu_fit import GPUFit, gpu_memory
from nnunet_topomae.planning.memory import GIB, USABLE_MEMORY

PATCH = (64, 64, 64)
BYTES_PER_VOXEL = {"tiny": 250, "small": 500, "base": 1000}
BOTH = ("pre-training", "fine-tuning")


@pytest.fixture(autouse=True)
def simple_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks whose memory is known; fine-tuning takes twice as much as pre-training."""

    def cost(factor: int):  # noqa: ANN202
        def summarise(*arguments: object) -> NetworkSummary:
            (vit,) = (argument for argument in arguments if isinstance(argument, ViTConfig))
            name = next(name for name, preset in PRESETS.items() if preset == vit)
            return NetworkSummary(0, 0, 0, factor * BYTES_PER_VOXEL[name] * int(np.prod(PATCH)))

        return summarise

    monkeypatch.setattr(memory, "summarise_pretraining", cost(1))
    monkeypatch.setattr(memory, "summarise_finetuning", cost(2))


def fit(plans: dict, dataset_json: dict, crops: float, preset: str = "base", phases: tuple = BOTH) -> GPUFit:
    """A batch of four on a card with room for so many crops in fine-tuning with preset base."""
    card = crops * 2000 * np.prod(PATCH) / USABLE_MEMORY / GIB
    return GPUFit(plans, dataset_json, "3d_fullres", TopoMAEConfig(preset=preset), phases, 4, card)


def test_a_training_fits_if_all_phases_do(plans: dict, dataset_json: dict) -> None:
    assert fit(plans, dataset_json, 4.01).fits
    assert not fit(plans, dataset_json, 3.99).fits
    assert fit(plans, dataset_json, 2.01, phases=BOTH[:1]).fits


def test_the_advice_names_need_card_preset_and_command(plans: dict, dataset_json: dict) -> None:
    advice = fit(plans, dataset_json, 3).advice()
    need = 4 * 2000 * np.prod(PATCH) / USABLE_MEMORY / GIB
    assert f"preset base needs, at patch 64×64×64 and batch 4: pre-training {need / 2:.1f} GiB, fine-tuning" in advice
    assert f"fine-tuning {need:.1f} GiB; this GPU has {need * 3 / 4:.1f} GiB" in advice
    assert "Preset small fits: NNUNET_TOPOMAE_PRESET=small, in both phases." in advice
    command = f"plan -d {plans['dataset_name']} -p {plans['plans_name']} --memory {need * 3 / 4:.1f} --preset base"
    assert advice.endswith(f"nnunet-topomae {command}")


def test_the_advised_command_measures_the_same_partner(plans: dict, dataset_json: dict) -> None:
    own = replace(fit(plans, dataset_json, 3), config=TopoMAEConfig(partner="unetrpp"))
    assert own.advice().endswith("--preset base --partner unetrpp")


def test_the_largest_preset_that_fits_is_named(plans: dict, dataset_json: dict) -> None:
    assert "Preset tiny fits" in fit(plans, dataset_json, 1.01).advice()
    assert "No smaller preset fits" in fit(plans, dataset_json, 0.5).advice()
    assert "No smaller preset fits" in fit(plans, dataset_json, 0.1, preset="tiny").advice()


def test_where_the_estimate_fits_the_advice_is_to_plan_for_less_than_it(plans: dict, dataset_json: dict) -> None:
    advice = fit(plans, dataset_json, 8).advice()
    need = 4 * 2000 * np.prod(PATCH) / USABLE_MEMORY / GIB
    assert "Is another program using it?" in advice and f"--memory {0.75 * need:.1f} " in advice


def test_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=8 * GIB))
    assert gpu_memory(torch.device("cuda", 1)) == 8
    assert gpu_memory(torch.device("cpu")) is None
