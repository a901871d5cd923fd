"""The first use of the engines in a process: compiled once, aloud, and never while the process forks.

A forked child inherits locks as they are, but not the threads that would open them again. Had another thread been
compiling, or importing what the compiler needs, the child would wait for ever at its own first use. So a fork waits
until the thread is done.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from numba.core.event import Event, Listener, install_listener

from ._jit import interruptible

P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.RLock()
_engines: list[Callable[[], None]] = []


def warm_up() -> None:
    """Compile the engines, or load them from Numba's cache, so that the first step is as fast as the next.

    The first use does this by itself, and says so on the log where there is something to compile.
    """
    for compile_once in _engines:
        compile_once()


def hold_forks(function: Callable[P, T]) -> Callable[P, T]:
    """Let no process fork during the function, and one thread at a time run functions of this kind."""

    @functools.wraps(function)
    def held(*args: P.args, **kwargs: P.kwargs) -> T:
        with _lock:
            return function(*args, **kwargs)

    return held


def once(compile_engine: Callable[[], None]) -> Callable[[], None]:
    """A function that compiles an engine at its first call in a process, and at later calls does nothing.

    `warm_up` calls it, too.
    """
    done = False

    @interruptible
    def compile_unless_done() -> None:
        nonlocal done
        with _lock, install_listener("numba:compile", _Announcement()):
            if not done:
                compile_engine()
                done = True

    @functools.wraps(compile_engine)
    def run() -> None:
        if not done:
            compile_unless_done()

    _engines.append(run)
    return run


class _Announcement(Listener):
    """Says once that there is something to compile. Loading from Numba's cache is no such event."""

    said = False

    def on_start(self, event: Event) -> None:
        dispatcher = event.data["dispatcher"]
        if self.said or not dispatcher.__module__.startswith(__package__):
            return
        self.said = True
        folder = dispatcher.stats.cache_path
        kept = f"once: the result is kept in {folder}"
        lost = "in every process, as no folder to keep the result in is writable: set NUMBA_CACHE_DIR to one that is"
        logging.getLogger(__name__).warning(
            "Compiling the topology engine (15 to 30 s of one core), %s", kept if folder else lost
        )

    def on_end(self, event: Event) -> None:
        pass


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
