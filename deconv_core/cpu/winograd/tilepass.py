"""The forward pass and the input gradient by Winograd's tiles, channels innermost.

The tasks of one block transform its source (transforms.py) into rows of channels, one for each tile
and product; multiply them by their units' transformed weights (weights.py): the register tile
has tiles for lanes, and its vectors run over result channels; and turn the sums into results.
"""

from __future__ import annotations

import numpy as np

from ...memory import empty
from ..config import LINE, MACHINE, ROW
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, linked
from ..runtime.tasks import count_workers, share, share_parts
from ..tiles.cross import cross
from .tilepassplan import TilePlan
from .transforms import pack_tiles, unpack_tiles
from .weights import pack_tile_weights

_VECTOR_BYTES, (_LANES, _VECTORS) = MACHINE.vector_bytes, MACHINE.spread[0]
_CROSS_CHANNELS = MACHINE.cross_channels


@linked
@kernel
def _pack(x, packed, p, start, group, lines):
    """Transform all source channels of a block of tiles into (product, channels, tile, channel)."""
    width = _VECTOR_BYTES // x.itemsize
    for channel in range(0, p.source_channels, width):
        pack_tiles(
            x, packed, channel // ROW * p.plane + channel % ROW, ROW, p.phase_plane, p, start,
            group, channel, min(width, p.source_channels - channel), lines,
        )  # fmt: skip


