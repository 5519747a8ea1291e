"""Depthwise convolutions, where each channel is convolved with a kernel of its own: three passes.

Tasks are bands of rows of one channel's picture (depthplan.py): pack the band (pack.py), then run
row tiles over it (rowtile.py). Each worker has a fixed range of tasks and every element of the
result has one writer, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np

from ...memory import empty
from ..config import CACHE_BYTES, LINE, MACHINE, PREFETCH_AHEAD, SMALL_BAND
from ..positions.pack import pack_rows, scatter
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, launched
from ..runtime.tasks import add_chunks, count_workers, share
from ..vectors.rows import prefetch
from .depthplan import DepthPlan
from .rowtile import ROWS, RUNS, row_dot, row_tile, settle

_VECTOR_BYTES, _LENGTHS = MACHINE.vector_bytes, len(RUNS)


@kernel
def _tile_by_phases(
    rows, weights, packed, start, p, runs, run_at, phase_at, phase, panel, y, y_at, bias
):  # fmt: skip
    """Compute rows whose write phases are three or more, one phase after the other in `panel`."""
    for i in range(p.write_stride_w):
        row_tile(
            rows, 1, weights, phase_at[phase + i], packed, start, p.pitch,
            runs, run_at, (phase + i) * _LENGTHS, p.columns,
            panel, i * p.panel_pitch, p.pitch, 0, p.pitch, weights.dtype.type(0), 0,
        )  # fmt: skip
    for row in range(rows):
        scatter(
            y, y_at + row * p.write_stride_h * p.result_w, p.write_base_w, p.columns, p.result_w,
            panel, row * p.pitch, p.panel_pitch, p.write_stride_w, bias,
        )  # fmt: skip


@kernel(inline="always")
def from_line(scratch):
    """Return scratch memory from a cache line's begin on: vectors that cross lines cost twice."""
    return scratch[(-scratch.ctypes.data % LINE) // scratch.itemsize :]


@kernel(inline="always")
def _call_small(y, here, length):
    """Call for what a later band finds as this one finds `length` elements from `here` on.

    Longer bands are fetched by the machine itself as well, and calling would take longer.
    """
    if length < SMALL_BAND:
        prefetch(y, here + PREFETCH_AHEAD, length)


@kernel(inline="always")
def _pack_band(x, plane, row, packed, p, read_h, read_w):
    """Pack the rows of one channel of one image that the band from `row` on reads.

    What a later band packs is called for meanwhile: by then the memory has had time to answer.
    """
    length = p.read_stride_h * p.block_rows * p.source_w
    for a in range(read_h.size):
        pack_rows(
            x, plane * p.source_h * p.source_w, p.source_h, p.source_w,
            p.read_stride_h * row + read_h[a] + p.read_base_h, p.read_base_w,
            p.read_stride_h, p.read_stride_w, read_w,
            packed, a * read_w.size * p.phase_plane, p.block_rows + p.reach_h,
            p.columns + p.reach_w, p.pitch, p.phase_plane, max(length, PREFETCH_AHEAD),
        )  # fmt: skip


@kernel(inline="always")
def _write_band(
    packed, weights, panel, y, plane, row, p, runs, run_at, phase_at, edges, bias
):  # fmt: skip
    """Compute the band of positions from `row` on, tile by tile, straight into the result."""
    pitch, columns, across, limit = p.pitch, p.columns, p.write_stride_w, p.result_w
    left, stride, line = p.write_base_w, p.write_stride_h, p.write_stride_h * p.result_w
    bottom, base = row + p.block_rows, (plane * p.result_h + p.write_base_h) * limit
    past = 1 if y.size * y.itemsize > CACHE_BYTES else 0
    if not past:
        _call_small(y, base + stride * row * limit, stride * p.block_rows * limit)
    for phase_h in range(stride):
        first, last = max(edges[2 * phase_h], row), min(edges[2 * phase_h + 1], bottom)
        phase, step = phase_h * across, ROWS if last - first >= ROWS else 1
        for q in range(first, last, step):
            at = min(q, last - step)  # the last tile may compute some rows again
            start, y_at = (at - row) * pitch, base + phase_h * limit + at * line
            if across <= 2:
                row_tile(
                    step, across, weights, phase_at[phase], packed, start, pitch,
                    runs, run_at, phase * _LENGTHS, columns, y, y_at, line, left, limit, bias,
                    past,
                )  # fmt: skip
            else:
                _tile_by_phases(
                    step, weights, packed, start, p, runs, run_at, phase_at, phase, panel,
                    y, y_at, bias,
                )  # fmt: skip


@launched
def _band_pass(
    worker, workers, x, w, bias, y, plan, read_h, read_w, runs, run_at, tap_kernel, phase_at, edges,
    tasks, memory,
):  # fmt: skip
    """Compute the worker's tasks, each a band of rows of one channel of one image.

    Row i of `memory` is worker i's.
    """
    p, scratch = plan[0], from_line(memory[worker])
    packed, weights = scratch[: p.packed_size], scratch[p.packed_size :]
    panel = weights[p.kernel :]
    begin, end = share(worker, workers, tasks)
    for task in range(begin, end):
        plane, band = task // p.row_blocks, task % p.row_blocks
        channel, row = plane % p.groups, band * p.block_rows
        for tap in range(p.kernel):
            weights[tap] = w[channel * p.kernel + tap_kernel[tap]]
        _pack_band(x, plane, row, packed, p, read_h, read_w)
        _write_band(
            packed, weights, panel, y, plane, row, p, runs, run_at, phase_at, edges,
            bias[channel] if bias.size else x.dtype.type(0),
        )  # fmt: skip
    settle()


@kernel
def sum_vectors(sums, at, total, total_at, count, width):
    """Write the sums of `count` vectors of `sums`, from `at` on, each taken by halves."""
    for i in range(count):
        half = width // 2
        while half:
            for j in range(at + i * width, at + i * width + half):
                sums[j] += sums[j + half]
            half //= 2
        total[total_at + i] = sums[at + i * width]


@kernel(inline="always")
def _add_band(x, dy, plane, row, packed, p, read_h, read_w, offsets, sums, at):
    """Add one band's products of the gradient and each tap's source to the `sums` from `at` on."""
    width, streams = _VECTOR_BYTES // x.itemsize, p.streams
    rows, columns, pitch, result_w = min(p.block_rows, p.rows - row), p.columns, p.pitch, p.result_w
    here = (plane * p.result_h + row) * result_w
    _call_small(dy, here, rows * result_w)
    _pack_band(x, plane, row, packed, p, read_h, read_w)
    for tap in range(0, offsets.size, streams):
        row_dot(
            streams, dy, here, result_w, packed, pitch,
            offsets, tap, rows, columns, sums, at + tap * width,
        )  # fmt: skip


@kernel
def _chunks(worker, workers, x, dy, partial, plan, read_h, read_w, offsets, tasks, memory):
    """Run the worker's tasks, each the sums of a few channels over a chunk of all bands.

    Row i of `memory` is worker i's.
    """
    p, scratch = plan[0], from_line(memory[worker])
    packed, sums = scratch[: p.packed_size], scratch[p.packed_size :]
    width = _VECTOR_BYTES // x.itemsize
    size = offsets.size * width
    begin, end = share(worker, workers, tasks)
    for task in range(begin, end):
        first, chunk = task // p.chunks * p.unit_run, task % p.chunks
        last = min(first + p.unit_run, p.groups)
        sums[: p.unit_run * size] = 0
        low, high = chunk * p.blocks // p.chunks, (chunk + 1) * p.blocks // p.chunks
        for image in range(low // p.row_blocks, (high + p.row_blocks - 1) // p.row_blocks):
            before = image * p.row_blocks
            bands = range(max(low - before, 0), min(high - before, p.row_blocks))
            for channel in range(first, last):  # as their bands lie in memory
                for band in bands:
                    _add_band(
                        x, dy, image * p.groups + channel, band * p.block_rows, packed, p,
                        read_h, read_w, offsets, sums, (channel - first) * size,
                    )  # fmt: skip
        for channel in range(first, last):
            at = (channel - first) * size
            sum_vectors(sums, at, partial[chunk], channel * p.kernel, p.kernel, width)


@kernel
def write_sums(partial, dw):
    """Write the sums of all chunks, which are added in their order."""
    add_chunks(partial, 0, dw.size)
    for i in range(dw.size):
        dw[i] = partial[0, i]


@entry
def _chunk_pass(x, dy, dw, plan, read_h, read_w, offsets, tasks, partial, memory):
    """Run all tasks, then add the chunks up in their order."""
    workers = memory.shape[0]
    launch(_chunks, workers, x, dy, partial, plan, read_h, read_w, offsets, tasks, memory)
    write_sums(partial, dw)


def _workspace(plan: DepthPlan, dtype: np.dtype) -> np.ndarray:
    """Return one row of scratch memory for each worker, with room to begin at a cache line."""
    return empty((count_workers(plan.tasks), plan.scratch_size + LINE), dtype)


def run_bands(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, plan: DepthPlan) -> np.ndarray:
    """Launch a forward pass or an input gradient and return its result."""
    y = empty(plan.shape, x.dtype)
    if y.size:
        memory = _workspace(plan, x.dtype)
        _band_pass(
            len(memory), flat(x), flat(w), np.empty(0, x.dtype) if bias is None else flat(bias),
            y.reshape(-1), plan.numbers, plan.read_h, plan.read_w, plan.runs, plan.run_at,
            plan.tap_kernel, plan.phase_at, plan.edges, plan.tasks, memory,
        )  # fmt: skip
    return y


def run_chunks(x: np.ndarray, dy: np.ndarray, plan: DepthPlan) -> np.ndarray:
    """Launch a weight gradient and return its result."""
    dw = empty(plan.shape, x.dtype)
    partial = empty((int(plan.numbers["chunks"][0]), dw.size), x.dtype)
    _chunk_pass(
        flat(x), flat(dy), dw.reshape(-1), plan.numbers, plan.read_h, plan.read_w, plan.runs,
        plan.tasks, partial, _workspace(plan, x.dtype),
    )  # fmt: skip
    return dw
