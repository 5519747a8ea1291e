"""Plans of convolutions as products of matrices: whether that pays, and how they are cut.

The column matrix, which im2col makes, has a row for each position of the result and a column for
each channel and tap of the source. Positions come in *tiles* of a register tile's lanes, result
channels in *units* of its vectors: nothing is computed in vain but in the last of them. What it
costs is the column matrix, so it is for small pictures with many channels. A *block* is a run of
tiles, wherever pictures and rows end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import config

from ..geometry import ConvGeometry, ceil_div
from ..sweep import Sweep, adjoint_sweep, forward_sweep
from .blocking import line_stride
from .config import (
    CHUNK_ROWS,
    COLUMN_BYTES,
    GEMM_SHARE,
    GEMM_TASKS,
    LEAST_TILES,
    MACHINE,
    MOVE_COST,
)
from .plan import PLAN, Plan, spread_plan

LANES, VECTORS = MACHINE.spread[0]  # of the register tile: positions, and vectors of channels


@dataclass(frozen=True)
class GemmPlan:
    """Everything that the product's kernels need besides the arrays.

    Attributes
    ----------
    numbers : structured array of one `PLAN` record
    read_h, read_w : int64, the phases of the source that are packed
    sources : (taps,), int64, offset of each tap into the packed source
    rows : (taps,), int64, offset of each tap's weights into its channel's
    parts : int64, (place in a tile, picture, place in the packed picture) of each run of positions
        that lie side by side in a tile and in the source, no longer than a vector
    part_at : int64, where each tile's parts begin
    units : (n, 3), of each unit the group, first channel and channels
    """

    numbers: np.ndarray
    read_h: np.ndarray
    read_w: np.ndarray
    sources: np.ndarray
    rows: np.ndarray
    parts: np.ndarray
    part_at: np.ndarray
    units: np.ndarray


def _parts(
    rows: Sweep, columns: Sweep, batch: int, pitch: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of all tiles, and where each tile's begin."""
    position = np.arange(batch * rows.count * columns.count)
    image, rest = np.divmod(position, rows.count * columns.count)
    row, column = np.divmod(rest, columns.count)
    place = position % LANES
    begins = np.flatnonzero((column == 0) | (place % width == 0))
    parts = np.stack([place, image, row * pitch + column], axis=1)[begins]
    return parts.ravel(), np.append(np.flatnonzero(place[begins] == 0), len(begins))


def _made(plan: Plan) -> int:
    """Return the products that the register tiles of another plan make."""
    p, width = plan.numbers[0], MACHINE.vector_bytes // plan.itemsize
    lengths = [(unit[2], unit[4] * width) for unit in plan.units]
    each = sum(lanes * ceil_div(p["positions"], step) * step for lanes, step in lengths)
    return int(p["blocks"] * each * p["source_channels"] * len(plan.taps))


def _run(count: int, units: int, size: int) -> int:
    """Return the tiles of a block, if there are `count` of `size` bytes each in all."""
    blocks = ceil_div(count, max(LEAST_TILES, COLUMN_BYTES // size))
    blocks = max(blocks, min(ceil_div(GEMM_TASKS, units), count // LEAST_TILES))
    return ceil_div(count, blocks)


@lru_cache(maxsize=512)
def gemm_plan(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> GemmPlan | None:
    """Plan a forward pass or, with `adjoint`, an input gradient; None if another plan is cheaper.

    It has a single write phase: an adjoint has no strides.
    """
    sweep = adjoint_sweep if adjoint else forward_sweep
    rows, columns = sweep(geometry.rows), sweep(geometry.cols)
    channels = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    source, result = channels[::-1] if adjoint else channels
    width, kernel = MACHINE.vector_bytes // itemsize, len(rows.taps) * len(columns.taps)
    positions, block = geometry.batch * rows.count * columns.count, VECTORS * width
    if rows.write_stride * columns.write_stride > 1 or not positions * source * result:
        return None
    pitch = columns.count + columns.reach
    strided = rows.read_stride > 1 or columns.read_stride > 1
    phase_plane = (rows.count + rows.reach) * pitch + (width if strided else 0)
    phases = len(rows.read_phases) * len(columns.read_phases)
    plane = line_stride(phases * phase_plane + columns.reach, itemsize)
    parts, part_at = _parts(rows, columns, geometry.batch, pitch, width)
    count = ceil_div(positions, LANES)
    products = count * LANES * ceil_div(result, block) * block + MOVE_COST * (len(parts) // 3)
    made = _made(spread_plan(geometry, adjoint, itemsize))
    if products * source * kernel * geometry.groups > GEMM_SHARE * made:
        return None

    units = [
        (group, first, min(block, result - first))
        for group in range(geometry.groups)
        for first in range(0, result, block)
    ]
    chunk = max(1, min(source, CHUNK_ROWS // kernel))
    chunks = ceil_div(source, chunk)
    region = chunk * kernel * LANES + width
    run = _run(count, len(units), chunks * region * itemsize)
    images = min(geometry.batch, ceil_div(run * LANES - 1, rows.count * columns.count) + 1)
    room = ceil_div(run * LANES, width) * width
    numbers = {
        "groups": geometry.groups, "source_channels": source, "result_channels": result,
        "batch": geometry.batch, "rows": rows.count, "columns": columns.count,
        "reach_h": rows.reach, "reach_w": columns.reach, "images": images,
        "pitch": pitch, "phase_plane": phase_plane, "plane": plane, "kernel": kernel,
        "w_lane": kernel if adjoint else geometry.weight_shape[1] * kernel,
        "w_channel": geometry.weight_shape[1] * kernel if adjoint else kernel,
        "chunk": chunk, "chunks": chunks, "region": region,
        "positions": positions, "tiles": count, "blocks": ceil_div(count, run), "unit_run": run,
        "packed_size": line_stride(images * plane + pitch + 2 * width, itemsize),
        "columns_size": line_stride(run * chunks * region, itemsize),
        "weight_size": line_stride(chunk * kernel * block, itemsize),
        "panel_size": run * LANES * block, "lines_size": room * block, "panel_pitch": room,
    }  # fmt: skip
    for name, axis in (("h", rows), ("w", columns)):
        for field in ("read_stride", "read_base", "write_stride", "write_base"):
            numbers[f"{field}_{name}"] = getattr(axis, field)
        numbers[f"source_{name}"], numbers[f"result_{name}"] = axis.source, axis.result
    sizes = (numbers[f"{name}_size"] for name in ("columns", "weight", "panel", "lines"))
    numbers["scratch_size"] = sum(sizes) + numbers["packed_size"]
    record: Any = np.zeros(1, PLAN)
    if config.DISABLE_JIT:  # plain Python reads fields as attributes of record arrays only
        record = record.view(np.recarray)
    for name, value in numbers.items():
        record[name] = value
    sources = [
        (read_h * len(columns.read_phases) + read_w) * phase_plane + offset_h * pitch + offset_w
        for _, read_h, offset_h in rows.taps
        for _, read_w, offset_w in columns.taps
    ]
    phases_read = (np.array(axis.read_phases, np.int64) for axis in (rows, columns))
    return GemmPlan(
        record, *phases_read, np.array(sources, np.int64), np.arange(kernel) * block,
        parts, part_at, np.array(units, np.int64),
    )  # fmt: skip
