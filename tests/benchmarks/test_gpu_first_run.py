"""The script for a first run on a GPU, on this machine's CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_first_run.sh"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *map(str, arguments)],
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )


@pytest.mark.slow
def test_every_step_runs_dry_and_is_not_run_again(tmp_path):
    done = run("--dry-run", tmp_path)
    logs = "\n".join(f"== {log.name}\n{log.read_text()[-1500:]}" for log in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0 and done.stdout.count("ended well") == 5, done.stdout + logs
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    for trainer in ("TopoMAEPretrainer", "TopoMAEFinetuner", "nnUNetTrainer"):
        assert page.count(trainer) == 2  # by workers and by the device
    assert "measured / estimate" in (tmp_path / "05_dry_memory.log").read_text()
    again = run("--dry-run", tmp_path)
    assert again.stdout.count("done before") == 5


def test_without_time_it_says_how_to_go_on(tmp_path):
    assert "no time left, call again" in run("--dry-run", tmp_path, MINUTES="0").stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path):
    refused = run(tmp_path)
    assert refused.returncode == 2 and "sees no CUDA device here: --dry-run" in refused.stdout


def test_without_a_folder_it_says_how_it_is_called():
    assert "benchmarks/gpu_first_run.sh RESULTS [DATASET]" in run().stdout
