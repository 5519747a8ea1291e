"""The weight gradient by Winograd's tiles: a product of matrices for each of their products.

Product k of all tiles, of a result channel and a source channel, are summed over the tiles: as in
gemmgrad.py lanes are result channels, vectors run over source channels, and the register tile is
`spread`. Both operands are transformed (transforms.py), some tiles at a time; the sums stay, one
set for each chunk of tiles, until they are added in their order and turned into taps (weights.py).
Where one block has all tiles, a unit's sums are turned into taps as soon as they are made. A task
is one unit of result channels by one block of source channels of a chunk.
"""

from __future__ import annotations

import numpy as np

from ...memory import empty
from ..config import AHEAD_PLANES, MACHINE, SUM_TERMS
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, linked
from ..runtime.tasks import add_chunks, count_workers, share, share_parts
from ..tiles.spread import spread
from ..vectors.transpose import evenly, transpose
from .tilegradplan import LANES, VECTORS, TileGradPlan
from .transforms import pack_grad_tiles, pack_tiles
from .weights import taps_from_tiles

_VECTOR_BYTES = MACHINE.vector_bytes


@linked
@kernel
def _pack_columns(x, columns, p, start, group, first, last, lines):
    """Transform some source channels of a block of tiles into (plane, tile, channel)."""
    width = _VECTOR_BYTES // x.itemsize
    block = VECTORS * width
    for channel in range(first, last, width):
        pack_tiles(
            x, columns, channel - first, block, p.phase_plane, p, start, group, channel,
            min(width, last - channel), lines,
        )  # fmt: skip


@linked
@kernel
def _pack_lanes(dy, lanes, p, start, group, unit, lines):
    """Transform the result channels of one unit of a block into (plane, unit, tile, lane).

    Whole vectors are written, which may run over into the next tile's lanes, or the room behind.
    """
    width, first = _VECTOR_BYTES // dy.itemsize, unit * LANES
    channels, plane = min(LANES, p.result_channels - first), p.panel_plane
    for lane in range((channels - 1) // width * width, -1, -width):
        pack_grad_tiles(
            dy, lanes, unit * p.panel_pitch + lane, LANES, plane, p, start, group, first + lane,
            min(width, channels - lane), lines,
        )  # fmt: skip


@linked
@kernel
def _multiply(
    lanes, columns, sums, at, p, reads, writes, none, taps, begin, end, count, fresh
):  # fmt: skip
    """Add up `count` tiles, for the units [begin, end) and one block of source channels.

    Their sums begin at ``sums[at]``; those of ``p.chunk`` tiles at a time are added to them.
    """
    block = VECTORS * (_VECTOR_BYTES // sums.itemsize)
    for tap in range(reads.size):
        for first in range(0, count, p.chunk):
            spread(
                LANES, end - begin, block,
                lanes, writes[tap] * p.panel_plane + begin * p.panel_pitch + first * LANES,
                p.panel_pitch, columns, reads[tap] * p.phase_plane + first * block, 0, block,
                min(p.chunk, count - first), taps, 0, 1, none, 0,
                sums, at + tap * LANES * block, p.tile_size, block, fresh if first == 0 else 0,
                AHEAD_PLANES * block, SUM_TERMS,
            )  # fmt: skip


@linked
@kernel(_nrt=True)  # it allocates
def _chunk(
    chunk, begin, end, x, dy, dw, partial, plan, reads, writes, places, corners, scratch
):  # fmt: skip
    """Run the tasks [begin, end) of one chunk: (group and block of source channels, unit)."""
    p = plan[0]
    columns, rest = scratch[: p.columns_size], scratch[p.columns_size :]
    lanes, rest = rest[: p.lanes_size], rest[p.lanes_size :]
    near, lines = rest[: p.near_size], rest[p.near_size :]
    block = VECTORS * (_VECTOR_BYTES // x.itemsize)
    none, taps = np.zeros(LANES, x.dtype), np.zeros(1, np.int64)
    total = p.batch * p.rows * p.columns
    first, last = chunk * p.blocks // p.chunks, (chunk + 1) * p.blocks // p.chunks
    for b in range(first, last):
        start, packed_group = b * p.positions, -1
        count = min(p.positions, total - start)
        for pair in range(begin // p.tiles, (end - 1) // p.tiles + 1):
            group, part = divmod(pair, p.column_blocks)
            low, high = max(0, begin - pair * p.tiles), min(p.tiles, end - pair * p.tiles)
            if group != packed_group:
                several = (end - 1) // p.tiles > pair
                for unit in range(0 if several else low, p.tiles if several else high):
                    _pack_lanes(dy, lanes, p, start, group, unit, lines)
                packed_group = group
            _pack_columns(
                x, columns, p, start, group, part * block,
                min(p.source_channels, (part + 1) * block), lines,
            )  # fmt: skip
            if p.near:
                for unit in range(low, high):
                    _multiply(
                        lanes, columns, near, 0, p, reads, writes, none, taps, unit, unit + 1,
                        count, 1,
                    )  # fmt: skip
                    _finish(
                        pair * p.tiles + unit, 0, near.reshape(1, -1), dw, plan, places, corners
                    )
            else:
                _multiply(
                    lanes, columns, partial[chunk], (pair * p.tiles + low) * p.tile_size, p, reads,
                    writes, none, taps, low, high, count, 1 if b == first else 0,
                )  # fmt: skip


@kernel
def _worker(
    worker, workers, x, dy, dw, partial, plan, reads, writes, places, corners, ends, scratch
):  # fmt: skip
    """Run the worker's tasks, those of one chunk together, in its row of `scratch`."""
    p = plan[0]
    each = p.groups * p.column_blocks * p.tiles
    task, end = share_parts(worker, workers, ends, each)
    while task < end:
        chunk, begin = divmod(task, each)
        until = min(each, begin + end - task)
        _chunk(
            chunk, begin, until, x, dy, dw, partial, plan, reads, writes, places, corners,
            scratch[worker],
        )  # fmt: skip
        task += until - begin


@linked
@kernel(_nrt=True)  # it allocates
def _finish(index, at, partial, dw, plan, places, corners):
    """Add up the chunks' sums of one unit and block of source channels, and write its taps.

    They begin at ``partial[:, at]``.
    """
    p = plan[0]
    width = _VECTOR_BYTES // dw.itemsize
    block = VECTORS * width
    add_chunks(partial, at, at + p.tile_size)
    sums = partial[0, at:]
    pair, unit = divmod(index, p.tiles)
    group, part = divmod(pair, p.column_blocks)
    lines, spill = np.empty((p.kernel + 1) * width, dw.dtype), 1 if p.kernel <= width else 0
    by_channel = evenly(width, p.kernel)
    for lane in range(min(LANES, p.result_channels - unit * LANES)):
        row = (group * p.result_channels + unit * LANES + lane) * p.source_channels
        for half in range(0, min(block, p.source_channels - part * block), width):
            first = part * block + half
            count = min(width, p.source_channels - first)
            by_channel[2::3] = count * p.kernel
            taps_from_tiles(p, lines, sums, lane * block + half, places, corners)
            for tap in range(0, p.kernel, width):
                transpose(
                    dw, (row + first) * p.kernel + tap, by_channel, 0,
                    lines, tap * width, width, min(width, p.kernel - tap), count, spill,
                )  # fmt: skip


@kernel
def _finish_all(worker, workers, partial, dw, plan, places, corners):
    """Finish the worker's units and blocks of source channels."""
    p = plan[0]
    begin, end = share(worker, workers, p.groups * p.column_blocks * p.tiles)
    for index in range(begin, end):
        _finish(index, index * p.tile_size, partial, dw, plan, places, corners)


@entry
def _launch(x, dy, dw, plan, reads, writes, places, corners, ends, partial, scratch):
    """Run all tasks; then finish all units, unless each task has done so."""
    workers = scratch.shape[0]
    launch(
        _worker, workers, x, dy, dw, partial, plan, reads, writes, places, corners, ends, scratch
    )  # fmt: skip
    if not plan[0].near:
        launch(_finish_all, workers, partial, dw, plan, places, corners)


def run_tile_grad(x: np.ndarray, dy: np.ndarray, plan: TileGradPlan) -> np.ndarray:
    """Launch a weight gradient and return its result."""
    dw, p = empty(plan.shape, x.dtype), plan.numbers[0]
    _launch(
        flat(x), flat(dy), dw.ravel(), plan.numbers, plan.reads, plan.writes,
        plan.places, plan.corners, plan.ends,
        empty((int(p["chunks"]), int(p["weight_size"])), x.dtype),
        empty((count_workers(plan.tasks), int(p["scratch_size"])), x.dtype),
    )  # fmt: skip
    return dw
