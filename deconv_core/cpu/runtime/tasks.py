"""How the tasks of a pass are shared out, and how what chunks of them sum is added up.

A task is one unit of one block (blocking.py). Each worker takes a run of them, and every element of
the result has one writer, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np

from ...geometry import ceil_div
from .jit import kernel
from .launch import linked

_STRIP = 1 << 14  # elements side by side that one worker of an elementwise kernel takes, at least


@kernel
def block_at(block, p):
    """Return the first image, row and column of a block."""
    rest, column = divmod(block, p.column_blocks)
    image, row = divmod(rest, p.row_blocks)
    return image * p.images, row * p.block_rows, column * p.block_columns


@kernel
def positions_of(p, image, row):
    """Return how many positions the block at (`image`, `row`) computes: the last may have fewer.

    They end with the last row's last result, before the halo behind it.
    """
    images, rows = min(p.images, p.batch - image), min(p.block_rows, p.rows - row)
    return ((images - 1) * p.image_rows + rows - 1) * p.pitch + p.block_columns


@linked
@kernel
def add_chunks(partial, first, last):
    """Add all rows of `partial` to the first, in their order, over a range of columns."""
    total = partial[0, first:last]
    for chunk in range(1, partial.shape[0]):
        row = partial[chunk, first:last]
        for i in range(total.size):
            total[i] += row[i]


@kernel
def share(worker, workers, tasks):
    """Return where a worker's tasks begin and end; odd ones go to the first, who wake first."""
    before = workers - 1
    return (worker * tasks + before) // workers, ((worker + 1) * tasks + before) // workers


@kernel
def share_elements(worker, workers, size):
    """Return where a worker's elements begin and end."""
    begin, end = share(worker, workers, (size + _STRIP - 1) // _STRIP)
    return begin * _STRIP, min(size, end * _STRIP)


@kernel
def _begin(worker, workers, ends, units):
    """Return where a worker's tasks begin."""
    before, part = (ends[-1] * units * worker + workers - 1) // workers, 0
    while part < ends.size - 1 and ends[part + 1] * units <= before:
        part += 1
    if part == ends.size - 1:
        return part * units
    each = ends[part + 1] - ends[part]
    return part * units + (before - ends[part] * units + each - 1) // each


@kernel
def share_parts(worker, workers, ends, units):
    """Return where a worker's tasks begin and end, if those of some parts of the work take longer.

    Each part has `units` tasks; all parts before part i take ``ends[i]``, in units of any size.
    """
    return _begin(worker, workers, ends, units), _begin(worker + 1, workers, ends, units)


def count_workers(tasks: int) -> int:
    """Return how many threads share so many tasks."""
    return 1 if tasks == 1 else min(numba.get_num_threads(), tasks)


def count_sharers(x: np.ndarray) -> int:
    """Return how many threads share the elements of `x`."""
    return count_workers(ceil_div(x.size, _STRIP))
