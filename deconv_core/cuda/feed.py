"""Batches on their way to the device: copied from pinned memory while the device computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from .driver import cuda, require
from .memory import empty, pinned
from .streams import beside


class _Slot:
    """Pinned and device arrays for one batch, and the events between the two streams."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []  # (pinned, device)
        self.copied, self.used = cuda.event(), cuda.event()

    def load(self, batch: Sequence[np.ndarray], stream: Any) -> tuple[Any, ...]:
        """Start copying a batch and return its device arrays; kernels wait for the copy."""
        self.copied.synchronize()  # the pinned arrays may still be read by the last copy
        forms = [(array.shape, array.dtype) for array in batch]
        if forms != [(host.shape, host.dtype) for host, _ in self.pairs]:
            self.pairs = [(pinned(*form), empty(*form)) for form in forms]
            self.used.record()  # by whoever had these blocks of the pool before
        self.used.wait(stream)
        for array, (host, device) in zip(batch, self.pairs, strict=True):
            np.copyto(host, array)
            device.copy_to_device(host, stream=stream)
        self.copied.record(stream)
        self.copied.wait()
        return tuple(device for _, device in self.pairs)


def on_device(batches: Iterable[Sequence[np.ndarray]]) -> Iterator[tuple[Any, ...]]:
    """Yield batches of NumPy arrays as device arrays, copied while the device computes.

    The copies go through pinned memory on a stream of their own. There are two sets of arrays: what
    is yielded is overwritten by the next but one.

    Parameters
    ----------
    batches : iterable of tuples of arrays
    """
    require()
    stream, slots = beside("copies"), cycle((_Slot(), _Slot()))
    for batch, slot in zip(batches, slots):  # noqa: B905  (the slots never end)
        yield slot.load(batch, stream)
        slot.used.record()
