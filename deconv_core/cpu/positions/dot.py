"""The weight gradient: sums of products over positions, in chunks of blocks.

The tasks of one chunk pack the source and the lanes of each block (pack.py) and add register tiles
of products up (tiles/dot.py). Then the chunks' sums are added in their order.
"""

from __future__ import annotations

import numpy as np

from ...memory import empty
from ..config import MACHINE
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, linked
from ..runtime.tasks import add_chunks, block_at, count_workers, positions_of, share, share_parts
from ..tiles.dot import HALF, dot
from .pack import pack_lanes, pack_source
from .plan import Plan

_VECTOR_BYTES = MACHINE.vector_bytes
_LANES = MACHINE.dot[0][0]


@kernel
def _across(lanes, step, rest):
    """Return the streams of the next tile, of `rest` that are left: fewer where these are few."""
    return HALF if lanes == _LANES and rest <= HALF else step


@kernel
def _run_end(units, first, end, most):
    """Return where a run of like units ends: of one group, and of as many lanes."""
    last = first
    while (
        last < min(end, first + most)
        and units[last, 0] == units[first, 0]
        and units[last, 2] == units[first, 2]
    ):
        last += 1
    return last


@kernel
def _place(p, image, group, channel, row, column):
    """Return where the gradient has a row of the block at (`image`, `row`, `column`)."""
    of = (image * p.groups + group) * p.result_channels + channel
    return (of * p.result_h + row) * p.result_w + column


