"""Plans of weight gradients by Winograd's tiles: whether they pay, and how they are cut."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...geometry import ConvGeometry, ceil_div
from ...sweep import forward_sweep
from ..config import (
    GRAD_BLOCK,
    GRAD_MOVES,
    GRAD_NEAR_BYTES,
    GRAD_NEAR_TAPS,
    GRAD_NEAR_TASKS,
    GRAD_NEAR_TERMS,
    GRAD_NEAR_WEIGHT,
    GRAD_SHARE,
    GRAD_SUMS_BYTES,
    GRAD_TASKS,
    GRAD_TILES_BYTES,
    GRAD_WEIGHT,
    MACHINE,
    MAX_CHUNKS,
    PARTIAL_BYTES,
    SUM_TERMS,
    TILE_LANES_BYTES,
    TILED_SOURCE,
)
from ..positions.blocking import line_stride
from ..positions.plan import chunk_ends, record, sweep_numbers
from .tiling import fit_tiles, products, result_cost, source_cost

LANES, VECTORS = MACHINE.spread[0]  # of the register tile: result channels, vectors of source ones


@dataclass(frozen=True)
class TileGradPlan:
    """Everything that the kernels need besides the arrays.

    Attributes
    ----------
    shape : of the result
    numbers : structured array of one `PLAN` record
    reads, writes : (products,), int64, the planes of the source and of the gradient of each
    places : (16 * pairs,), int64, where the sums of each pair's products are in a unit, or -1
    corners : (9 * pairs,), int64, the positions of each pair's 3x3 taps in the kernel, or -1
    ends : (chunks + 1,), int64, how many tiles of pictures the chunks before each have
    tasks : how many there are to share among threads
    """

    shape: tuple[int, ...]
    numbers: np.ndarray
    reads: np.ndarray
    writes: np.ndarray
    places: np.ndarray
    corners: np.ndarray
    ends: np.ndarray
    tasks: int


def _run(total: int, chunks: int, runs: range) -> int:
    """Return how many tiles a block has: the number that makes the longest chunk the shortest.

    What it costs to add a block's products to the sums is counted in tiles.
    """

    def longest(run: int) -> int:
        blocks, each = ceil_div(total, run), GRAD_BLOCK * (1 + ceil_div(run, SUM_TERMS))
        ends = [chunk * blocks // chunks for chunk in range(chunks + 1)]
        return max(min(total, b * run) - a * run + (b - a) * each for a, b in pairwise(ends))

    return min(runs, key=lambda run: (longest(run), -run))


def tile_grad_plan(geometry: ConvGeometry, itemsize: int) -> TileGradPlan | None:
    """Plan a weight gradient by tiles; None if it cannot be, or another way is cheaper."""
    sweeps = forward_sweep(geometry.rows), forward_sweep(geometry.cols)
    tiling = fit_tiles(*sweeps)
    if tiling is None:
        return None
    rows, columns, planes = tiling.rows, tiling.columns, 4 * tiling.points
    width = MACHINE.vector_bytes // itemsize
    source = geometry.in_channels // geometry.groups
    result = geometry.out_channels // geometry.groups
    block, units = VECTORS * width, ceil_div(result, LANES)
    parts, total = ceil_div(source, block), tiling.count(geometry.batch)
    read, count = tiling.planes, tiling.products

    step, each = tiling.step, geometry.groups * parts * units
    most = max(width, TILE_LANES_BYTES // (planes * units * LANES * itemsize))
    few, many = (min(most, room // (read * block * itemsize)) for room in GRAD_TILES_BYTES)
    near = total <= min(most, GRAD_NEAR_BYTES // (read * block * itemsize))
    near = near and (total <= few or each >= GRAD_NEAR_TASKS)
    sums = count * LANES * block  # of a unit and a block of source channels
    size = each * sums
    weight = GRAD_NEAR_WEIGHT + GRAD_NEAR_TAPS / count if near else GRAD_WEIGHT
    cost = size * (total + weight)
    both = geometry.groups * parts * block, geometry.groups * units * LANES
    moved = source_cost(tiling, geometry.batch, both[0])
    moved += result_cost(tiling, geometry.batch, both[1], TILED_SOURCE)
    if cost + GRAD_MOVES * moved > GRAD_SHARE * geometry.macs:
        return None
    if not near and (size * itemsize > PARTIAL_BYTES or step > max(width, few)):
        return None

    few, many = (min(tiles, total + step - 1) for tiles in (few, many))
    blocks = ceil_div(total, max(1, few // step) * step)
    chunks = min(blocks, MAX_CHUNKS, ceil_div(GRAD_TASKS, each))
    several = max(2, GRAD_SUMS_BYTES // (size * itemsize))
    chunks = max(1, min(chunks, several, PARTIAL_BYTES // (size * itemsize)))
    run = total if near else _run(total, chunks, range(step, max(step, many) + 1, step))
    blocks = ceil_div(total, run)
    chunks = min(chunks, blocks)
    plane, pitch = line_stride(run * block, itemsize), line_stride(run * LANES + width, itemsize)
    panel = line_stride(units * pitch, itemsize)
    numbers = tiling.numbers | {
        "groups": geometry.groups, "source_channels": source, "result_channels": result,
        "kernel": geometry.rows.kernel * geometry.cols.kernel,
        "positions": run, "blocks": blocks, "chunks": chunks,
        "tiles": units, "column_blocks": parts, "tile_size": sums,
        "chunk": GRAD_NEAR_TERMS[tiling.results] if near else run,
        "near": int(near), "near_size": sums if near else 0,
        "weight_size": 0 if near else size,
        "phase_plane": plane, "columns_size": read * plane,
        "panel_pitch": pitch, "panel_plane": panel, "lanes_size": planes * panel,
        "lines_size": tiling.lines(run, width),
    }  # fmt: skip
    names = ("columns", "lanes", "near", "lines")
    numbers["scratch_size"] = sum(numbers[f"{name}_size"] for name in names)
    codes, corners = products(sweeps, (rows, columns))
    places = np.full(16 * len(corners) // 9, -1, np.int64)
    places[codes] = np.arange(count) * LANES * block
    taps = [(a, b) for a in rows.taps for b in columns.taps]
    return TileGradPlan(
        geometry.weight_shape,
        record(numbers | sweep_numbers(geometry.batch, rows, columns)),
        np.array([a[1] * len(columns.read_phases) + b[1] for a, b in taps], np.int64),
        np.array([4 * a[0] + b[0] for a, b in taps], np.int64),
        places, corners, np.minimum(chunk_ends(chunks, [run] * blocks), total), chunks * each,
    )  # fmt: skip
