"""The three convolution kernels: forward, input gradient (a transposed forward), weight gradient.

Each is a plan (blocking.py), then tasks that pack a block (pack.py) and run register tiles over it
(tile.py). Each worker takes a run of the tasks and every element of the result has one writer, so
the bits do not depend on the number of threads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import prange, types

from ..geometry import ConvGeometry
from ..memory import empty
from .arrays import flat
from .blocking import PLAN, Plan, dot_plan, spread_plan
from .config import MACHINE
from .depthwise import (
    depthwise_forward,
    depthwise_input_grad,
    depthwise_weight_grad,
    is_depthwise,
)
from .jit import kernel
from .launch import address, array, call
from .pack import pack_lanes, pack_source, pack_weights, unpack
from .tile import dot, spread
from .whole import is_whole, whole_forward, whole_input_grad, whole_weight_grad
from .winograd import (
    pack_grad_tiles,
    pack_tile_weights,
    pack_tiles,
    unpack_tiles,
    weight_from_tiles,
)

_VECTOR_BYTES = MACHINE.vector_bytes


@kernel
def _block_at(block, p):
    """Return the first image, row and column of a block."""
    rest, column = divmod(block, p.column_blocks)
    image, row = divmod(rest, p.row_blocks)
    return image * p.images, row * p.block_rows, column * p.block_columns


@kernel
def _share(worker, workers, tasks):
    """Return where a worker's tasks begin and end; odd ones go to the first, who wake first."""
    before = workers - 1
    return (worker * tasks + before) // workers, ((worker + 1) * tasks + before) // workers


@kernel
def _spread_plain(x, weights, bias, y, p, taps, image, column, group, first, lanes, at, step):
    """Run one unit over a block of a 1x1 convolution, from `x` straight into `y`.

    The last tile overlaps the one before it, so that whole vectors stay inside the block.
    """
    end = min(p.columns, column + p.block_columns)
    channel = group * p.result_channels + first
    for i in range(min(p.images, p.batch - image)):
        source = ((image + i) * p.groups + group) * p.source_channels * p.columns
        target = ((image + i) * p.groups * p.result_channels + channel) * p.columns
        for start in range(column, end, step):
            q = min(start, end - step)
            spread(
                lanes, weights, at, x, source + q, p.columns, p.source_channels, taps, 0, 1,
                bias, channel, y, target + q, p.columns,
            )  # fmt: skip


