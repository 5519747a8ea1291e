"""How many images go through a net at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable

# What the layers' outputs for one slice of a batch may take. On the CPU they should stay in cache;
# a GPU wants large slices, but its memory has an end too.
SLICE_BYTES = {"cpu": 64 << 20, "cuda": 4 << 30}


def fitting(shapes: Iterable[tuple[int, ...]], itemsize: int, device: str | None = "cpu") -> int:
    """Return the largest power of two of images whose arrays of these shapes fit SLICE_BYTES.

    At least one, whatever it takes. It depends on shapes alone, never on the machine or its
    threads, so that results do not either.

    Examples
    --------
    >>> fitting([(64, 32, 32), (64, 32, 32)], 4)
    128
    """
    each = itemsize * sum(math.prod(shape) for shape in shapes)
    return 1 << max((SLICE_BYTES[device or "cpu"] // max(each, 1)).bit_length() - 1, 0)
