"""How many images go through a net at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable

SLICE_BYTES = 64 << 20  # what the layers' outputs for one slice of a batch may take


def fitting(shapes: Iterable[tuple[int, ...]], itemsize: int) -> int:
    """Return the largest power of two of images whose arrays of these shapes fit SLICE_BYTES.

    At least one, whatever it takes. It depends on shapes alone, never on the machine or its
    threads, so that results do not either.

    Examples
    --------
    >>> fitting([(64, 32, 32), (64, 32, 32)], 4)
    128
    """
    each = itemsize * sum(math.prod(shape) for shape in shapes)
    return 1 << max((SLICE_BYTES // max(each, 1)).bit_length() - 1, 0)