@kernel(_nrt=True)  # it allocates
def _spread_block(
    block, first, last, x, weights, bias, y, p, read_h, read_w, taps, phase_at, units, scratch
):
    """Run one block's units from `first` to `last`."""
    image, row, column = _block_at(block, p)
    packed, panel = scratch[: p.packed_size], scratch[p.packed_size :]
    lines = panel[p.panel_size :]
    width = _VECTOR_BYTES // x.itemsize
    none = np.zeros(units[0, 2], x.dtype)
    packed_group = -1
    for u in range(first, last):
        group, lane, lanes, at = units[u, 0], units[u, 1], units[u, 2], units[u, 3]
        step = units[u, 4] * width
        if p.plain:
            _spread_plain(x, weights, bias, y, p, taps, image, column, group, lane, lanes, at, step)
            continue
        phase_pitch = lanes * p.panel_pitch
        if group != packed_group:
            if p.tile:
                across = read_w.size // 4
                for phase_h in range(read_h.size // 4):
                    start = packed[16 * phase_h * across * p.phase_plane :]
                    pack_tiles(x, start, p, phase_h, block * p.positions, group, lines)
            else:
                pack_source(x, packed, p, read_h, read_w, image, row, column, group)
            packed_group = group
        for top in range(0, p.write_stride_h, p.phase_rows):  # write phases, some rows at a time
            bottom = min(p.write_stride_h, top + p.phase_rows)
            begin, end = top * p.write_stride_w, bottom * p.write_stride_w
            for q in range(0, p.positions, step):
                for phase in range(begin, end):
                    spread(
                        lanes, weights, at + lanes * p.source_channels * phase_at[phase],
                        packed, q, p.plane, p.source_channels,
                        taps, phase_at[phase], phase_at[phase + 1], none, 0,
                        panel, (phase - begin) * phase_pitch + q, p.panel_pitch,
                    )  # fmt: skip
            if p.tile:
                unpack_tiles(
                    panel, phase_pitch, y, p, block * p.positions,
                    group * p.result_channels + lane, lanes, top // 4, bias, lines,
                )  # fmt: skip
                continue
            for phase_h in range(top, bottom):
                unpack(
                    panel[(phase_h * p.write_stride_w - begin) * phase_pitch :], phase_pitch,
                    y, p, image, row, column, group * p.result_channels + lane, lanes,
                    phase_h, bias,
                )  # fmt: skip


@kernel
def _pack_unit(u, w, weights, plan, tables):
    """Pack the weights of unit `u`."""
    p = plan[0]
    tap_kernel = tables[p.tap_kernel_begin : p.tap_kernel_end]
    phase_at = tables[p.phase_at_begin : p.phase_at_end]
    unit = tables[p.units_begin + 6 * u : p.units_begin + 6 * u + 6]
    if p.tile:
        corners = tables[p.corners_begin : p.corners_end]
        pack_tile_weights(
            w, weights, p, tap_kernel, phase_at, corners, unit[0], unit[1], unit[2], unit[3]
        )
    else:
        pack_weights(w, weights, p, tap_kernel, phase_at, unit[0], unit[1], unit[2], unit[3])


@kernel
def _spread_worker(worker, workers, x, work, bias, y, plan, tables):
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
    task, end = _share(worker, workers, p.blocks * count)
    while task < end:
        block, unit = divmod(task, count)
        last = min(count, unit + end - task)
        _spread_block(
            block, unit, last, x, work, bias, y, p, read_h, read_w, taps, phase_at, units, scratch
        )
        task += last - unit


def _spread_pass(pack, run, x, w, bias, y, plan, tables, work, workers):
    """Pack the weights, then run all tasks, with the kernels at the addresses `pack` and `run`."""
    for u in prange((plan[0].units_end - plan[0].units_begin) // 6):
        call(pack, u, w, work, plan, tables)
    for worker in prange(workers):
        call(run, worker, workers, x, work, bias, y, plan, tables)


_spread_alone, _spread_shared = kernel(_spread_pass), kernel(_spread_pass, parallel=True)


@kernel
def _dot_plain(x, dy, sums, p, units, begin, end, chunk, offsets):
    """Add up one chunk of blocks of a 1x1 convolution, for some units, straight from the arrays."""
    for block in range(chunk * p.blocks // p.chunks, (chunk + 1) * p.blocks // p.chunks):
        image, _, column = _block_at(block, p)
        length = min(p.columns, column + p.block_columns) - column
        for i in range(min(p.images, p.batch - image)):
            for u in range(begin, end):
                group, first, lanes, step = units[u, 0], units[u, 1], units[u, 2], units[u, 4]
                of = (image + i) * p.groups + group
                source = x[of * p.source_channels * p.columns + column :]
                at = (of * p.result_channels + first) * p.columns + column
                for tile in range((p.source_channels + step - 1) // step):
                    dot(
                        lanes, dy, at, p.columns, source, offsets, tile * step, length,
                        sums, units[u, 3] + tile * p.tile_size,
                    )  # fmt: skip


@kernel(_nrt=True)  # it allocates
def _offsets(p, taps):
    """Return where each stream of a weight gradient begins, for each plane of products.

    A plane is the convolution's source itself, with a stream for each tap, or one of the 16 of
    Winograd's tiles. Beyond the last stream are some that repeat it, to be dropped.
    """
    taps_each = 1 if p.tile else p.kernel
    streams = p.source_channels * taps_each
    offsets = np.empty((16 if p.tile else 1, streams + p.streams), np.int64)
    for plane in range(offsets.shape[0]):
        for stream in range(offsets.shape[1]):
            channel, tap = divmod(min(stream, streams - 1), taps_each)
            within = plane * p.phase_plane if p.tile else taps[tap]
            offsets[plane, stream] = channel * p.plane + within
    return offsets


@kernel
def _dot_run(panel, packed, offsets, p, units, first, last, sums):
    """Add up the products of one block for a run of like units, whose panels are packed."""
    width = _VECTOR_BYTES // panel.itemsize
    length = (p.positions + width - 1) // width * width
    lanes, step = units[first, 2], units[first, 4]
    across = (offsets.shape[1] - p.streams + step - 1) // step
    for plane in range(offsets.shape[0]):
        for near in range(first, last, p.near_run):
            for tile in range(across):
                for u in range(near, min(last, near + p.near_run)):
                    dot(
                        lanes, panel, plane * p.panel_plane + (u - first) * p.lanes_size,
                        p.panel_pitch, packed, offsets[plane], tile * step, length,
                        sums, units[u, 3] + (plane * across + tile) * p.tile_size,
                    )  # fmt: skip


@kernel(_nrt=True)  # it allocates
def _dot_chunk(chunk, begin, end, x, dy, partial, p, read_h, read_w, taps, units, scratch):
    """Add up one chunk of blocks, for the units from `begin` to `end`, in `partial`."""
    packed, panel = scratch[: p.packed_size], scratch[p.packed_size :]
    lines = panel[p.panel_size :]
    offsets = _offsets(p, taps)
    sums = partial[chunk]
    sums[units[begin, 3] : units[end - 1, 3] + units[end - 1, 5]] = 0
    if p.plain:
        _dot_plain(x, dy, sums, p, units, begin, end, chunk, offsets[0])
        return
    packed[:] = 0  # so that what packing leaves as it is cannot be a NaN
    for block in range(chunk * p.blocks // p.chunks, (chunk + 1) * p.blocks // p.chunks):
        image, row, column = _block_at(block, p)
        packed_group = -1
        first = begin
        while first < end:  # a run of like units, whose panels stay in the nearest cache
            group, lanes = units[first, 0], units[first, 2]
            last = first
            while (
                last < min(end, first + p.unit_run)
                and units[last, 0] == group
                and units[last, 2] == lanes
            ):
                at, lane = (last - first) * p.lanes_size, units[last, 1]
                if p.tile:
                    pack_grad_tiles(
                        dy, panel, at, p, block * p.positions, group, lane, lanes, lines
                    )
                else:
                    pack_lanes(dy, panel[at:], p, image, row, column, group, lane, lanes)
                last += 1
            if group != packed_group:
                if p.tile:
                    pack_tiles(x, packed, p, 0, block * p.positions, group, lines)
                else:
                    pack_source(x, packed, p, read_h, read_w, image, row, column, group)
                packed_group = group
            _dot_run(panel, packed, offsets, p, units, first, last, sums)
            first = last


@kernel
def _write_unit(dw, sums, p, units, corners, u):
    """Write one unit's sums, which lie tile by tile, into the weight gradient."""
    group, first, lanes, at, step = units[u, 0], units[u, 1], units[u, 2], units[u, 3], units[u, 4]
    base = group * p.result_channels + first
    if p.tile:
        plane = (p.source_channels + step - 1) // step * p.tile_size
        for channel in range(p.source_channels):
            tile, j = divmod(channel, step)
            for lane in range(lanes):
                place = at + tile * p.tile_size + lane * step + j
                to = ((base + lane) * p.source_channels + channel) * p.kernel
                weight_from_tiles(dw, to, corners, 4 - p.tile, sums, place, plane)
        return
    streams = p.source_channels * p.kernel
    for lane in range(lanes):
        to, place = (base + lane) * streams, at + lane * step
        for stream in range(0, streams, step):
            for j in range(min(step, streams - stream)):
                dw[to + stream + j] = sums[place + j]
            place += p.tile_size


@kernel
def _add_chunks(partial, first, last):
    """Add all rows of `partial` to the first, in their order, over a range of columns."""
    total = partial[0, first:last]
    for chunk in range(1, partial.shape[0]):
        row = partial[chunk, first:last]
        for i in range(total.size):
            total[i] += row[i]


@kernel
def _dot_worker(worker, workers, x, dy, partial, plan, tables, scratch):
    """Run the worker's tasks, those of one chunk together, in its row of `scratch`."""
    p = plan[0]
    read_h, read_w = tables[p.read_h_begin : p.read_h_end], tables[p.read_w_begin : p.read_w_end]
    taps = tables[p.taps_begin : p.taps_end]
    units = tables[p.units_begin : p.units_end].reshape(-1, 6)
    count = units.shape[0]
    task, end = _share(worker, workers, p.chunks * count)
    while task < end:
        chunk, unit = divmod(task, count)
        last = min(count, unit + end - task)
        _dot_chunk(
            chunk, unit, last, x, dy, partial, p, read_h, read_w, taps, units, scratch[worker]
        )
        task += last - unit


@kernel
def _finish_unit(u, partial, dw, plan, tables):
    """Add up the chunks of unit `u` in their order, and write it."""
    p = plan[0]
    units = tables[p.units_begin : p.units_end].reshape(-1, 6)
    _add_chunks(partial, units[u, 3], units[u, 3] + units[u, 5])
    _write_unit(dw, partial[0], p, units, tables[p.corners_begin : p.corners_end], u)


def _dot_pass(run, finish, x, dy, dw, plan, tables, partial, scratch, workers):
    """Run all tasks, then finish all units, with the kernels at the addresses given."""
    for worker in prange(workers):
        call(run, worker, workers, x, dy, partial, plan, tables, scratch)
    for u in prange((plan[0].units_end - plan[0].units_begin) // 6):
        call(finish, u, partial, dw, plan, tables)


_dot_alone, _dot_shared = kernel(_dot_pass), kernel(_dot_pass, parallel=True)


@lru_cache(maxsize=2)
def _spread_addresses(dtype: np.dtype) -> tuple[Any, Any]:
    """Return the addresses of `_pack_unit` and `_spread_worker` for arrays of `dtype`."""
    data, integer, rest = array(dtype), types.int64, (array(PLAN), array(np.int64))
    return (
        address(_pack_unit, integer, data, data, *rest),
        address(_spread_worker, integer, integer, *[data] * 4, *rest),
    )


@lru_cache(maxsize=2)
def _dot_addresses(dtype: np.dtype) -> tuple[Any, Any]:
    """Return the addresses of `_dot_worker` and `_finish_unit` for arrays of `dtype`."""
    data, rows, integer = array(dtype), array(dtype, 2), types.int64
    rest = array(PLAN), array(np.int64)
    return (
        address(_dot_worker, integer, integer, data, data, rows, *rest, rows),
        address(_finish_unit, integer, rows, data, *rest),
    )


def _workers(plan: Plan) -> int:
    """Return how many threads share a pass: its smallest stay on the calling one."""
    return 1 if plan.workers == 1 else min(numba.get_num_threads(), plan.workers)


def _run_spread(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, plan: Plan
) -> np.ndarray:
    """Launch a forward pass or an input gradient into `y`."""
    if y.size:
        workers = _workers(plan)
        run = _spread_alone if plan.workers == 1 else _spread_shared
        run(
            *_spread_addresses(x.dtype), flat(x), flat(w),
            np.zeros(y.shape[1], x.dtype) if bias is None else flat(bias), y.ravel(),
            plan.numbers, plan.tables,
            empty((plan.weight_size + workers * plan.scratch_size,), x.dtype), workers,
        )  # fmt: skip
    return y


def conv_forward(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, geometry: ConvGeometry
) -> np.ndarray:
    """Return the convolution of `x` with `w`."""
    if is_depthwise(geometry):
        return depthwise_forward(x, w, bias, geometry)
    if is_whole(geometry):
        return whole_forward(x, w, bias, geometry)
    plan = spread_plan(geometry, False, x.itemsize)
    return _run_spread(x, w, bias, empty(geometry.output_shape, x.dtype), plan)


def conv_input_grad(
    dy: np.ndarray, w: np.ndarray, bias: np.ndarray | None, geometry: ConvGeometry
) -> np.ndarray:
    """Return the adjoint of the convolution: its input gradient, a transposed one's forward."""
    if is_depthwise(geometry):
        return depthwise_input_grad(dy, w, bias, geometry)
    if is_whole(geometry):
        return whole_input_grad(dy, w, bias, geometry)
    plan = spread_plan(geometry, True, dy.itemsize)
    return _run_spread(dy, w, bias, empty(geometry.input_shape, dy.dtype), plan)


def conv_weight_grad(x: np.ndarray, dy: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the gradient of the convolution to its weight."""
    if is_depthwise(geometry):
        return depthwise_weight_grad(x, dy, geometry)
    if is_whole(geometry):
        return whole_weight_grad(x, dy, geometry)
    dw = empty(geometry.weight_shape, x.dtype)
    if not geometry.batch:
        dw.fill(0)
        return dw
    plan = dot_plan(geometry, x.itemsize)
    partial = empty((int(plan.numbers["chunks"][0]), plan.weight_size), x.dtype)
    run = _dot_alone if plan.workers == 1 else _dot_shared
    workers = _workers(plan)
    run(
        *_dot_addresses(x.dtype), flat(x), flat(dy), dw.ravel(), plan.numbers, plan.tables,
        partial, empty((workers, plan.scratch_size), x.dtype), workers,
    )  # fmt: skip
    return dw
