"""A second device without hardware; each test that asks for it runs in a process of its own, which alone has it.

The device is PyTorch's PrivateUse1 (`second_device.cpp`). It computes at once, by the CPU's kernels, and so shows no
race; but a tensor that was left on the host is an error, and every place is known where the host waits for the device.
They run where SECOND_DEVICE is set, as `tests/test_second_device.py` does, without other tests in the process.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import current_thread
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.utils import cpp_extension

SOURCE = Path(__file__).with_name("second_device.cpp")
collect_ignore_glob = [] if "SECOND_DEVICE" in os.environ else ["test_*.py"]
NAME = re.sub(r"\W", "_", f"second_device_{torch.__version__}")  # PyTorch keeps what it has compiled by this name


class SecondDevice:
    """Called `second`, as others are called `cuda`, once it has begun."""

    def begin(self) -> None:
        """Compiled the first time, in a minute; what there is once it has been registered is there to stay."""
        self.device = torch.device("privateuseone", 0)
        self._extension: ModuleType = cpp_extension.load(NAME, [str(SOURCE)], extra_cflags=["-O0"])
        self._extension.begin_autograd()
        self.wait_for = wait_for = self._extension.wait_for

        class Event(SimpleNamespace):
            record = staticmethod(lambda stream: None)

            def synchronize(self) -> None:
                if not current_thread().name.startswith("topology"):  # whose threads wait in the host's place
                    wait_for("event")

        module = SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: True,
            device_count=lambda: 1,
            current_device=lambda: 0,
            set_device=lambda device: None,
            device=nullcontext,
            synchronize=lambda device=None: wait_for("device"),
            Stream=torch.Stream,
            Event=Event,
            current_stream=lambda device=None: torch.Stream(self.device),
            stream=nullcontext,
            _is_in_bad_fork=lambda: False,
            manual_seed=torch.default_generator.manual_seed,  # its kernels draw from the CPU's
            manual_seed_all=lambda seed: None,
            get_rng_state=lambda device=None: torch.default_generator.get_state(),
            set_rng_state=lambda state, device=None: torch.default_generator.set_state(state),
            get_amp_supported_dtype=lambda: [torch.float16, torch.bfloat16],
        )
        torch.utils.rename_privateuse1_backend("second")
        torch._register_device_module("second", module)
        torch.utils.generate_methods_for_privateuse1_backend(for_packed_sequence=False, for_storage=True)

    def waits(self) -> list[str]:
        """What the host has waited for since it was last asked."""
        return self._extension.waits()

    @contextmanager
    def without_waits(self) -> Iterator[None]:
        """Within, to wait is an error, which tells where."""
        self._extension.refuse(True)
        try:
            yield
        finally:
            self._extension.refuse(False)


@pytest.fixture
def second_device() -> SecondDevice:
    if torch.cuda.is_available():
        pytest.skip("there is a real one, beside which PyTorch takes no other")
    for program in ("c++", "ninja"):
        if shutil.which(program) is None:
            pytest.skip(f"the second device is compiled, for which {program} is missing")
    return SecondDevice()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """In a fork, since a process whose autograd has more than the CPU cannot fork any more, as other tests do."""
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    if "second_device" not in arguments:
        return None

    def run() -> None:
        try:
            arguments["second_device"].begin()
            pyfuncitem.obj(**arguments)
        except BaseException:
            error.send(traceback.format_exc())

    fork = multiprocessing.get_context("fork")
    errors, error = fork.Pipe(duplex=False)
    process = fork.Process(target=run)
    process.start()
    error.close()
    if not errors.poll(timeout=600):
        process.kill()
    try:
        said = errors.recv()
    except EOFError:
        said = ""
    process.join()
    if said or process.exitcode:
        pytest.fail(f"{said}exit status {process.exitcode}", pytrace=False)
    return True
