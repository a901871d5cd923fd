"""Training under torchrun: two machines, played by two agents of torchrun on this one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_topomae import launch

EPOCHS = 5
KNOBS = {
    "preset": "tiny",
    "partner": "unetrpp",
    "pretrain_epochs": EPOCHS,
    "finetune_epochs": 1,
    "iterations_per_epoch": 1,
    "val_iterations_per_epoch": 1,
    "weight_topology": 0,
    "seed": 0,
}


@pytest.fixture
def results(phantom, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    for name, value in KNOBS.items():
        monkeypatch.setenv(f"NNUNET_TOPOMAE_{name.upper()}", str(value))
    return tmp_path / "results" / phantom.dataset_name


def fold_of(results: Path, trainer: str) -> Path:
    return results / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"


class Machine:
    """An agent of torchrun with one process, and all of them in a group that dies together."""

    def __init__(self, port: int, log: Path) -> None:
        options = "--nnodes 2 --nproc_per_node 1 --max-restarts 3 --rdzv-backend c10d --rdzv-id job"
        options += f" --rdzv-endpoint localhost:{port}"
        command = "nnunet_topomae.launch Dataset100_Phantom 3d_fullres 0 -tr TopoMAEPretrainer -device cpu"
        self.log = log
        with log.open("a") as output:
            self.agent = subprocess.Popen(
                [Path(sys.executable).parent / "torchrun", *options.split(), "-m", *command.split()],
                env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},  # see docs/speed.md
                stdout=output,
                stderr=output,
            )

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.agent.pid}/task").glob("*/children")
        return [int(pid) for file in children for pid in file.read_text().split()]

    def kill(self) -> None:
        if self.agent.poll() is None:
            self.agent.send_signal(signal.SIGSTOP)  # so that it starts nothing anew
            for pid in (*self.workers(), self.agent.pid):
                os.kill(pid, signal.SIGKILL)
            self.agent.wait()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


def wait_for(condition, *machines: Machine, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        lost = [m for m in machines if m.agent.poll() not in (None, 0)]
        if lost or time.monotonic() > deadline:
            pytest.fail("\n".join(m.log.read_text()[-4000:] for m in lost or machines))
        time.sleep(0.02)


def test_a_training_survives_the_loss_of_a_process_and_of_a_machine(results, tmp_path, free_port):
    fold, port = fold_of(results, "TopoMAEPretrainer"), free_port()
    latest, final = fold / "checkpoint_latest.pth", fold / "checkpoint_final.pth"

    def logs() -> list[str]:
        return [file.read_text() for file in sorted(fold.glob("training_log_*.txt"))]

    first = Machine(port, tmp_path / "first.log")
    wait_for(lambda: answers(port), first)  # the agent that opens the port holds the rendezvous, and must not be lost
    second = Machine(port, tmp_path / "second.log")
    try:
        wait_for(latest.is_file, first, second)
        second.kill()
        second = Machine(port, tmp_path / "again.log")
        wait_for(lambda: len(logs()) == 2 and "Epoch" in logs()[1], first, second)
        os.kill(first.workers()[0], signal.SIGKILL)
        wait_for(final.is_file, first, second)
        wait_for(lambda: first.agent.poll() == second.agent.poll() == 0, first, second)
    finally:
        first.kill()
        second.kill()

    checkpoint = torch.load(final, weights_only=True)
    assert checkpoint["current_epoch"] == EPOCHS
    assert {len(curve) for curve in checkpoint["logging"].values() if curve} == {EPOCHS}
    start, *restarts = logs()
    assert len(restarts) == 2 and "Going on after" not in start
    assert all("Going on after" in log for log in restarts)
    assert (fold / "validation" / "summary.json").is_file()


def test_nnunets_own_trainers_run_too(results, monkeypatch, on_two_ranks):
    monkeypatch.setenv("nnUNet_extTrainer", str(Path(__file__).parent / "commands" / "trainers"))
    monkeypatch.setattr(nnUNetTrainer, "default_num_processes", 1)
    fold = fold_of(results, "OneStepTrainer")

    on_two_ranks(lambda rank: launch.main("100 3d_fullres 0 -tr OneStepTrainer -device cpu --npz".split()))
    assert torch.load(fold / "checkpoint_final.pth", weights_only=False)["current_epoch"] == 1
    assert len(list((fold / "validation").glob("*.npz"))) == 2


def test_pretrained_weights_fill_all_but_the_segmentation_layers(tmp_path):
    def network(width: int, classes: int) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "encoder": nn.Linear(4, width),
                "decoder": nn.ModuleDict({"seg_layers": nn.ModuleList([nn.Linear(width, classes)])}),
            }
        )

    pretrained, ours = network(3, 2), network(3, 5)
    torch.save({"network_weights": pretrained.state_dict()}, tmp_path / "weights.pth")
    launch.load_pretrained_weights(ours, str(tmp_path / "weights.pth"))
    assert torch.equal(ours["encoder"].weight, pretrained["encoder"].weight)
    assert ours["decoder"]["seg_layers"][0].weight.shape == (5, 3)

    ours = network(3, 5)
    launch.load_pretrained_weights(torch.compile(ours), str(tmp_path / "weights.pth"))
    assert torch.equal(ours["encoder"].weight, pretrained["encoder"].weight)

    with pytest.raises(ValueError, match="weights.pth does not fit this network.* encoder.weight, encoder.bias"):
        launch.load_pretrained_weights(network(7, 2), str(tmp_path / "weights.pth"))


def test_machines_that_see_different_checkpoints_are_an_error(results, phantom, tmp_path, on_two_ranks):
    """As where machines do not share a file system: each rank has a results folder of its own."""

    def of_rank(rank: int) -> str:
        os.environ["nnUNet_results"] = str(tmp_path / f"machine_{rank}")
        fold = fold_of(tmp_path / f"machine_{rank}" / phantom.dataset_name, "TopoMAEPretrainer")
        fold.mkdir(parents=True)
        if rank == 0:
            (fold / "checkpoint_latest.pth").touch()
        with pytest.raises(RuntimeError) as error:
            launch.main(f"{phantom.dataset_id} 3d_fullres 0 -tr TopoMAEPretrainer -device cpu".split())
        return str(error.value)

    for message in on_two_ranks(of_rank):
        assert "by rank: [['checkpoint_latest.pth'], []]" in message
        assert "a file system that all machines share" in message


def test_without_torchrun_it_says_so(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(SystemExit, match="start this with torchrun"):
        launch.main("100 3d_fullres 0".split())