@kernel
def multiply(
    a, at, pitch, a_row, packed, offsets, packed_row, rows, count, sums, p, units, first, last,
    far, far_pitch,
):  # fmt: skip
    """Add up the products of some rows of like units' lanes with all streams, tile by tile.

    Meanwhile the lanes that come next are called for: the first is at address `far`, and they are
    `far_pitch` bytes apart.
    """
    lanes, step, streams = units[first, 2], units[first, 4], offsets.size - p.streams
    for tile in range((streams + step - 1) // step):
        across = _across(lanes, step, streams - tile * step)
        for u in range(first, last):
            before = (u - first) * lanes
            dot(
                lanes, across, a, at + before * pitch, pitch, a_row,
                packed, offsets, tile * step, packed_row, rows, count,
                sums, units[u, 3] + tile * p.tile_size,
                far + (before + min(tile, lanes - 1)) * far_pitch,
            )  # fmt: skip


@linked
@kernel
def _plain(x, dy, sums, p, units, begin, end, chunk, offsets):
    """Add up one chunk of blocks of a 1x1 convolution, for some units, straight from the arrays."""
    for block in range(chunk * p.blocks // p.chunks, (chunk + 1) * p.blocks // p.chunks):
        image, _, column = block_at(block, p)
        length = min(p.columns, column + p.block_columns) - column
        for i in range(min(p.images, p.batch - image)):
            first = begin
            while first < end:
                last = _run_end(units, first, end, p.unit_run)
                of = (image + i) * p.groups + units[first, 0]
                source = x[of * p.source_channels * p.columns + column :]
                at = (of * p.result_channels + units[first, 1]) * p.columns + column
                multiply(
                    dy, at, p.columns, 0, source, offsets, 0, 1, length, sums, p, units, first,
                    last,
                    dy.ctypes.data
                    + (at + (last - first) * units[first, 2] * p.columns) * dy.itemsize,
                    p.columns * dy.itemsize,
                )  # fmt: skip
                first = last


@kernel(_nrt=True)  # it allocates
def stream_offsets(p, taps):
    """Return where each stream of a weight gradient begins: one for each channel and tap.

    Beyond the last stream are some that repeat it, to be dropped.
    """
    streams = p.source_channels * p.kernel
    offsets = np.empty(streams + p.streams, np.int64)
    for stream in range(offsets.size):
        channel, tap = divmod(min(stream, streams - 1), p.kernel)
        offsets[stream] = channel * p.plane + taps[tap]
    return offsets


@linked
@kernel
def _add_block(
    block, begin, end, x, dy, sums, p, read_h, read_w, units, offsets, packed, panel
):  # fmt: skip
    """Add up the products of one block, for the units from `begin` to `end`."""
    image, row, column = block_at(block, p)
    behind, below, beside = block_at(min(block + 1, p.blocks - 1), p)
    width, size = _VECTOR_BYTES // dy.itemsize, p.result_h * p.result_w
    length = (positions_of(p, image, row) + width - 1) // width * width
    packed_group, first = -1, begin
    while first < end:  # a run of like units, whose panels stay in the nearest cache
        group, lanes = units[first, 0], units[first, 2]
        last = _run_end(units, first, end, p.unit_run)
        for u in range(first, first if p.rowwise else last):
            at = (u - first) * lanes * p.panel_pitch
            pack_lanes(dy, panel[at:], p, image, row, column, group, units[u, 1], lanes)
        if group != packed_group:
            pack_source(
                x, packed, p, read_h, read_w, image, row, column, group, 0, p.source_channels
            )
            packed_group = group
        if last < end:
            far = _place(p, image, units[last, 0], units[last, 1], row, column)
        else:
            far = _place(p, behind, units[begin, 0], units[begin, 1], below, beside)
        far = dy.ctypes.data + far * dy.itemsize
        if p.rowwise:
            multiply(
                dy, _place(p, image, group, units[first, 1], row, column), size, p.result_w,
                packed, offsets, p.pitch, min(p.block_rows, p.rows - row),
                min(p.block_columns, p.columns - column), sums, p, units, first, last,
                far, size * dy.itemsize,
            )  # fmt: skip
        else:
            multiply(
                panel, 0, p.panel_pitch, 0, packed, offsets, 0, 1, length, sums, p, units,
                first, last, far, size * dy.itemsize,
            )  # fmt: skip
        first = last


@linked
@kernel(_nrt=True)  # it allocates
def _chunk(chunk, begin, end, x, dy, partial, p, read_h, read_w, taps, units, scratch, fresh):
    """Add up one chunk of blocks, for the units from `begin` to `end`, in `partial`.

    With `fresh` 1, not 0, what lies in `scratch` may be anything.
    """
    packed, panel = scratch[: p.packed_size], scratch[p.packed_size :]
    offsets = stream_offsets(p, taps)
    sums = partial[chunk]
    sums[units[begin, 3] : units[end - 1, 3] + units[end - 1, 5]] = 0
    if p.plain:
        _plain(x, dy, sums, p, units, begin, end, chunk, offsets)
        return
    if fresh or p.images > 1:  # where the last block may have fewer
        packed[:] = 0  # so that what packing leaves as it is cannot be a NaN
    for block in range(chunk * p.blocks // p.chunks, (chunk + 1) * p.blocks // p.chunks):
        _add_block(block, begin, end, x, dy, sums, p, read_h, read_w, units, offsets, packed, panel)


@linked
@kernel
def write_unit(dw, sums, p, tap_kernel, units, u):
    """Write one unit's sums, which lie tile by tile, into the weight gradient."""
    group, first, lanes, step = units[u, 0], units[u, 1], units[u, 2], units[u, 4]
    for lane in range(lanes):
        to = (group * p.result_channels + first + lane) * p.source_channels * p.kernel
        tile, rest, within = units[u, 3], p.source_channels * p.kernel, 0
        across = _across(lanes, step, rest)
        for channel in range(p.source_channels):
            for tap in range(p.kernel):
                if within == across:
                    tile, rest, within = tile + p.tile_size, rest - across, 0
                    across = _across(lanes, step, rest)
                place = to + channel * p.kernel + tap_kernel[tap]
                dw[place] = sums[tile + lane * across + within]
                within += 1


@kernel
def _worker(worker, workers, x, dy, partial, plan, tables, scratch):
    """Run the worker's tasks, those of one chunk together, in its row of `scratch`."""
    p = plan[0]
    read_h, read_w = tables[p.read_h_begin : p.read_h_end], tables[p.read_w_begin : p.read_w_end]
    taps = tables[p.taps_begin : p.taps_end]
    units = tables[p.units_begin : p.units_end].reshape(-1, 6)
    count = units.shape[0]
    task, end = share_parts(worker, workers, tables[p.ends_begin : p.ends_end], count)
    fresh = 1
    while task < end:
        chunk, unit = divmod(task, count)
        last = min(count, unit + end - task)
        _chunk(
            chunk, unit, last, x, dy, partial, p, read_h, read_w, taps, units, scratch[worker],
            fresh,
        )  # fmt: skip
        task, fresh = task + last - unit, 0


@kernel
def _finish_units(worker, workers, partial, dw, plan, tables):
    """Add up the chunks of the worker's units in their order, and write them."""
    p = plan[0]
    units = tables[p.units_begin : p.units_end].reshape(-1, 6)
    tap_kernel = tables[p.tap_kernel_begin : p.tap_kernel_end]
    begin, end = share(worker, workers, units.shape[0])
    for u in range(begin, end):
        add_chunks(partial, units[u, 3], units[u, 3] + units[u, 5])
        write_unit(dw, partial[0], p, tap_kernel, units, u)


@entry
def _launch(x, dy, dw, plan, tables, partial, scratch, workers):
    """Run all tasks, then finish all units."""
    launch(_worker, workers, x, dy, partial, plan, tables, scratch)
    launch(_finish_units, workers, partial, dw, plan, tables)


def run_dot(x: np.ndarray, dy: np.ndarray, plan: Plan) -> np.ndarray:
    """Launch a weight gradient and return its result."""
    dw = empty(plan.shape, x.dtype)
    partial = empty((int(plan.numbers["chunks"][0]), plan.weight_size), x.dtype)
    workers = count_workers(plan.workers)
    _launch(
        flat(x), flat(dy), dw.ravel(), plan.numbers, plan.tables, partial,
        empty((workers, plan.scratch_size), x.dtype), workers,
    )  # fmt: skip
    return dw
