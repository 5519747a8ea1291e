"""Plans of forward passes and input gradients by Winograd's tiles: do they pay, how are they cut.

Tiles of all pictures follow one another; a *block* is a run of them, a *unit* the result channels
of one register tile. A block is transformed once for all of its units that a thread has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...geometry import ConvGeometry, ceil_div
from ...sweep import Sweep, adjoint_sweep, forward_sweep
from ..config import (
    BLOCK_TILES,
    LINE,
    MACHINE,
    MOST_STEP,
    NEAR_BLOCKS,
    NEAR_CHANNELS,
    NEAR_WEIGHT,
    NEAR_WEIGHTS_BYTES,
    ROW,
    TILE_BLOCKS,
    TILED_SHARE,
    TILED_SUM,
    TILED_WEIGHT,
)
from ..positions.blocking import cut_units, line_stride
from ..positions.plan import most_workers, record, sweep_numbers, tap_tables
from .tiling import Tiling, fit_tiles, products, result_cost, source_cost

LANES, VECTORS = MACHINE.spread[0]  # of the register tile: positions, vectors of result channels


@dataclass(frozen=True)
class TilePlan:
    """Everything that the kernels need besides the arrays.

    Attributes
    ----------
    shape : of the result
    numbers : structured array of one `PLAN` record
    runs : (taps,), int64, where in the transformed source each tap of a product reads, product by
        product of all write phases
    starts : (products + 1,), int64, where each product's taps begin
    codes : (taps,), int64, which product of which pair of phases a tap is: 16 * pair + product
    corners : (9 * pairs,), int64, the positions of each pair's 3x3 taps in the kernel, or -1
    units : (n, 3), int64, of each unit the group, first channel and how many it has
    ends : (blocks + 1,), int64, how many tiles the blocks before each compute
    weight_size, scratch_size : elements of all units' weights, and of one worker's workspace
    workers : how many threads are worth waking for the tasks, at most
    """

    shape: tuple[int, ...]
    numbers: np.ndarray
    runs: np.ndarray
    starts: np.ndarray
    codes: np.ndarray
    corners: np.ndarray
    units: np.ndarray
    ends: np.ndarray
    weight_size: int
    scratch_size: int
    workers: int


@dataclass(frozen=True)
class _Work:
    """A pass by tiles, and the sweeps that these stand for, before it is cut.

    It is of `batch` pictures, of one group's channels.
    """

    sweeps: tuple[Sweep, Sweep]
    tiling: Tiling
    batch: int
    groups: int
    source: int
    result: int
    itemsize: int
    near: bool = False

    @property
    def width(self) -> int:
        """Elements of a vector."""
        return MACHINE.vector_bytes // self.itemsize

    @property
    def count(self) -> int:
        """Tiles of all pictures."""
        return self.tiling.count(self.batch)

    @property
    def units(self) -> int:
        """Units of a group."""
        return ceil_div(self.result, VECTORS * self.width)

    @property
    def sums(self) -> int:
        """Products that a tile of the result is made of, for as many write phases as are kept."""
        rows = self.tiling.rows.write_stride if self.near else self.tiling.points
        return rows * self.tiling.columns.write_stride

    @cached_property
    def run(self) -> int:
        """Tiles of a block: as many as make the register tiles compute the least."""
        step = self.tiling.step
        least, most, tasks = NEAR_BLOCKS if self.near else TILE_BLOCKS
        each = ceil_div(self.count, ceil_div(tasks, self.units * self.groups))
        most = min(most, max(least, each) + step - 1)

        def made(length: int) -> int:
            lanes = ceil_div(length, LANES) * LANES
            return ceil_div(self.count, length) * (
                lanes + (NEAR_WEIGHT if self.near else BLOCK_TILES)
            )

        return min(
            range(step, max(step, most) + 1, step), key=lambda length: (made(length), -length)
        )

    def cost(self) -> int:
        """Return the products that it makes, and those that all the rest is worth."""
        run = self.run
        source, result = (
            ceil_div(channels, self.width) * self.width for channels in (self.source, self.result)
        )
        blocks = ceil_div(self.count, run)
        count = blocks * ceil_div(run, LANES) * LANES
        weight = NEAR_WEIGHT * blocks if self.near else TILED_WEIGHT
        made = self.tiling.products * result * self.source * (count + weight)
        made += source_cost(self.tiling, self.batch, source)
        return made + result_cost(self.tiling, self.batch, result, TILED_SUM)


def _chunk(work: _Work) -> int:
    """Return how many channels' weights are transformed together."""
    if not work.near:
        return work.source
    each = work.tiling.products * VECTORS * work.width * work.itemsize
    chunk = max(1, min(NEAR_CHANNELS, NEAR_WEIGHTS_BYTES // each))
    chunk = chunk // ROW * ROW or 1 << chunk.bit_length() - 1  # whole rows, or a part of one
    return min(work.source, chunk)


def _choose(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> _Work | None:
    """Return the cheaper way by tiles, or None where it cannot be done or does not pay."""
    sweep = adjoint_sweep if adjoint else forward_sweep
    sweeps = sweep(geometry.rows), sweep(geometry.cols)
    tiling = fit_tiles(*sweeps)
    if tiling is None:
        return None
    channels = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    source, result = channels[::-1] if adjoint else channels
    ways = [
        _Work(sweeps, tiling, geometry.batch, geometry.groups, source, result, itemsize, near)
        for near in (False, True)
    ]
    if not ways[0].count or tiling.step > MOST_STEP:
        return None
    way = min(ways, key=_Work.cost)
    return way if way.cost() * geometry.groups <= TILED_SHARE * geometry.macs else None


def tile_plan(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> TilePlan | None:
    """Plan a forward pass or, with `adjoint`, an input gradient by tiles; None if it is dearer."""
    work = _choose(geometry, adjoint, itemsize)
    if work is None:
        return None
    tiling, width, run = work.tiling, work.width, work.run
    rows, columns, block = tiling.rows, tiling.columns, VECTORS * width
    padded = ceil_div(run, LANES) * LANES
    plane = line_stride(padded * ROW, itemsize)  # of `ROW` channels of one product
    phase_plane = line_stride(ceil_div(work.source, ROW) * plane, itemsize)
    panel = line_stride(padded * block, itemsize)
    layout = {"phase_plane": phase_plane, "pitch": 0}
    runs, taps, starts = tap_tables(rows, columns, layout)
    codes, corners = products(work.sweeps, (rows, columns))
    chunk, blocks = _chunk(work), ceil_div(work.count, run)
    units = cut_units(work.groups, work.result, block)
    unit_size = tiling.products * (chunk * block + LINE // itemsize)
    inner = geometry.weight_shape[1] * geometry.rows.kernel * geometry.cols.kernel
    kernel = geometry.rows.kernel * geometry.cols.kernel
    numbers = tiling.numbers | {
        "groups": work.groups, "source_channels": work.source, "result_channels": work.result,
        "kernel": kernel,
        "w_lane": kernel if adjoint else inner, "w_channel": inner if adjoint else kernel,
        "positions": run, "blocks": blocks, "chunk": chunk, "near": int(work.near),
        "plane": plane, "phase_plane": phase_plane, "panel_plane": panel,
        "phase_rows": rows.write_stride if work.near else tiling.points,
        "packed_size": tiling.planes * phase_plane, "panel_size": work.sums * panel,
        "near_size": unit_size if work.near else 0, "tile_size": unit_size,
        "lines_size": tiling.lines(run, width) + width,
    }  # fmt: skip
    names = ("packed", "panel", "near", "lines")
    return TilePlan(
        geometry.input_shape if adjoint else geometry.output_shape,
        record(numbers | sweep_numbers(geometry.batch, rows, columns)),
        runs, starts, codes[taps], corners, units,
        np.minimum(np.arange(blocks + 1) * run, work.count).astype(np.int64),
        0 if work.near else unit_size * len(units),
        sum(numbers[f"{name}_size"] for name in names),
        most_workers(geometry, blocks * len(units)),
    )  # fmt: skip
