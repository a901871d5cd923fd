"""The next batch is made ready while this one trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch


class Prefetcher:
    """Iterates over batches of `source` as `prepare(batch, number)` makes them, one ahead where `look_ahead` is called.

    On CUDA the preparation is put on a stream of its own, beside which the training goes on, and for which not the host
    but the training's stream waits. Elsewhere the order of things is the same, without streams.

    Args:
        source: of batches as data workers hand them out, without end.
        prepare: copies a batch to the device and augments it there; `number` counts the batches of the epoch.
        device: of the training.
    """

    def __init__(
        self,
        source: Iterator[dict[str, Any]],
        prepare: Callable[[dict[str, Any], int], dict[str, Any]],
        device: torch.device,
    ) -> None:
        self.source = source
        self._prepare = prepare
        self._accelerator: Any = getattr(torch, device.type)
        self._stream = None if device.type in ("cpu", "mps") else self._accelerator.Stream(device)
        self.begin_epoch(0)

    def begin_epoch(self, length: int) -> None:
        """No more than `length` batches are taken in advance: the next epoch has other seeds."""
        self._next: dict[str, Any] | None = None
        self._number, self._length = 0, length

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> dict[str, Any]:
        batch, self._next = self._take() if self._next is None else self._next, None
        if self._stream is not None:
            current = self._accelerator.current_stream(self._stream.device)
            current.wait_stream(self._stream)
            _used_by(batch, current)
        return batch

    def look_ahead(self) -> None:
        """Takes the next batch of the epoch: best when the step that goes before it is on its way."""
        if self._next is None and self._number < self._length:
            self._next = self._take()

    def _take(self) -> dict[str, Any]:
        batch = next(self.source)
        number, self._number = self._number, self._number + 1
        with torch.no_grad(), nullcontext() if self._stream is None else self._accelerator.stream(self._stream):
            return self._prepare(batch, number)


def _used_by(value: Any, stream: torch.Stream) -> None:
    """Tells the allocator not to give a tensor's memory to the next batch before `stream` is done with it."""
    if isinstance(value, torch.Tensor) and value.device == stream.device:
        value.record_stream(stream)
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _used_by(part, stream)
