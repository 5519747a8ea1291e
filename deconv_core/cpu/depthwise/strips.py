"""Depthwise convolutions that write at unit stride: strips of rows, read where they lie.

By bands (bands.py) a source is packed first, which takes as long as its products or, of a
strided pass, longer. Here only the rows of a picture's first and last strip are copied, as some of
them lie outside. Tasks are runs of strips of one channel's picture; every element of the result has
one writer, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...geometry import ConvGeometry, ceil_div
from ...memory import empty
from ...sweep import Sweep, adjoint_sweep, forward_sweep, trimmed
from ..config import CACHE_BYTES, LINE, MACHINE, MIN_BLOCKS
from ..positions.plan import record, sweep_numbers
from ..runtime.arrays import flat
from ..runtime.jit import kernel
from ..runtime.launch import launched
from ..runtime.tasks import count_workers, share
from ..vectors.rows import copy, prefetch
from .rowtile import settle
from .strip import AHEAD, HEIGHTS, RUNS, copy_past, strip


@dataclass(frozen=True)
class StripsPlan:
    """Everything that a pass needs besides the arrays.

    Attributes
    ----------
    shape : of the result
    numbers : structured array of one `PLAN` record
    runs : int64, of each run of taps the offset of its first row and its first column
    run_at : int64, where the runs of each size begin
    tap_kernel : int64, position of each tap in the kernel, run by run
    scratch_size : elements of one worker's workspace
    tasks : how many there are to share among threads
    """

    shape: tuple[int, ...]
    numbers: np.ndarray
    runs: np.ndarray
    run_at: np.ndarray
    tap_kernel: np.ndarray
    scratch_size: int
    tasks: int


def _sweeps(geometry: ConvGeometry, adjoint: bool) -> tuple[Sweep, Sweep]:
    """Return the pass along both axes."""
    sweep = adjoint_sweep if adjoint else forward_sweep
    return trimmed(sweep(geometry.rows)), trimmed(sweep(geometry.cols))


def is_strips(geometry: ConvGeometry, adjoint: bool) -> bool:
    """Tell whether a depthwise pass can be computed by strips."""
    rows, columns = _sweeps(geometry, adjoint)
    dense = rows.write_stride == columns.write_stride == 1 and columns.read_stride <= len(HEIGHTS)
    return MACHINE.masked and dense and rows.count >= HEIGHTS[columns.read_stride - 1]


def _places(axis: Sweep) -> list[int]:
    """Return how far from a position's first element each tap finds its own."""
    return [axis.read_stride * offset + axis.read_phases[a] for _, a, offset in axis.taps]


def _runs(places: list[int], step: int, sizes: set[int]) -> Iterator[tuple[int, list[int]]]:
    """Find runs of taps that lie `step` apart: where each begins, and its taps."""
    taps = {place: tap for tap, place in enumerate(places)}
    while taps:
        start = next(place for place in sorted(taps) if place - step not in taps)
        length = next(n for n in range(len(places) + 1) if start + n * step not in taps)
        size = max(size for size in sizes if size <= length)
        yield start, [taps.pop(start + i * step) for i in range(size)]


