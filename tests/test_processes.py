"""What becomes of the processes that share the work when it, or they, are ended from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_topomae.processes import in_processes

SLEEPERS = """
import sys, time
from nnunet_topomae.processes import in_processes
try:
    list(in_processes(time.sleep, {i: (60,) for i in range(4)}, 2, "sleeping"))
except KeyboardInterrupt:
    sys.exit("interrupted")
"""


@pytest.mark.parametrize("num_processes", [1, 2])
def test_every_key_comes_with_its_result(num_processes):
    assert dict(in_processes(pow, {n: (n, 2) for n in range(5)}, num_processes, "")) == {n: n * n for n in range(5)}


def test_a_process_that_is_killed_is_said():
    with pytest.raises(RuntimeError, match="memory: take fewer with -np"):
        list(in_processes(os._exit, {0: (9,), 1: (9,)}, 2, ""))


def test_what_fails_ends_the_others():
    start = time.monotonic()
    with pytest.raises(TypeError):
        list(in_processes(time.sleep, {0: ("x",), 1: (60,)}, 2, ""))
    assert time.monotonic() - start < 30


@pytest.fixture
def sleepers():
    """A process with two workers, all in a group of their own."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPERS], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(children(process.pid)) < 3:  # with the resource tracker
        time.sleep(0.05)
    yield process
    if in_group(process.pid):
        os.killpg(process.pid, signal.SIGKILL)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def in_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the children are listed in /proc")
@pytest.mark.parametrize(
    ("delay", "end", "says"),
    [
        (0.0, lambda pid: os.killpg(pid, signal.SIGINT), "^interrupted\n$"),  # Ctrl-C while they start
        (1.5, lambda pid: os.killpg(pid, signal.SIGINT), "^interrupted\n$"),  # and while they work
        (1.5, lambda pid: os.kill(pid, signal.SIGTERM), ""),
        (1.5, lambda pid: os.kill(pid, signal.SIGKILL), ""),
    ],
)
def test_none_outlives_the_one_that_started_it(sleepers, delay: float, end: Callable[[int], None], says: str):
    time.sleep(delay)
    end(sleepers.pid)
    _, errors = sleepers.communicate(timeout=30)
    assert re.search(says, errors) and "Traceback" not in errors and sleepers.returncode
    deadline = time.monotonic() + 10
    while in_group(sleepers.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not in_group(sleepers.pid)
