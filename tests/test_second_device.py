"""The tests in `second_device/` fork, which a process that has run others cannot: their threads are not in the fork."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_on_a_second_device() -> None:
    folder = Path(__file__).with_name("second_device")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:xdist", str(folder)]
    environment = os.environ | {"SECOND_DEVICE": "1"}
    run = subprocess.run(command, env=environment, cwd=folder.parents[1], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    if " passed" not in run.stdout:
        pytest.skip(run.stdout.strip().splitlines()[-2])
