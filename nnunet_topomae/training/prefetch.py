"""The next batch is made ready while this one trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch


class Prefetcher:
    """Iterates over batches of `source` as `prepare(batch, number)` makes them, one ahead of what is asked for.

    On CUDA the preparation is put on a stream of its own, beside which the training goes on. The host waits for the
    stream only when the batch is due, a step later. Elsewhere the order of things is the same, without streams.

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
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.begin_epoch(0)

    def begin_epoch(self, length: int) -> None:
        """No more than `length` batches are taken in advance: the next epoch has other seeds."""
        self._next: dict[str, Any] | None = None
        self._number, self._length = 0, length

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> dict[str, Any]:
        batch = self._take() if self._next is None else self._next
        if self._stream is not None:
            self._stream.synchronize()  # for what was copied to the host; nothing is left to wait for by now
            _used_by(batch, torch.cuda.current_stream(self._stream.device))
        self._next = self._take() if self._number < self._length else None
        return batch

    def _take(self) -> dict[str, Any]:
        batch = next(self.source)
        number, self._number = self._number, self._number + 1
        with torch.no_grad(), torch.cuda.stream(self._stream):
            return self._prepare(batch, number)


def _used_by(value: Any, stream: torch.cuda.Stream) -> None:
    """Tells the allocator not to give a tensor's memory to the next batch before `stream` is done with it."""
    if isinstance(value, torch.Tensor) and value.is_cuda:
        value.record_stream(stream)
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _used_by(part, stream)
