import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = """
import multiprocessing
import os
import time
from pathlib import Path

import few_labels


def train(out: Path) -> str:
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(300,), daemon=True)
    worker.start()
    started = out / "started"
    started.with_suffix(".partial").write_text(f"{os.getpid()} {worker.pid}")
    started.with_suffix(".partial").rename(started)
    time.sleep(300)


if __name__ == "__main__":
    few_labels._in_processes(train, [(Path.cwd(),)], jobs=1)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_killed_it_leaves_no_training_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    (tmp_path / "main.py").write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, "main.py"], cwd=tmp_path)
    try:
        assert wait_for(lambda: (tmp_path / "started").is_file())
    finally:
        process.kill()
        process.wait()
    left = [Path("/proc", pid) for pid in (tmp_path / "started").read_text().split()]
    assert wait_for(lambda: not any(is_running(pid) for pid in left))


def wait_for(condition, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def is_running(process: Path) -> bool:
    try:
        return "Z" not in (process / "stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False
