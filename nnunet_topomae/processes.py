"""Work shared among processes, which end with the one that started them and leave what is said to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from tqdm import tqdm

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


def in_processes(
    work: Callable[..., Result], tasks: Mapping[Key, tuple[Any, ...]], num_processes: int, title: str
) -> Generator[tuple[Key, Result], None, None]:
    """Each key of `tasks` with what `work` returns for its arguments, as soon as it is done.

    One process is this one. Where more are interrupted, or what uses their results fails, they end at once and in
    silence: close the iterator that you leave early (`contextlib.closing`).

    Raises:
        RuntimeError: a process was ended from outside, as systems do when memory is short.
    """
    progress = {"total": len(tasks), "desc": title, "unit": "case", "disable": None}  # None: where is no terminal
    if min(num_processes, len(tasks)) <= 1:
        yield from ((key, work(*arguments)) for key, arguments in tqdm(tasks.items(), **progress))
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(min(num_processes, len(tasks)), get_context("spawn"), _end_with_parent)
    try:
        with _interruption_held_back():
            keys = {pool.submit(work, *arguments): key for key, arguments in tasks.items()}
        for future in tqdm(as_completed(keys), **progress):
            yield keys[future], future.result()
    except BaseException as error:
        for child in set(active_children()) - others:
            child.terminate()
        if isinstance(error, BrokenProcessPool):
            raise RuntimeError(
                "a process was ended from outside, perhaps for want of memory: take fewer with -np"
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interruption_held_back() -> Iterator[None]:
    """Processes that are started meanwhile never hear of Ctrl-C, and this one hears of it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """However the process ends that started this one: it would wait for work for ever."""
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
