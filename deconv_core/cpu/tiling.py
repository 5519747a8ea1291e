"""Winograd's tiles of a pass: whether they pay, how many a block has, and how they are packed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..geometry import ceil_div
from ..sweep import Sweep, folded, winograd_sweep
from .blocking import Pass, covered, line_stride, tiles
from .config import (
    LINE,
    LINE_VECTORS,
    MACHINE,
    NEAR_CHANNELS,
    NEAR_TASKS,
    NEAR_TILES,
    NEAR_TILES_BYTES,
    NEAR_WEIGHT,
    NEAR_WEIGHTS_BYTES,
    TILED_RESULT,
    TILED_SHARE,
    TILED_SOURCE,
    TILED_SUM,
    TILED_WEIGHT,
    TILES_BYTES,
)
from .phases import WAYS


class Tiling(NamedTuple):
    """The sweeps over tiles of `high` x `results` results: as many along both, or a single row.

    With `near`, weights are transformed by the thread that uses them, for each block.
    """

    results: int
    high: int
    rows: Sweep
    columns: Sweep
    near: bool = False

    @property
    def products(self) -> int:
        """Products of all tiles at one place: weights of a lane and a channel."""
        return len(self.rows.taps) * len(self.columns.taps)

    @property
    def phase_rows(self) -> int:
        """Rows of write phases whose sums are kept: all, if channels come in chunks."""
        return self.rows.write_stride if self.near else self.points

    @property
    def points(self) -> int:
        """Rows of products of a tile."""
        return 4 if self.high > 1 else 1

    @property
    def numbers(self) -> dict[str, int]:
        """The fields of a plan that tell a tile's sizes."""
        return {"tile": self.results, "tile_h": self.high, "points_h": self.points}

    def lines(self, run: int, width: int) -> tuple[int, int]:
        """Return the elements of a part of a row, and the most of source or gradient, for a run."""
        columns, turns = self.columns, run > self.columns.positions
        deep = min(self.rows.count, ceil_div(run - 1, columns.positions) + 1) if turns else 1
        pitch = ceil_div(min(run, columns.count) + 1, width) * width
        source = columns.read_stride * (self.high * (deep - 1) + self.points)
        return pitch, max(source, self.results * self.high * deep) * columns.folds

    def count(self, batch: int) -> int:
        """Return the tiles of so many images."""
        return batch * self.rows.positions * self.columns.positions

    def step(self, tiles: int) -> int:
        """Return what blocks are multiples of: `tiles`, or whole rows where folds are woven."""
        return tiles if self.columns.folds == 1 else self.columns.positions


def fit_tiles(rows: Sweep, columns: Sweep) -> Tiling | None:
    """Return a pass as one over tiles, or None if it has not two or three taps along both axes.

    A tile of 4x4 products stands for 3x3 results of 2x2 taps, or 2x2 results of 3x3 taps. A pass
    has at most two phases, or is a dilated one that is folded. Where it has a single tap along a
    column, a tile is a row of 4 products, for 3 or 2 results, of any phases that rows are dealt to.
    """
    rows, columns = folded(rows), folded(columns)
    if any(a.read_phases != tuple(range(len(a.read_phases))) for a in (rows, columns)):
        return None  # phases with gaps
    results, strides = 4 - columns.reach, [a.read_stride * a.write_stride for a in (rows, columns)]
    if columns.reach not in (1, 2) or results * strides[1] * columns.folds not in WAYS:
        return None
    if rows.reach == 0 and len(rows.taps) == strides[0] == 1:
        return Tiling(results, 1, rows, winograd_sweep(columns, results))
    if rows.reach != columns.reach or max(strides) > 2:
        return None
    return Tiling(results, results, winograd_sweep(rows, results), winograd_sweep(columns, results))


