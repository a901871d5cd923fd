"""Ctrl-C in the midst of the engines."""

import os
import random
import signal
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import numpy as np
import pytest

from nnunet_topomae.topology import _cubical_numba, persistence_diagrams, squared_wasserstein, wasserstein
from nnunet_topomae.topology._jit import interruptible, jit

VOLUME = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
POINTS = np.sort(np.random.default_rng(0).normal(size=(100, 2)), axis=1)


@pytest.fixture
def alarm() -> Iterator[None]:
    """A timer's signal that raises what Ctrl-C raises."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        pytest.skip("no timers here")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGALRM, before)


def interrupted(function: Callable[[], object], seconds: float) -> str:
    """The name of what comes out of a function that is called again and again when the timer strikes."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            function()
    except BaseException as error:
        return type(error).__name__


DIAGRAMS = partial(persistence_diagrams, VOLUME)
DISTANCE = partial(squared_wasserstein, POINTS, POINTS + 0.01)


@pytest.mark.parametrize("function", [DIAGRAMS, DISTANCE])
def test_ctrl_c_is_always_a_keyboard_interrupt(alarm: None, function: Callable[[], object]) -> None:
    function()
    rng = random.Random(0)
    assert Counter(interrupted(function, rng.uniform(1e-5, 5e-3)) for _ in range(400)) == {"KeyboardInterrupt": 400}


@pytest.mark.parametrize(
    ("function", "module", "engine"),
    [(DIAGRAMS, _cubical_numba, "persistence_pairs"), (DISTANCE, wasserstein, "_match")],
)
def test_ctrl_c_does_not_wait_for_the_end(
    alarm: None, monkeypatch: pytest.MonkeyPatch, function: Callable[[], object], module: ModuleType, engine: str
) -> None:
    function()
    may_end, ended = threading.Event(), threading.Event()

    def endless(*_: object) -> None:
        may_end.wait(600)
        ended.set()

    monkeypatch.setattr(module, engine, endless)
    assert interrupted(function, 0.01) == "KeyboardInterrupt"
    assert not ended.is_set()
    may_end.set()


def test_compiled_code_lets_the_main_thread_run() -> None:
    def compiled() -> None:
        pass

    assert jit(compiled).targetoptions["nogil"]


def test_errors_come_out_of_the_other_thread() -> None:
    def fail(number: int) -> None:
        raise ValueError(f"{number} in the main thread: {threading.current_thread() is threading.main_thread()}")

    with pytest.raises(ValueError, match="3 in the main thread: False"):
        interruptible(fail)(3)


def test_the_other_thread_is_kept_for_the_next_call_and_holds_nothing() -> None:
    class Volume:
        pass

    volume = Volume()
    alive = weakref.ref(volume)
    threads = {interruptible(lambda _: threading.get_ident())(volume) for _ in range(20)}
    del volume
    assert len(threads) == 1
    assert alive() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_starts_a_thread_of_its_own() -> None:
    interruptible(int)()
    pid = os.fork()
    if pid == 0:
        os._exit(interruptible(lambda: 7)())
    deadline = time.monotonic() + 20
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if done[0] == 0:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert done[0] == pid and os.waitstatus_to_exitcode(done[1]) == 7
