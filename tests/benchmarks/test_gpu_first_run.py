"""The script for a first run on a GPU, on this machine's CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_first_run.sh"
STEPS = 9


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
    environment = {"SCRATCH": str(tmp_path / "scratch"), "MINUTES": "25"}
    done = run("--dry-run", tmp_path, **environment)
    logs = "\n".join(f"== {log.name}\n{log.read_text()[-1500:]}" for log in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0 and done.stdout.count("ended well") == STEPS, done.stdout + logs
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert page.count("TopoMAEPretrainer") == 2  # by workers and by the device
    assert "measured / estimate" in (tmp_path / "07_dry_memory.log").read_text()
    assert "checkpoint_final.pth" in (tmp_path / "03_dry_finetuning.log").read_text()  # of the step before
    again = run("--dry-run", tmp_path, **environment)
    assert again.stdout.count("done before") == STEPS


def test_without_time_it_says_how_to_go_on(tmp_path):
    out = run("--dry-run", tmp_path, MINUTES="0", SCRATCH=str(tmp_path / "scratch")).stdout
    assert out.count("no time left, call again") == STEPS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path):
    refused = run(tmp_path)
    assert refused.returncode == 2 and "sees no CUDA device here: --dry-run" in refused.stdout


def test_without_a_folder_it_says_how_it_is_called():
    assert "benchmarks/gpu_first_run.sh RESULTS [DATA]" in run().stdout
