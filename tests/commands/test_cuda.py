"""What only a GPU can show: compiled networks under mixed precision, and nnU-Net's own way to several GPUs."""

from __future__ import annotations

import math

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture
def train_on_cuda(phantom, smallest_budget, tmp_path, monkeypatch):
    """Both trainers by nnUNetv2_train with `options`; the checkpoints and what was printed, by trainer."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_compile", "t")
    monkeypatch.setenv("NNUNET_TOPOMAE_ITERATIONS_PER_EPOCH", "4")

    def both(*options: object) -> dict[str, tuple[dict, str]]:
        trained = {}
        for trainer in ("TopoMAEPretrainer", "TopoMAEFinetuner"):
            command = ("nnUNetv2_train", phantom.dataset_id, "3d_fullres", 0, "-tr", trainer, "-device", "cuda")
            log = phantom.run(*command, *options).stdout
            fold = tmp_path / phantom.dataset_name / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"
            trained[trainer] = torch.load(fold / "checkpoint_final.pth", weights_only=False), log
        return trained

    return both


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_both_trainers_compile_and_stay_finite_in_half_precision(train_on_cuda):
    for checkpoint, log in train_on_cuda().values():
        assert "Using torch.compile" in log
        assert checkpoint["grad_scaler_state"]["scale"] >= 1  # it halves whenever a gradient overflows
        assert all(math.isfinite(loss) for loss in checkpoint["logging"]["train_losses"])
        assert all(weight.isfinite().all() for weight in checkpoint["network_weights"].values())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_both_trainers_train_on_two_gpus(train_on_cuda):
    for checkpoint, _ in train_on_cuda("-num_gpus", 2).values():
        assert checkpoint["current_epoch"] == 1
        assert not any(name.startswith("module.") for name in checkpoint["network_weights"])
