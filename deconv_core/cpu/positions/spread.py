"""The forward pass and the input gradient, which is a transposed convolution's forward.

Both are dense passes over phases (sweep.py). The tasks of one block pack its source (pack.py), run
register tiles over it (tiles/spread.py), and unpack the panel of their results.
"""

from __future__ import annotations

import numpy as np

from ..config import AHEAD_TILES, MACHINE
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, linked
from ..runtime.tasks import block_at, positions_of, share, share_parts
from ..tiles.spread import spread
from .pack import pack_joint_weights, pack_source, pack_weights, unpack, weight_places
from .plan import Plan
from .units import run_units

_VECTOR_BYTES, _MOST_LANES = MACHINE.vector_bytes, MACHINE.spread[0][0]


@linked
@kernel
def _rows(
    x, x_at, x_row, plane, weights, at, bias, channel, y, y_at, y_row, size, rows, length, p, taps,
    lanes, step, ahead,
):  # fmt: skip
    """Run one unit over rows of `length` positions, straight into `y`.

    A row's last tile overlaps the one before it, so that whole vectors stay inside the row; it is
    of a single vector where that is enough.
    """
    width, start = _VECTOR_BYTES // x.itemsize, 0
    while start < length:
        count = width if lanes == _MOST_LANES and length - start <= width else step
        count = max(count, (length - start) // step * step)
        q = min(start, length - count)
        start += count
        spread(
            lanes, rows, count, weights, at, 0, x, x_at + q, x_row,
            plane // p.alike, p.source_channels * p.alike, taps, 0, taps.size // p.alike,
            bias, channel, y, y_at + q, y_row, size, 1, ahead, p.terms,
        )  # fmt: skip


@kernel(inline="always")
def _plain(x, weights, bias, y, p, taps, image, column, group, first, lanes, at, step):
    """Run one unit over a block of a 1x1 convolution, from `x` straight into `y`."""
    size, length = p.columns, min(p.block_columns, p.columns - column)
    sources, results = p.groups * p.source_channels * size, p.groups * p.result_channels * size
    channel = group * p.result_channels + first
    _rows(
        x, image * sources + group * p.source_channels * size + column, sources, size, weights, at,
        bias, channel, y, image * results + channel * size + column, results, size,
        min(p.images, p.batch - image), length, p, taps, lanes, step,
        AHEAD_TILES * step,
    )  # fmt: skip


@kernel(inline="always")
def _straight(packed, weights, bias, y, p, taps, image, row, column, group, first, lanes, at, step):
    """Run one unit over a packed block row by row, straight into `y`."""
    size, length = p.rows * p.columns, min(p.block_columns, p.columns - column)
    channel = group * p.result_channels + first
    for i in range(min(p.images, p.batch - image)):
        target = ((image + i) * p.groups * p.result_channels + channel) * size + column
        _rows(
            packed, i * p.image_rows * p.pitch, p.pitch, p.plane, weights, at, bias, channel,
            y, target + row * p.columns, p.columns, size, min(p.block_rows, p.rows - row), length,
            p, taps, lanes, step, p.ahead,
        )  # fmt: skip


@linked
@kernel(_nrt=True)  # it allocates
def _block(
    block, first, last, x, weights, bias, y, p, read_h, read_w, taps, phase_at, units, scratch
):  # fmt: skip
    """Run one block's units from `first` to `last`: all of them for each chunk of channels."""
    image, row, column = block_at(block, p)
    packed, panel = scratch[: p.packed_size], scratch[p.packed_size :]
    width = _VECTOR_BYTES // x.itemsize
    none, positions = np.zeros(units[0, 2], x.dtype), positions_of(p, image, row)
    packed_group, packed_channel = -1, -1
    chunks = (p.source_channels + p.chunk - 1) // p.chunk
    for turn in range(chunks * (last - first)):
        chunk, u = divmod(turn, last - first)
        channel, u = chunk * p.chunk, first + u
        channels = min(p.chunk, p.source_channels - channel)
        group, lane, lanes, at = units[u, 0], units[u, 1], units[u, 2], units[u, 3]
        step = units[u, 4] * width
        if p.plain:
            _plain(x, weights, bias, y, p, taps, image, column, group, lane, lanes, at, step)
            continue
        if group != packed_group or channel != packed_channel:
            pack_source(x, packed, p, read_h, read_w, image, row, column, group, channel, channels)
            packed_group, packed_channel = group, channel
        if units[u, 4] <= p.straight:
            _straight(
                packed, weights, bias, y, p, taps, image, row, column, group, lane, lanes, at, step
            )
            continue
        phase_pitch = lanes // p.joint * p.panel_pitch
        sums = panel[(u - first) * p.unit_panel :]  # until the last chunk of channels
        for top in range(0, p.write_stride_h, p.phase_rows):  # write phases, some rows at a time
            bottom = min(p.write_stride_h, top + p.phase_rows)
            begin, end = top * p.write_stride_w, bottom * p.write_stride_w
            for phase in range(begin // p.joint, end // p.joint):
                tap, count = phase_at[phase], phase_at[phase + 1] - phase_at[phase]
                before = p.source_channels * tap + channel * count
                spread(
                    lanes, (positions + p.run_pitch - 1) // p.run_pitch, min(p.run, positions),
                    weights, at + lanes * before, 0, packed, 0, p.run_pitch, p.plane // p.alike,
                    channels * p.alike, taps, tap, tap + count // p.alike, none, 0,
                    sums, (phase * p.joint - begin) * phase_pitch, p.run_pitch, p.panel_pitch,
                    1 if channel == 0 else 0, p.ahead, p.terms,
                )  # fmt: skip
            if channel + channels < p.source_channels:
                continue
            for phase_h in range(top, bottom):
                unpack(
                    sums[(phase_h * p.write_stride_w - begin) * phase_pitch :], phase_pitch,
                    y, p, image, row, column, group * p.result_channels + lane, lanes // p.joint,
                    phase_h, bias,
                )  # fmt: skip


@kernel(_nrt=True)  # it allocates
def _pack_units(worker, workers, w, weights, plan, tables):
    """Pack the weights of the worker's units."""
    p = plan[0]
    tap_kernel = tables[p.tap_kernel_begin : p.tap_kernel_end]
    phase_at = tables[p.phase_at_begin : p.phase_at_end]
    units = tables[p.units_begin : p.units_end].reshape(-1, 6)
    begin, end = share(worker, workers, units.shape[0])
    for u in range(begin, end):
        group, lane, lanes, at = units[u, 0], units[u, 1], units[u, 2], units[u, 3]
        if p.joint > 1:
            pack_joint_weights(w, weights, at, p, tap_kernel, phase_at, group)
        else:
            channels = p.source_channels
            places = weight_places(p, tap_kernel, phase_at, channels, lanes)
            pack_weights(w, weights, at, places, p, group, 0, channels, lane, lanes)


@kernel
def _worker(worker, workers, x, work, bias, y, plan, tables):
    """Run the worker's tasks, those of one block together.

    `work` holds the weights and each worker's scratch memory.
    """
    p = plan[0]
    read_h, read_w = tables[p.read_h_begin : p.read_h_end], tables[p.read_w_begin : p.read_w_end]
    taps = tables[p.taps_begin : p.taps_end]
    phase_at = tables[p.phase_at_begin : p.phase_at_end]
    units = tables[p.units_begin : p.units_end].reshape(-1, 6)
    first = p.weight_size + worker * p.scratch_size
    scratch = work[first : first + p.scratch_size]
    scratch[: p.packed_size] = 0  # packing leaves some as it is: subnormal numbers would take long
    count = units.shape[0]
    task, end = share_parts(worker, workers, tables[p.ends_begin : p.ends_end], count)
    while task < end:
        block, unit = divmod(task, count)
        last = min(count, unit + end - task)
        _block(
            block, unit, last, x, work, bias, y, p, read_h, read_w, taps, phase_at, units, scratch,
        )  # fmt: skip
        task += last - unit


@entry
def _launch(x, w, bias, y, plan, tables, work, workers):
    """Pack the weights of all units, then run all tasks."""
    launch(_pack_units, workers, w, work, plan, tables)
    launch(_worker, workers, x, work, bias, y, plan, tables)


def run_spread(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, plan: Plan) -> np.ndarray:
    """Launch a forward pass or an input gradient and return its result."""
    return run_units(_launch, x, w, bias, plan)
