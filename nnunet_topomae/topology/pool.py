"""One pool of worker threads a process, on which diagrams and matchings are computed.

Threads, not processes: the engines are compiled code that releases the GIL, so threads run side by side on shared
memory. Nothing is pickled, nothing is forked or spawned inside nnU-Net's own workers (which may not have children),
and no process can be left behind. A forked child (a data-loading worker) does not inherit threads: it starts its own.

Why not `concurrent.futures.ThreadPoolExecutor`: it works through all that was submitted, in that order, even when the
interpreter exits or nobody can ask for a result any more, after Ctrl-C for example. This pool starts with what somebody
waits for, the longest task first, and drops what nobody holds.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

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


def submit(function: Callable[..., T], /, *args: Any, size: float | Callable[..., float] = 0) -> Future[T]:
    """Run `function(*args)` on a worker. The first task starts the pool.

    Arguments that are futures stand for their results: the task waits its turn when they are there, and fails as they
    fail. It is not started once nobody holds the future that is returned, nor a task that needs it.

    Args:
        size: how long the task takes, in any unit, or a function of the arguments that says so.
    """
    global _workers
    task = _Task(function, args, size)
    with _lock:
        if _workers is None:
            _workers = _Workers(usable_cores())
        workers = _workers
    workers.put_when_ready(task)
    return task


def collect(futures: Sequence[Future[T]]) -> list[T]:
    """The results, in order; these tasks and what they need come before all that nobody waits for.

    After an error, or Ctrl-C while waiting, the tasks that have not started are cancelled.
    """
    try:
        if _workers is not None:
            _workers.hurry(futures)
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


class _Task(Future[T]):
    """A future that knows its work. Whoever waits for it holds it; the queue does not."""

    def __init__(self, function: Callable[..., T], args: tuple[Any, ...], size: float | Callable[..., float]) -> None:
        super().__init__()
        self.function = function
        self.args = args
        self.size = size
        self.urgent = False

    @property
    def needs(self) -> list[Future[Any]]:
        return [arg for arg in self.args if isinstance(arg, Future)]

    def run(self) -> None:
        if not self.set_running_or_notify_cancel():
            return
        function, args = self.function, self.args
        del self.function  # whoever keeps the result need not keep the volume
        self.args = ()
        try:
            self.set_result(function(*args))
        except BaseException as error:  # whoever asks for the result gets it; the worker lives on
            self.set_exception(error)


class _Workers:
    """Threads that take tasks from one queue. Daemons, so that the interpreter's exit does not wait for the queue."""

    def __init__(self, count: int) -> None:
        self.queue: list[tuple[bool, float, int, weakref.ref[_Task[Any]]]] = []  # a heap: urgent, long, old tasks first
        self.numbers = itertools.count()
        self.changed = threading.Condition()
        self.closed = False
        self.threads = [threading.Thread(target=self._work, name=f"topology-{i}", daemon=True) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def put_when_ready(self, task: _Task[Any]) -> None:
        """Queue the task, now or as soon as the first of those that it needs and that is not done yet has ended."""
        for needed in task.needs:
            if not needed.done():
                needed.add_done_callback(partial(self._needed_is_done, weakref.ref(task)))
                return
        try:
            task.args = tuple(arg.result() if isinstance(arg, Future) else arg for arg in task.args)
            size = task.size(*task.args) if callable(task.size) else task.size
        except BaseException as error:
            if task.set_running_or_notify_cancel():
                task.set_exception(error)
            return
        with self.changed:
            heapq.heappush(self.queue, (not task.urgent, -size, next(self.numbers), weakref.ref(task)))
            self.changed.notify()

    def _needed_is_done(self, waiting: weakref.ref[_Task[Any]], _: Future[Any]) -> None:
        if (task := waiting()) is not None:
            self.put_when_ready(task)

    def hurry(self, futures: Sequence[Future[Any]]) -> None:
        """Put these tasks, and those that they need, before all others."""
        for task in (f for f in futures if isinstance(f, _Task) and not f.done()):
            task.urgent = True
            self.hurry(task.needs)
        with self.changed:
            tasks = [(entry, entry[3]()) for entry in self.queue]
            self.queue = [(not task.urgent, *entry[1:]) for entry, task in tasks if task is not None]
            heapq.heapify(self.queue)

    def close(self) -> None:
        with self.changed:
            self.closed = True
            waiting, self.queue = self.queue, []
            self.changed.notify_all()
        for *_, reference in waiting:
            if (task := reference()) is not None:
                task.cancel()
        for thread in self.threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.queue or self.closed)
                if self.closed:
                    return
                *_, reference = heapq.heappop(self.queue)
            task = reference()
            if task is not None:
                task.run()
            del task  # an idle worker keeps no volume alive


_workers: _Workers | None = None
_lock = threading.Lock()


def _local_ranks() -> int:
    if "LOCAL_WORLD_SIZE" in os.environ:
        return max(1, int(os.environ["LOCAL_WORLD_SIZE"]))
    distributed = sys.modules.get("torch.distributed")  # a process group has been made by whoever imported it
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def _forget() -> None:
    """In a forked child: the threads are gone, and the lock may have been held by one of them."""
    global _workers, _lock
    _workers, _lock = None, threading.Lock()


atexit.register(shutdown)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
