import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from operator import mul

import pytest
import torch

from nnunet_topomae.topology import pool


@pytest.fixture(autouse=True)
def fresh_pool() -> Iterator[None]:
    pool.shutdown()
    yield
    pool.shutdown()


def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "usable_cores", lambda: 1)


def set_cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: count, raising=False)


def test_results_come_in_the_order_of_submission() -> None:
    assert pool.collect([pool.submit(mul, i, i) for i in range(50)]) == [i * i for i in range(50)]


def test_one_pool_serves_all() -> None:
    pool.submit(int).result()
    threads = set(threading.enumerate())
    pool.submit(int).result()
    assert set(threading.enumerate()) == threads


def test_a_task_may_wait_for_an_earlier_one_even_with_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    one_worker(monkeypatch)
    first = pool.submit(mul, 2, 3)
    assert pool.submit(lambda: first.result() + 1).result(timeout=10) == 7


def test_an_error_cancels_what_waits_and_leaves_the_pool_in_working_order(monkeypatch: pytest.MonkeyPatch) -> None:
    one_worker(monkeypatch)
    gate = threading.Event()
    futures = [pool.submit(int, "seven"), *(pool.submit(gate.wait, 60) for _ in range(5))]
    with pytest.raises(ValueError, match="seven"):
        pool.collect(futures)
    assert all(future.cancelled() for future in futures[2:])
    gate.set()
    assert pool.submit(mul, 6, 7).result(timeout=10) == 42


def test_shutdown_cancels_what_waits_and_the_next_task_starts_a_new_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    one_worker(monkeypatch)
    running, waiting = pool.submit(time.sleep, 0.1), pool.submit(time.sleep, 60)
    pool.shutdown()
    assert running.done() and waiting.cancelled()
    assert pool.submit(mul, 6, 7).result(timeout=10) == 42


def occupied(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A pool with one worker, which is busy until the event is set."""
    one_worker(monkeypatch)
    begin, end = threading.Event(), threading.Event()

    def wait() -> None:
        begin.set()
        end.wait(60)

    first = pool.submit(wait)
    assert begin.wait(60) and not first.done()
    return end


def test_the_longest_task_starts_first(monkeypatch: pytest.MonkeyPatch) -> None:
    end, order = occupied(monkeypatch), []
    tasks = [pool.submit(order.append, size, size=size) for size in (3, 1, 4, 2)]
    tasks.append(pool.submit(order.append, 5, size=lambda size: size))
    end.set()
    pool.collect(tasks)
    assert order == [5, 4, 3, 2, 1]


def test_arguments_that_are_futures_stand_for_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    end = occupied(monkeypatch)
    six = pool.submit(mul, 2, 3)
    product = pool.submit(mul, six, pool.submit(mul, six, 2), size=100)  # the one that waits holds its arguments
    failed = pool.submit(mul, pool.submit(mul, None, None), 2)
    end.set()
    assert product.result(timeout=10) == 72
    with pytest.raises(TypeError):
        failed.result(timeout=10)
    assert pool.submit(mul, six, 7).result(timeout=10) == 42


def test_what_somebody_waits_for_comes_before_what_was_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C outside of `collect`, when the work that was submitted is still held by some variable."""
    end, order = occupied(monkeypatch), []
    left = [pool.submit(order.append, "left", size=9) for _ in range(20)]
    wanted = pool.submit(str, pool.submit(order.append, "wanted"))
    end.set()
    pool.collect([wanted])
    assert order.index("wanted") <= 1
    pool.collect(left)
    assert len(order) == 21


def test_what_nobody_holds_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    end, order = occupied(monkeypatch), []
    held = pool.submit(order.append, "held")
    needed = pool.submit(str, pool.submit(order.append, "needed"))
    dropped = [pool.submit(order.append, "dropped"), pool.submit(str, pool.submit(order.append, "dropped"))]
    del dropped
    end.set()
    pool.collect([held, needed])
    assert sorted(order) == ["held", "needed"]


def test_cores_are_those_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU affinity")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    before = os.sched_getaffinity(0)
    assert pool.usable_cores() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert pool.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("cores, ranks, expected", [(16, "4", 4), (16, "1", 16), (2, "8", 1)])
def test_ranks_on_one_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, ranks: str, expected: int
) -> None:
    set_cores(monkeypatch, cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert pool.usable_cores() == expected


def test_ranks_are_read_from_the_process_group_where_the_launcher_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cores(monkeypatch, 16)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert pool.usable_cores() == 16
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert pool.usable_cores() == 8


def product_in_child(queue: multiprocessing.Queue) -> None:
    queue.put(pool.collect([pool.submit(mul, i, 2) for i in range(4)]))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_child_processes_have_pools_of_their_own(method: str) -> None:
    pool.submit(int).result()  # the parent's threads run when the child is made
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=product_in_child, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=60) == [0, 2, 4, 6]
    child.join(timeout=10)
    assert child.exitcode == 0


@pytest.mark.parametrize("meanwhile", ["pool.collect(futures)", "time.sleep(60)"])
def test_ctrl_c_ends_the_process_at_once(meanwhile: str) -> None:
    script = f"""
import signal, time
from nnunet_topomae.topology import pool
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a shell inherit that it is ignored
futures = [pool.submit(time.sleep, 0.5) for _ in range(1000)]
print("started", flush=True)
{meanwhile}
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script], **pipes, text=True)
    assert process.stdout.readline() == "started\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 10
    assert "KeyboardInterrupt" in errors and process.returncode != 0
