"""One pool of worker threads a process, on which diagrams and matchings are computed.

Threads, not processes: the engines are compiled code that releases the GIL, so threads run side by side on shared
memory. Nothing is pickled, nothing is forked or spawned inside nnU-Net's own workers (which may not have children),
and no process can be left behind. A forked child (a data-loading worker) does not inherit threads: it starts its own.

Why not `concurrent.futures.ThreadPoolExecutor`: when the interpreter exits, after Ctrl-C for example, it first works
through all that was submitted. This pool drops what waits and ends with the tasks that run.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch.distributed

T = TypeVar("T")


def usable_cores() -> int:
    """Cores for this process: those it may run on, divided by the number of DDP ranks on this machine, at least 1.

    The ranks are `LOCAL_WORLD_SIZE` (set by torchrun), else the size of the process group: nnU-Net, which does not set
    the variable, trains on one machine.
    """
    if hasattr(os, "process_cpu_count"):  # Python >= 3.13
        cores = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // _local_ranks())


def submit(function: Callable[..., T], /, *args: Any) -> Future[T]:
    """Run `function(*args)` on a worker. Tasks start in the order of submission; the first one starts the pool.

    A task may wait for another that was submitted *before* it: that one has started by then, so the wait ends.
    """
    global _workers
    with _lock:
        if _workers is None:
            _workers = _Workers(usable_cores())
        return _workers.submit(function, args)


def collect(futures: Sequence[Future[T]]) -> list[T]:
    """The results, in order. After an error, or Ctrl-C while waiting, the tasks that have not started are cancelled."""
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def shutdown() -> None:
    """Cancel what waits, wait for what runs, end the threads. The next `submit` starts a new pool."""
    global _workers
    with _lock:
        workers, _workers = _workers, None
    if workers is not None:
        workers.close()


class _Workers:
    """Threads that take tasks from one queue. Daemons, so that the interpreter's exit does not wait for the queue."""

    def __init__(self, count: int) -> None:
        self.tasks: SimpleQueue[tuple[Future, Callable, tuple] | None] = SimpleQueue()
        self.threads = [threading.Thread(target=self._work, name=f"topology-{i}", daemon=True) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def submit(self, function: Callable, args: tuple) -> Future:
        future: Future = Future()
        self.tasks.put((future, function, args))
        return future

    def close(self) -> None:
        try:
            while True:
                self.tasks.get_nowait()[0].cancel()
        except Empty:
            pass
        for _ in self.threads:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join()

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            future, function, args = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args))
                except BaseException as error:  # whoever asks for the result gets it; the worker lives on
                    future.set_exception(error)
            del task, future, function, args  # an idle worker keeps no volume alive


_workers: _Workers | None = None
_lock = threading.Lock()


def _local_ranks() -> int:
    if "LOCAL_WORLD_SIZE" in os.environ:
        return max(1, int(os.environ["LOCAL_WORLD_SIZE"]))
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def _forget() -> None:
    """In a forked child: the threads are gone, and the lock may have been held by one of them."""
    global _workers, _lock
    _workers, _lock = None, threading.Lock()


atexit.register(shutdown)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
