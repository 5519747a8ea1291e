"""The forward pass and the input gradient by matrix registers (blend.py), over positions.

The tasks of one block pack its source as spread.py's do, two channels at a time, and split these
into parts; multiply each unit's weights, split too, into a panel of results; and unpack that.
"""

from __future__ import annotations

import numpy as np

from ..config import MATRIX_WEIGHTS
from ..positions.pack import pack_source, pack_weights, unpack, weight_places
from ..positions.plan import Plan
from ..positions.units import run_units
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, linked
from ..runtime.tasks import block_at, positions_of, share, share_parts
from .blend import (
    DEPTH,
    PARTS,
    SIDE,
    STEP,
    blend,
    close_registers,
    open_registers,
    split_pairs,
    split_rows,
)


@linked
@kernel
def _pack_source(x, packed, p, read_h, read_w, image, row, column, group):
    """Pack the source of a block as (depth, part, pair of channels, phase, position)."""
    rows, channels = PARTS * SIDE * p.plane, p.source_channels
    pair = packed[p.depths * rows :]  # before they are split
    for channel in range(0, p.depths * DEPTH, 2):
        depth, within = divmod(channel // 2, SIDE)
        count = max(0, min(2, channels - channel))
        if count:
            pack_source(
                x, pair, p, read_h, read_w, image, row, column, group, channel, count
            )  # fmt: skip
        if count < 2:
            pair[count * p.plane : 2 * p.plane] = 0
        split_pairs(
            packed, depth * rows + within * p.plane, SIDE * p.plane, pair, 0, p.plane, p.plane
        )


@linked
@kernel
def _block(
    block, first, last, x, weights, bias, y, p, read_h, read_w, taps, phase_at, units, scratch
):  # fmt: skip
    """Run one block's units from `first` to `last`."""
    image, row, column = block_at(block, p)
    packed, panel = scratch[: p.packed_size], scratch[p.packed_size :]
    positions, packed_group = positions_of(p, image, row), -1
    phases = p.write_stride_h * p.write_stride_w
    for u in range(first, last):
        group, lane, lanes, at, high = (
            units[u, 0], units[u, 1], units[u, 2], units[u, 3], units[u, 4]
        )  # fmt: skip
        if group != packed_group:
            _pack_source(x, packed, p, read_h, read_w, image, row, column, group)
            packed_group = group
        pitch = high * SIDE * p.panel_pitch
        for phase in range(phases):
            blend(
                high, positions, weights, at + high * STEP * p.depths * phase_at[phase],
                packed, 0, p.plane, p.depths, taps, phase_at[phase], phase_at[phase + 1],
                panel, phase * pitch, p.panel_pitch,
            )  # fmt: skip
        for phase_h in range(p.write_stride_h):
            unpack(
                panel[phase_h * p.write_stride_w * pitch :], pitch, y, p, image, row, column,
                group * p.result_channels + lane, lanes, phase_h, bias,
            )  # fmt: skip


@kernel
def _pack_units(worker, workers, w, weights, plan, tables):
    """Pack the weights of the worker's units."""
    units = tables[plan[0].units_begin : plan[0].units_end].reshape(-1, 6)
    begin, end = share(worker, workers, units.shape[0])
    for u in range(begin, end):
        _pack_unit(units[u], w, weights, plan[0], tables)


@linked
@kernel(_nrt=True)  # it allocates
def _pack_unit(unit, w, weights, p, tables):
    """Pack the weights of a unit as (phase, depth, tap, part, lane, pair of channels)."""
    tap_kernel = tables[p.tap_kernel_begin : p.tap_kernel_end]
    phase_at = tables[p.phase_at_begin : p.phase_at_end]
    group, first, lanes, high = unit[0], unit[1], unit[2], unit[4]
    run = max(1, min(lanes, MATRIX_WEIGHTS // (p.kernel * DEPTH)))
    places = weight_places(p, tap_kernel, phase_at, run, DEPTH)
    rows = np.empty(run * p.kernel * DEPTH + DEPTH, w.dtype)  # before they are split
    for depth in range(p.depths):
        channel = depth * DEPTH
        channels = min(DEPTH, p.source_channels - channel)
        for lane in range(0, high * SIDE, run):
            count = max(0, min(run, lanes - lane))
            if count:
                pack_weights(w, rows, 0, places, p, group, first + lane, count, channel, channels)
            for phase in range(phase_at.size - 1):
                begin, taps = phase_at[phase], phase_at[phase + 1] - phase_at[phase]
                to = unit[3] + high * STEP * (p.depths * begin + depth * taps)
                for i in range(min(run, high * SIDE - lane)):
                    for tap in range(taps):
                        split_rows(
                            weights, to + high * STEP * tap + (lane + i) * SIDE, high * SIDE * SIDE,
                            rows, (run * begin + i * taps + tap) * DEPTH,
                            channels if i < count else 0,
                        )  # fmt: skip


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
    count = units.shape[0]
    task, end = share_parts(worker, workers, tables[p.ends_begin : p.ends_end], count)
    open_registers()
    while task < end:
        block, unit = divmod(task, count)
        last = min(count, unit + end - task)
        _block(
            block, unit, last, x, work, bias, y, p, read_h, read_w, taps, phase_at, units, scratch,
        )  # fmt: skip
        task += last - unit
    close_registers()


@entry
def _launch(x, w, bias, y, plan, tables, work, workers):
    """Pack the weights of all units, then run all tasks."""
    launch(_pack_units, workers, w, work, plan, tables)
    launch(_worker, workers, x, work, bias, y, plan, tables)


def run_amx(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, plan: Plan) -> np.ndarray:
    """Launch a forward pass or an input gradient and return its result."""
    return run_units(_launch, x, w, bias, plan)