def transforms_cost(
    tiling: Tiling, batch: int, channels: tuple[int, int], width: int, result: int
) -> int:
    """Return the products that it is worth to transform source and result, in whole vectors.

    `channels` are the source's and the result's, `result` is the cost of an element of the latter.
    Of tiles along both axes, strides cost more.
    """
    rows, columns, stride = tiling.rows, tiling.columns, 1
    if tiling.high > 1:
        stride = max(a.read_stride * a.write_stride // (4 * tiling.high) for a in (rows, columns))
    line = batch * rows.positions * columns.folds * ceil_div(columns.count, width) * width
    read = len(rows.read_phases) * len(columns.read_phases) * channels[0]
    written = len({b for b, _, _ in rows.taps}) * len({b for b, _, _ in columns.taps}) * channels[1]
    return line * (read * TILED_SOURCE * stride + written * result)


def choose_tiles(work: Pass) -> Tiling | None:
    """Return the tiles of a forward pass or an input gradient, or None if it runs without them."""
    tiling = None if work.dot else fit_tiles(work.rows, work.columns)
    if tiling is None:
        return None
    ways = [way for way in (tiling, tiling._replace(near=True)) if way.step(1) <= _most(work, way)]
    costs = [_cost(work, way) for way in ways]
    taps = len(work.rows.taps) * len(work.columns.taps)
    direct = taps * work.batch * work.rows.count * work.columns.count * work.source * work.result
    if not costs or min(costs) > TILED_SHARE * direct:
        return None
    return ways[costs.index(min(costs))]


def _cost(work: Pass, tiling: Tiling) -> int:
    """Return the products that a pass makes by tiles, and those that all the rest is worth."""
    run, step = _run(work, tiling), _step(work, tiling)
    blocks = ceil_div(tiling.count(work.batch), run)
    count, each = blocks * ceil_div(run, step) * step, tiling.products * work.result
    weight = NEAR_WEIGHT * blocks if tiling.near else TILED_WEIGHT
    both = work.source, work.result
    cost = transforms_cost(tiling, work.batch, both, work.width, TILED_RESULT)
    return cost + each * ((count + weight) * work.source + TILED_SUM * count)


def _step(work: Pass, tiling: Tiling) -> int:
    """Return what blocks are a multiple of, as register tiles compute whole vectors or tiles."""
    return work.width if tiling.near else work.narrowest


def _most(work: Pass, tiling: Tiling) -> int:
    """Return the most tiles of a block."""
    tiled = work._replace(rows=tiling.rows, columns=tiling.columns)
    each = tiled.phases * tiled.source * tiled.itemsize
    room = min(NEAR_TILES, NEAR_TILES_BYTES // each) if tiling.near else TILES_BYTES // each
    return tiled.most_positions(room, phase_rows=tiling.phase_rows)


def _run(work: Pass, tiling: Tiling) -> int:
    """Return how many of Winograd's tiles a block has.

    It is the number with which the register tiles compute the least, in all blocks.
    """
    step = tiling.step(_step(work, tiling))
    total = tiling.count(work.batch)
    lanes = tiles(work.result, MACHINE.spread)
    each = total // work.blocks
    if tiling.near:  # whole blocks rather than many: units are tasks
        each = ceil_div(total, ceil_div(NEAR_TASKS, len(lanes))) + step - 1
    most = min(_most(work, tiling), max(work.narrowest, each))

    def computed(length: int) -> int:
        each = sum(
            count * covered(length, count, vectors, work.width) for _, count, vectors in lanes
        )
        weight = NEAR_WEIGHT * work.result if tiling.near else 0
        return ceil_div(total, length) * (each + weight)

    lengths = range(step, max(step, most) + 1, step)
    return min(lengths, key=lambda length: (computed(length), -length))


def tiled_layout(work: Pass, tiling: Tiling) -> dict[str, int]:
    """Return how a pass is cut into runs of tiles, and how one is packed: (phase, channel, tile).

    One phase, of the 16 products, is multiplied after the other.
    """
    columns, width = work.columns, work.width
    run = _run(work, tiling)
    plane = line_stride(run + width, work.itemsize)  # whole vectors are written
    phase_plane = line_stride(work.source * plane, work.itemsize)
    line, lines = tiling.lines(run, width)
    line = max(LINE_VECTORS * width, line)
    woven = tiling.results * tiling.high * columns.write_stride // 4 * columns.folds
    numbers = tiling.numbers
    if tiling.near:
        each = MACHINE.spread[0][0] * tiling.products * work.itemsize
        chunk = min(NEAR_CHANNELS, max(1, NEAR_WEIGHTS_BYTES // each))
        numbers |= {"near": 1, "chunk": min(work.source, chunk)}
    return numbers | {
        "positions": run,
        "run": run,
        "run_pitch": run,
        "blocks": ceil_div(tiling.count(work.batch), run),
        "row_blocks": 1,
        "column_blocks": 1,
        "phase_rows": tiling.points,
        "phase_plane": phase_plane,
        "plane": plane,
        "packed_size": work.packed_size(phase_plane * work.phases),
        "line_pitch": line,
        "lines_size": line * max(lines, 2 * woven) + 2 * width,
        "weight_gap": LINE // work.itemsize,
    }


def products(
    sweeps: tuple[Sweep, Sweep], tiles: tuple[Sweep, Sweep]
) -> tuple[np.ndarray, np.ndarray]:
    """Return which product each pair of tap of `tiles` is, and the `corners` of pairs of phases.

    `sweeps` are the passes that the tiles stand for.
    """
    rows, columns = sweeps = folded(sweeps[0]), folded(sweeps[1])
    across = [len(axis.read_phases) * axis.write_stride for axis in sweeps]
    found = []
    for axis, sweep in zip(tiles, sweeps, strict=True):
        reads, points = len(sweep.read_phases), len(axis.read_phases) // len(sweep.read_phases)
        found.append([(b // points * reads + a // points, b % points) for b, a, _ in axis.taps])
    kernel = [
        16 * (pair_h * across[1] + pair_w) + 4 * product_h + product_w
        for pair_h, product_h in found[0]
        for pair_w, product_w in found[1]
    ]
    corners = np.full((across[0], across[1], 3, 3), -1)
    for i, (write_h, read_h, r) in enumerate(rows.taps):
        for j, (write_w, read_w, c) in enumerate(columns.taps):
            pair_h = write_h * len(rows.read_phases) + read_h
            pair_w = write_w * len(columns.read_phases) + read_w
            corners[pair_h, pair_w, r, c] = i * len(columns.taps) + j
    return np.array(kernel), corners.ravel()