def strips_plan(geometry: ConvGeometry, adjoint: bool) -> StripsPlan:
    """Plan a forward pass or, with `adjoint`, an input gradient."""
    rows, columns = _sweeps(geometry, adjoint)
    stride, reach = columns.read_stride, _places(rows)
    downs = list(_runs(reach, rows.read_stride, {down for down, _ in RUNS}))
    rights = list(_runs(_places(columns), 1, set(range(1, stride + 1))))
    runs: list[int] = []
    taps: list[int] = []
    run_at = [0]
    for tall, wide in RUNS:
        for down, kernel_rows in downs:
            for right, kernel_columns in rights:
                if (len(kernel_rows), len(kernel_columns)) == (tall, wide):
                    runs += [down * columns.source, right + columns.read_base]
                    taps += [i * len(columns.taps) + j for i in kernel_rows for j in kernel_columns]
        run_at.append(len(runs) // 2)
    planes, strips = geometry.batch * geometry.groups, ceil_div(rows.count, HEIGHTS[stride - 1])
    reads = rows.read_stride * (HEIGHTS[stride - 1] - 1) + max(reach) + 1
    numbers = sweep_numbers(geometry.batch, rows, columns) | {
        "groups": geometry.groups, "kernel": len(taps), "tiles": strips, "block_rows": reads,
        # Of two strips or more: the last one may begin within the one before it.
        "row_blocks": max(1, min(strips // 2, ceil_div(MIN_BLOCKS, max(1, planes)))),
    }  # fmt: skip
    shape = geometry.input_shape if adjoint else geometry.output_shape
    size = len(taps) + HEIGHTS[stride - 1] * columns.count + reads * columns.source
    places, begins, order = (np.array(values, np.int64) for values in (runs, run_at, taps))
    scratch_size, tasks = ceil_div(size, 64) * 64, planes * numbers["row_blocks"]
    return StripsPlan(shape, record(numbers), places, begins, order, scratch_size, tasks)


@kernel(inline="always")
def _copy_rows(x, plane, top, p, rows):
    """Copy the rows from row `top` of a picture on that a strip reads, zeros for those outside."""
    width = p.source_w
    for r in range(p.block_rows):
        h = top + r
        if 0 <= h < p.source_h:
            copy(rows, r * width, x, (plane * p.source_h + h) * width, width, x.dtype.type(0))
        else:
            rows[r * width : (r + 1) * width] = 0


@kernel(inline="always")
def _by_panel(y, at, rows, columns):
    """Tell whether so many rows of the result are whole cache lines, but not each of them."""
    line = LINE // y.itemsize
    begins = (y.ctypes.data // y.itemsize + at) % line == 0
    return begins and rows * columns % line == 0 and columns % line > 0


@launched
def _pass(worker, workers, x, w, bias, y, plan, runs, run_at, tap_kernel, tasks, memory):
    """Compute the worker's tasks, each some strips of one channel of one image.

    Row i of `memory` is worker i's.
    """
    p, scratch = plan[0], memory[worker]
    height, pitch = HEIGHTS[p.read_stride_w - 1], p.read_stride_h * p.source_w
    weights, panel = scratch[: p.kernel], scratch[p.kernel : p.kernel + height * p.columns]
    rows = scratch[p.kernel + height * p.columns :]
    past = 1 if (x.size + y.size) * y.itemsize > CACHE_BYTES else 0
    begin, end = share(worker, workers, tasks)
    for task in range(begin, end):
        plane, block = task // p.row_blocks, task % p.row_blocks
        channel = plane % p.groups
        for tap in range(p.kernel):
            weights[tap] = w[channel * p.kernel + tap_kernel[tap]]
        for i in range(block * p.tiles // p.row_blocks, (block + 1) * p.tiles // p.row_blocks):
            row = min(i * height, p.rows - height)  # the last strip may compute some rows again
            top = p.read_stride_h * row + p.read_base_h
            source, at = x, (plane * p.source_h + top) * p.source_w
            if top < 0 or top + p.block_rows > p.source_h:
                prefetch(x, at + AHEAD, height * pitch)
                _copy_rows(x, plane, top, p, rows)
                source, at = rows, 0
            place = (plane * p.rows + row) * p.columns
            by_panel = past and _by_panel(y, place, height, p.columns)
            target, to = (panel, 0) if by_panel else (y, place)
            strip(
                p.read_stride_w, weights, source, at, p.source_w, pitch, runs, run_at,
                target, to, p.columns, bias[channel] if bias.size else x.dtype.type(0), past,
            )  # fmt: skip
            if by_panel:
                copy_past(y, place, panel, height * p.columns)
    settle()


def run_strips(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, plan: StripsPlan
) -> np.ndarray:
    """Launch a forward pass or an input gradient and return its result."""
    y = empty(plan.shape, x.dtype)
    if y.size:
        workers = count_workers(plan.tasks)
        _pass(
            workers, flat(x), flat(w), np.empty(0, x.dtype) if bias is None else flat(bias),
            y.reshape(-1), plan.numbers, plan.runs, plan.run_at, plan.tap_kernel, plan.tasks,
            empty((workers, plan.scratch_size), x.dtype),
        )  # fmt: skip
    return y