@kernel
def _clear_rest(packed, p, count):
    """Zero the rows behind `count` tiles, which the last register tile multiplies in vain.

    They might be subnormal numbers, which take a hundred times as long.
    """
    rest = -count % _LANES
    for product in range(p.packed_size // p.phase_plane):
        for row in range((p.source_channels + ROW - 1) // ROW):
            first = product * p.phase_plane + row * p.plane + count * ROW
            packed[first : first + rest * ROW] = 0


@linked
@kernel
def _multiply(
    packed, weights, at, sums, p, runs, starts, begin, end, count, channel, channels, vectors
):
    """Sum up the products from `begin` to `end` of some source channels."""
    x_at, wide = (
        channel // ROW * p.plane + channel % ROW,
        vectors * (_VECTOR_BYTES // sums.itemsize),
    )
    size = channels * wide + LINE // sums.itemsize  # of a tap's weights
    together = _CROSS_CHANNELS or channels
    for product in range(begin, end):
        if starts[product] == starts[product + 1]:  # of a phase that lacks a tap
            first = (product - begin) * p.panel_plane
            sums[first : first + p.panel_plane] = 0
            continue
        runs_together = 1 if together < channels else starts[product + 1] - starts[product]
        for run in range(starts[product], starts[product + 1], runs_together):
            for first in range(0, channels, together):
                begins = run == starts[product] and channel + first == 0
                cross(
                    vectors, count, packed, x_at + first // ROW * p.plane, p.plane, runs,
                    run, run + runs_together, min(together, channels - first),
                    weights, at + run * size + first * wide,
                    sums, (product - begin) * p.panel_plane, 1 if begins else 0,
                )  # fmt: skip


@linked
@kernel
def _unit(
    u, block, w, work, near, packed, sums, lines, bias, relu, gate, y, plan, runs, starts, codes,
    corners, units,
):  # fmt: skip
    """Run one unit of a block whose source is transformed."""
    p, unit = plan[0], units[u]
    width, start = _VECTOR_BYTES // y.itemsize, block * p.positions
    count = min(p.positions, p.batch * p.rows * p.columns - start)
    vectors = 1 if unit[2] <= width else _VECTORS
    channel = unit[0] * p.result_channels + unit[1]
    for top in range(0, p.write_stride_h, p.phase_rows):
        begin, end = top * p.write_stride_w, (top + p.phase_rows) * p.write_stride_w
        if p.near:
            for first in range(0, p.source_channels, p.chunk):
                channels = min(p.chunk, p.source_channels - first)
                _pack_unit(u, 0, first, channels, w, near, plan, starts, codes, corners, units)
                _multiply(
                    packed, near, 0, sums, p, runs, starts, begin, end, count, first, channels,
                    vectors,
                )  # fmt: skip
        else:
            _multiply(
                packed, work, u * p.tile_size, sums, p, runs, starts, begin, end, count, 0,
                p.source_channels, vectors,
            )  # fmt: skip
        for phase in range(top // p.points_h, (top + p.phase_rows) // p.points_h):
            for lane in range(0, unit[2], width):
                at = (phase * p.points_h - top) * p.write_stride_w * p.panel_plane + lane
                unpack_tiles(
                    sums, at, y, p, start, channel + lane, min(width, unit[2] - lane), phase, bias,
                    lines, relu, gate,
                )  # fmt: skip


@linked
@kernel(_nrt=True)  # it allocates
def _pack_unit(u, at, channel, channels, w, weights, plan, starts, codes, corners, units):
    """Transform the weights of some source channels of unit `u`, from `channel` on."""
    p, unit = plan[0], units[u]
    vectors = 1 if unit[2] <= _VECTOR_BYTES // w.itemsize else _VECTORS
    pack_tile_weights(
        w, weights, at, p, codes, starts, corners, unit[0], unit[1], unit[2], vectors, channel,
        channels,
    )  # fmt: skip


@kernel
def _worker(
    worker, workers, x, w, work, bias, relu, gate, y, plan, runs, starts, codes, corners, units,
    ends, scratch,
):  # fmt: skip
    """Run the worker's tasks, those of one block together, in its row of `scratch`."""
    p, count = plan[0], units.shape[0]
    packed, rest = scratch[worker, : p.packed_size], scratch[worker, p.packed_size :]
    sums, rest = rest[: p.panel_size], rest[p.panel_size :]
    near, lines = rest[: p.near_size], rest[p.near_size :]
    task, end = share_parts(worker, workers, ends, count)
    packed_block, packed_group = -1, -1
    for now in range(task, end):
        block, u = divmod(now, count)
        group = units[u, 0]
        if packed_block < 0:
            tiles = p.batch * p.rows * p.columns - block * p.positions
            _clear_rest(packed, p, min(p.positions, tiles))
        if block != packed_block or group != packed_group:
            _pack(x, packed, p, block * p.positions, group, lines)
            packed_block, packed_group = block, group
        _unit(
            u, block, w, work, near, packed, sums, lines, bias, relu, gate, y, plan, runs, starts,
            codes, corners, units,
        )  # fmt: skip


@kernel
def _pack_units(worker, workers, w, weights, plan, starts, codes, corners, units):
    """Transform all weights of the worker's units."""
    size, channels = plan[0].tile_size, plan[0].source_channels
    begin, end = share(worker, workers, units.shape[0])
    for u in range(begin, end):
        _pack_unit(u, u * size, 0, channels, w, weights, plan, starts, codes, corners, units)


@entry
def _launch(
    x, w, work, bias, relu, gate, y, plan, runs, starts, codes, corners, units, ends, scratch
):  # fmt: skip
    """Transform the weights, unless each task does so for itself; then run all tasks."""
    workers = scratch.shape[0]
    if work.size:
        launch(_pack_units, workers, w, work, plan, starts, codes, corners, units)
    launch(
        _worker, workers, x, w, work, bias, relu, gate, y, plan, runs, starts, codes, corners,
        units, ends, scratch,
    )  # fmt: skip


def run_tile_pass(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    plan: TilePlan,
    relu: bool = False,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Launch a forward pass or an input gradient, with its ending, and return its result."""
    y = empty(plan.shape, x.dtype)
    workers = count_workers(plan.workers)
    _launch(
        flat(x), flat(w), empty((plan.weight_size,), x.dtype),
        np.zeros(y.shape[1], x.dtype) if bias is None else flat(bias), int(bool(relu)),
        np.empty(0, x.dtype) if mask is None else flat(mask), y.ravel(),
        plan.numbers, plan.runs, plan.starts, plan.codes, plan.corners, plan.units, plan.ends,
        empty((workers, plan.scratch_size), x.dtype),
    )  # fmt: skip
    return y
