"""How this package compiles with Numba, and three operations that Numba does not offer by itself."""

from __future__ import annotations

import _thread
import functools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

P = ParamSpec("P")
T = TypeVar("T")


def jit(function: Callable[P, T]) -> Callable[P, T]:
    """Compile without the GIL, and keep the result on disk wherever Numba finds a folder to write to.

    Numba compiles again when the function's own file has changed, not when that of a function it calls has.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the folder of this package nor the user's cache folder is writable
        return numba.njit(nogil=True)(function)


def inline(function: Callable[P, T]) -> Callable[P, T]:
    """Compile for use inside other compiled functions, and always merge into them: for the small parts of hot loops.

    Otherwise Numba counts references, atomically, around each call that is given an array.
    """
    return numba.njit(forceinline=True)(function)


def interruptible(function: Callable[P, T]) -> Callable[P, T]:
    """Keep the handlers of signals, above all Ctrl-C's, out of compiled code: in the main thread, compute in another.

    Python runs handlers in the main thread, and compiled code calls Python to pack and unpack tuples, arrays. It does
    not expect an exception there: KeyboardInterrupt came out as SystemError, or ended the process by a segmentation
    fault. So the main thread only waits, which Ctrl-C ends at once; what runs is left to run out.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if threading.current_thread() is not threading.main_thread():
            return function(*args, **kwargs)
        calls = _idle.pop() if _idle else _start_thread()
        answer: Queue = SimpleQueue()
        calls.put((functools.partial(function, *args, **kwargs), answer))
        result, error = answer.get()
        try:
            if error is not None:
                raise error
            return result
        finally:
            del error  # whose traceback holds this frame

    return call


# Not the threads of `pool`: a call would wait behind what they compute, and Ctrl-C at a bad moment can break a lock of
# Python's, which a SimpleQueue has none of. A thread is kept for the next call: small diagrams take less time than to
# start one.
Queue = SimpleQueue[Any]
_idle: list[Queue] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # a forked child has no threads but its own


def _start_thread() -> Queue:
    calls: Queue = SimpleQueue()
    _thread.start_new_thread(_serve, (calls,))
    return calls


def _serve(calls: Queue) -> None:
    while True:
        function, answer = calls.get()
        result, error = None, None
        try:
            result = function()
        except BaseException as raised:
            error = raised
        del function  # an idle thread keeps no volume alive
        _idle.append(calls)
        answer.put((result, error))
        del answer, result, error


@intrinsic
def trailing_zeros(typingctx, word):
    """Index of the lowest set bit of an int64 other than 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def leading_zeros(typingctx, word):
    """Number of zeros above the highest set bit of an int64 other than 0."""

    def codegen(context, builder, signature, args):
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def pointer(typingctx, array):
    """Where the elements of a C-ordered array begin: for an argument that the caller keeps alive during the call.

    Indexed like a flat array, but no index is negative. Numba asks that of every index of an array, and may count
    references in innermost loops. Do not take the pointer of a local variable: it may be freed after its last use.
    """
    if array.layout != "C":
        raise TypingError(f"only a C-ordered array has a pointer, not {array}")

    def codegen(context, builder, signature, args):
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen
