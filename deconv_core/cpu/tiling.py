"""Winograd's tiles of a pass: whether they pay, how many a block has, and how they are packed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..geometry import ceil_div
from ..sweep import Sweep, winograd_sweep
from .blocking import Pass, line_stride, tiles
from .config import (
    LINE_VECTORS,
    MACHINE,
    TILED_RESULT,
    TILED_SHARE,
    TILED_SOURCE,
    TILED_WEIGHT,
    TILES_BYTES,
)


class Tiling(NamedTuple):
    """The sweeps over tiles of `results` x `results` results, and the most tiles of a block."""

    results: int
    rows: Sweep
    columns: Sweep
    most: int


def fits_tiles(rows: Sweep, columns: Sweep) -> bool:
    """Tell whether a pass has two or three taps in a phase, and at most two phases, along both."""
    return rows.reach == columns.reach in (1, 2) and all(
        axis.read_stride * axis.write_stride <= 2 and len(axis.read_phases) == axis.read_stride
        for axis in (rows, columns)
    )


def transforms_cost(
    rows: Sweep, columns: Sweep, batch: int, channels: tuple[int, int], width: int, stride: int
) -> int:
    """Return the products that it is worth to transform source and result, in whole vectors.

    The sweeps are those of the tiles, `channels` the source's and the result's.
    """
    line = batch * rows.count * ceil_div(columns.count, width) * width
    read = len(rows.read_phases) * len(columns.read_phases) * channels[0]
    written = rows.write_stride * columns.write_stride * channels[1]
    return line * (read * TILED_SOURCE * stride + written * TILED_RESULT)


def choose_tiles(work: Pass) -> Tiling | None:
    """Return the tiles of a forward pass or an input gradient, or None if it runs without them.

    A tile of 4x4 products stands for 3x3 results of 2x2 taps, or 2x2 results of 3x3 taps.
    """
    if work.dot or not fits_tiles(work.rows, work.columns):
        return None
    reach = work.rows.reach
    strides = [axis.read_stride * axis.write_stride for axis in (work.rows, work.columns)]
    rows, columns = (winograd_sweep(axis, 4 - reach) for axis in (work.rows, work.columns))
    step = MACHINE.spread[0][1] * work.width  # of a register tile
    count = ceil_div(work.batch * rows.count * columns.count, step) * step
    channels, weights = work.source * work.result, len(rows.taps) * len(columns.taps)
    cost = (count + TILED_WEIGHT) * weights * channels
    cost += transforms_cost(
        rows, columns, work.batch, (work.source, work.result), work.width, max(strides)
    )
    taps = len(work.rows.taps) * len(work.columns.taps)
    direct = taps * work.batch * work.rows.count * work.columns.count * channels
    if cost > TILED_SHARE * direct:
        return None
    most = TILES_BYTES // (16 * work.phases * work.source * work.itemsize)
    return Tiling(4 - reach, rows, columns, most)


def _run(most: int, lanes: int, width: int) -> int:
    """Return how many of Winograd's tiles a block has: at most `most`, in whole vectors of `width`.

    It is the number with which the register tiles compute the least in vain for so many `lanes`.
    """
    widths = [(count, vectors * width) for _, count, vectors in tiles(lanes, MACHINE.spread)]

    def computed(length: int) -> float:
        return sum(count * ceil_div(length, wide) * wide for count, wide in widths) / length

    step = width * MACHINE.spread[0][1]
    lengths = range(step, max(step, most) + 1, step)
    return min(lengths, key=lambda length: (computed(length), -length))


def tiled_layout(work: Pass, tiling: Tiling) -> dict[str, int]:
    """Return how a pass is cut into runs of tiles, and how one is packed: (phase, channel, tile).

    `work` has the sweeps of `tiling`. One phase, of the 16 products, is multiplied after the other.
    """
    rows, columns, width = work.rows, work.columns, work.width
    least, most = work.narrowest, work.most_positions(tiling.most, phase_rows=4)
    total = work.batch * rows.count * columns.count
    run = _run(min(most, max(least, total // work.blocks)), work.result, width)
    plane = line_stride(run + width, work.itemsize)  # whole vectors are written
    phase_plane = line_stride(work.source * plane, work.itemsize)
    deep = min(rows.count, ceil_div(run - 1, columns.count) + 1)  # rows of tiles
    line = max(LINE_VECTORS, ceil_div(columns.count + 1, width)) * width
    lines = columns.read_stride * (tiling.results * deep + 2)
    lines = max(lines, tiling.results**2 * columns.write_stride // 4)
    return {
        "tile": tiling.results,
        "positions": run,
        "blocks": ceil_div(total, run),
        "row_blocks": 1,
        "column_blocks": 1,
        "phase_rows": 4,
        "phase_plane": phase_plane,
        "plane": plane,
        "packed_size": work.packed_size(phase_plane * work.phases),
        "line_pitch": line,
        "lines_size": line * lines + 2 * width,
    }


def products(
    sweeps: tuple[Sweep, Sweep], tiles: tuple[Sweep, Sweep]
) -> tuple[np.ndarray, np.ndarray]:
    """Return which product each pair of tap of `tiles` is, and the `corners` of pairs of phases.

    `sweeps` are the passes that the tiles stand for.
    """
    across = [len(axis.read_phases) * axis.write_stride for axis in sweeps]
    found = []
    for axis, sweep in zip(tiles, sweeps, strict=True):
        reads = len(sweep.read_phases)
        found.append([(b // 4 * reads + a // 4, b % 4) for b, a, _ in axis.taps])
    kernel = [
        16 * (pair_h * across[1] + pair_w) + 4 * product_h + product_w
        for pair_h, product_h in found[0]
        for pair_w, product_w in found[1]
    ]
    corners = np.full((across[0], across[1], 3, 3), -1)
    rows, columns = sweeps
    for i, (write_h, read_h, r) in enumerate(rows.taps):
        for j, (write_w, read_w, c) in enumerate(columns.taps):
            pair_h = write_h * len(rows.read_phases) + read_h
            pair_w = write_w * len(columns.read_phases) + read_w
            corners[pair_h, pair_w, r, c] = i * len(columns.taps) + j
    return np.array(kernel), corners.ravel()
