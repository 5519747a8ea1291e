"""A pass as one over Winograd's tiles: its sweeps, its products, and what its transforms cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...geometry import ceil_div
from ...sweep import Sweep, folded, winograd_sweep
from ..config import TILED_PIXEL, TILED_RESULT, TILED_SOURCE


class Tiling(NamedTuple):
    """The sweeps over tiles of `high` x `results` results: as many along both, or a single row."""

    results: int
    high: int
    rows: Sweep
    columns: Sweep

    @property
    def products(self) -> int:
        """Products of all tiles at one place: weights of a lane and a channel."""
        return len(self.rows.taps) * len(self.columns.taps)

    @property
    def planes(self) -> int:
        """Transformed elements that a tile of the source has."""
        return len(self.rows.read_phases) * len(self.columns.read_phases)

    @property
    def points(self) -> int:
        """Rows of products of a tile."""
        return 4 if self.high > 1 else 1

    @property
    def numbers(self) -> dict[str, int]:
        """The fields of a plan that tell a tile's sizes."""
        return {"tile": self.results, "tile_h": self.high, "points_h": self.points}

    def lines(self, run: int, width: int) -> int:
        """Return the elements of the pixels of a block of `run` tiles: a vector for each.

        There is room for what `turn` may write behind the last one.
        """
        columns, turns = self.columns, run > self.columns.positions
        deep = min(self.rows.count, ceil_div(run - 1, columns.positions) + 1) if turns else 1
        wide = min(run, columns.count) * columns.folds
        source = (
            (self.high * (deep - 1) + self.points) * columns.read_stride * (wide + columns.folds)
        )
        result = self.high * deep * self.results * columns.write_stride // 4 * wide
        return (max(source, result) + width) * width

    def count(self, batch: int) -> int:
        """Return the tiles of so many images."""
        return batch * self.rows.positions * self.columns.positions

    @property
    def step(self) -> int:
        """What the tiles of blocks are multiples of: whole rows where folds are woven."""
        return 1 if self.columns.folds == 1 else self.columns.positions


def fit_tiles(rows: Sweep, columns: Sweep) -> Tiling | None:
    """Return a pass as one over tiles, or None if it has not two or three taps along both axes.

    A tile of 4x4 products stands for 3x3 results of 2x2 taps, or 2x2 results of 3x3 taps. A pass
    has at most two phases, or is a dilated one that is folded. Where it has a single tap along a
    column, a tile is a row of 4 products, for 3 or 2 results, of any phases.
    """
    rows, columns = folded(rows), folded(columns)
    if any(a.read_phases != tuple(range(len(a.read_phases))) for a in (rows, columns)):
        return None  # phases with gaps
    results, strides = 4 - columns.reach, [a.read_stride * a.write_stride for a in (rows, columns)]
    if columns.reach not in (1, 2):
        return None
    if rows.reach == 0 and len(rows.taps) == strides[0] == 1:
        return Tiling(results, 1, rows, winograd_sweep(columns, results))
    if rows.reach != columns.reach or max(strides) > 2:
        return None
    return Tiling(results, results, winograd_sweep(rows, results), winograd_sweep(columns, results))


def source_cost(tiling: Tiling, batch: int, channels: int) -> int:
    """Return the products that it is worth to transform so many channels of the source."""
    rows, columns = tiling.rows, tiling.columns
    pixels = batch * rows.source * columns.source
    return channels * (tiling.count(batch) * tiling.planes * TILED_SOURCE + pixels * TILED_PIXEL)


def result_cost(tiling: Tiling, batch: int, channels: int, each: int) -> int:
    """Return the same of the result, or of its gradient: a product of a tile takes `each`."""
    rows, columns = tiling.rows, tiling.columns
    products = len({b for b, _, _ in rows.taps}) * len({b for b, _, _ in columns.taps})
    pixels = batch * rows.result * columns.result
    return channels * (tiling.count(batch) * products * each + pixels * TILED_RESULT)


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
