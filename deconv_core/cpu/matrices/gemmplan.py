"""Plans of convolutions as products of matrices: whether that pays, and how they are cut.

The column matrix, which im2col makes, has a row for each position of the result and a column for
each channel and tap of the source. Positions come in *tiles* of a register tile's lanes, result
channels in *units* of its vectors: nothing is computed in vain but in the last of them. What it
costs is the column matrix, so it is for small pictures with many channels. A *block* is a run of
tiles, wherever pictures and rows end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...geometry import ConvGeometry, ceil_div
from ...sweep import Sweep, adjoint_sweep, forward_sweep, trimmed
from ..config import (
    CHUNK_ROWS,
    COLUMN_BYTES,
    GEMM_POSITIONS,
    GEMM_SHARE,
    GEMM_TASKS,
    GRAD_POSITIONS,
    LEAST_TILES,
    MACHINE,
    MIN_BLOCKS,
    MOST_SUMS,
    MOVE_COST,
    SHARED_MACS,
    SOURCE_COST,
    STREAM_COST,
    WEIGHT_COST,
    WORKER_MACS,
)
from ..positions.blocking import cut_units, line_stride
from ..positions.made import made_by_dot, made_by_spread
from ..positions.plan import (
    dot_plan,
    pass_terms,
    record,
    spread_plan,
    sum_terms,
    sweep_numbers,
    tap_tables,
)

LANES, VECTORS = MACHINE.spread[0]  # of the register tile: positions, and vectors of channels


@dataclass(frozen=True)
class GemmPlan:
    """Everything that the product's kernels need besides the arrays.

    Attributes
    ----------
    shape : of the result
    numbers : structured array of one `PLAN` record
    read_h, read_w : int64, the phases of the source that are packed
    sources : (taps,), int64, offset of each tap into the packed source, write phase by write phase
    tap_kernel : (taps,), int64, position of each tap in the kernel
    phase_at : (phases + 1,), int64, where each write phase's taps begin
    weight_at : int64, offset of each tap's weights into those of its channel in its phase
    parts : int64, (place in a tile, picture, place in the packed picture) of each run of positions
        that lie side by side in a tile and in the source, no longer than a vector
    part_at : int64, where each tile's parts begin
    units : (n, 3), of each unit the group, first channel (or column) and how many it has
    workers : how many threads are worth waking for the tasks, at most
    """

    shape: tuple[int, ...]
    numbers: np.ndarray
    read_h: np.ndarray
    read_w: np.ndarray
    sources: np.ndarray
    tap_kernel: np.ndarray
    phase_at: np.ndarray
    weight_at: np.ndarray
    parts: np.ndarray
    part_at: np.ndarray
    units: np.ndarray
    workers: int


def _parts(
    rows: Sweep, columns: Sweep, batch: int, pitch: int, width: int, lanes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of all tiles of `lanes` positions, and where each tile's begin."""
    position = np.arange(batch * rows.count * columns.count)
    image, rest = np.divmod(position, rows.count * columns.count)
    row, column = np.divmod(rest, columns.count)
    place = position % lanes
    begins = np.flatnonzero((column == 0) | (place % width == 0))
    parts = np.stack([place, image, row * pitch + column], axis=1)[begins]
    return parts.ravel(), np.append(np.flatnonzero(place[begins] == 0), len(begins))


def _layout(rows: Sweep, columns: Sweep, itemsize: int) -> dict[str, int]:
    """Return how one channel of a picture is packed: as phase planes with a zero halo."""
    pitch, width = columns.count + columns.reach, MACHINE.vector_bytes // itemsize
    strided = rows.read_stride > 1 or columns.read_stride > 1
    phase_plane = (rows.count + rows.reach) * pitch + (width if strided else 0)
    phases = len(rows.read_phases) * len(columns.read_phases)
    plane = line_stride(phases * phase_plane + columns.reach, itemsize)
    return {"pitch": pitch, "phase_plane": phase_plane, "plane": plane}


def _packed_size(images: int, layout: dict[str, int], itemsize: int) -> int:
    """Return the elements of one channel of some pictures, and what whole vectors reach beyond."""
    width = MACHINE.vector_bytes // itemsize
    return line_stride(images * layout["plane"] + layout["pitch"] + 2 * width, itemsize)


def _phases(rows: Sweep, columns: Sweep) -> tuple[np.ndarray, np.ndarray]:
    """Return a plan's read_h and read_w."""
    return np.array(rows.read_phases, np.int64), np.array(columns.read_phases, np.int64)


def workers_for(geometry: ConvGeometry, tasks: int) -> int:
    """Return how many threads are worth waking for so many tasks."""
    return min(tasks, max(MIN_BLOCKS, geometry.macs // WORKER_MACS))


def _run(count: int, units: int, size: int, phases: int) -> int:
    """Return the tiles of a block, if there are `count` of `size` bytes each in all.

    Each block is multiplied by all `units`, and has sums for all write `phases` of one of them.
    """
    most = min(COLUMN_BYTES // size, MOST_SUMS // phases)
    blocks = ceil_div(count, max(LEAST_TILES, most))
    blocks = max(blocks, min(ceil_div(GEMM_TASKS, units), count // LEAST_TILES))
    return ceil_div(count, blocks)


def gemm_plan(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> GemmPlan | None:
    """Plan a forward pass or, with `adjoint`, an input gradient; None if another is cheaper."""
    sweep = adjoint_sweep if adjoint else forward_sweep
    rows, columns = trimmed(sweep(geometry.rows)), trimmed(sweep(geometry.cols))
    channels = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    source, result = channels[::-1] if adjoint else channels
    width, kernel = MACHINE.vector_bytes // itemsize, len(rows.taps) * len(columns.taps)
    positions, block = geometry.batch * rows.count * columns.count, VECTORS * width
    phases_written, count = rows.write_stride * columns.write_stride, ceil_div(positions, LANES)
    if geometry.macs < SHARED_MACS or not 0 < positions <= GEMM_POSITIONS:
        return None
    most = GEMM_SHARE[phases_written > 1] * made_by_spread(spread_plan(geometry, adjoint, itemsize))
    most = most / (source * kernel * geometry.groups)
    most += WEIGHT_COST * result * (phases_written > 1)
    products = count * LANES * ceil_div(result, block) * block
    if products > most:
        return None
    layout = _layout(rows, columns, itemsize)
    parts, part_at = _parts(rows, columns, geometry.batch, layout["pitch"], width, LANES)
    pixels = geometry.batch * rows.source * columns.source
    if products + MOVE_COST * (len(parts) // 3) + SOURCE_COST * pixels // kernel > most:
        return None
    taps = tap_tables(rows, columns, layout)

    units = cut_units(geometry.groups, result, block)
    together = int(np.diff(taps[2]).max())  # of a phase
    chunk = max(1, min(source, CHUNK_ROWS // together))
    chunks = ceil_div(source, chunk)
    region = chunk * kernel * LANES + phases_written * width
    run = _run(count, len(units), chunks * region * itemsize, phases_written)
    images = min(geometry.batch, ceil_div(run * LANES - 1, rows.count * columns.count) + 1)
    room = ceil_div(run * LANES, width) * width
    numbers = {
        "groups": geometry.groups, "source_channels": source, "result_channels": result,
        "kernel": kernel,
        "w_lane": kernel if adjoint else geometry.weight_shape[1] * kernel,
        "w_channel": geometry.weight_shape[1] * kernel if adjoint else kernel,
        "chunk": chunk, "chunks": chunks, "region": region,
        "terms": pass_terms(geometry, rows, columns, source, together),
        "positions": positions, "tiles": count, "blocks": ceil_div(count, run), "unit_run": run,
        "packed_size": _packed_size(images, layout, itemsize),
        "columns_size": line_stride(run * chunks * region, itemsize),
        "weight_size": line_stride(chunk * kernel * block, itemsize),
        "panel_size": run * LANES * block * phases_written,
        "panel_pitch": room, "panel_plane": room * block,
        "lines_size": room * block * columns.write_stride + width,
    }  # fmt: skip
    sizes = (numbers[f"{name}_size"] for name in ("columns", "weight", "panel", "lines"))
    numbers["scratch_size"] = sum(sizes) + numbers["packed_size"]
    return GemmPlan(
        geometry.input_shape if adjoint else geometry.output_shape,
        record(numbers | layout | sweep_numbers(geometry.batch, rows, columns)),
        *_phases(rows, columns), *taps,
        np.arange(kernel) * block, parts, part_at, units,
        workers_for(geometry, numbers["blocks"] * len(units)),
    )  # fmt: skip


def gemm_grad_plan(geometry: ConvGeometry, itemsize: int) -> GemmPlan | None:
    """Plan a weight gradient; None if another plan is cheaper.

    Its tiles are of the gradient's channels by columns: a unit is one vector block of columns.
    """
    rows, columns = forward_sweep(geometry.rows), forward_sweep(geometry.cols)
    source, result = (
        geometry.in_channels // geometry.groups,
        geometry.out_channels // geometry.groups,
    )
    width, kernel = MACHINE.vector_bytes // itemsize, len(rows.taps) * len(columns.taps)
    positions, block = geometry.batch * rows.count * columns.count, VECTORS * width
    if geometry.macs < SHARED_MACS or not 0 < positions <= GRAD_POSITIONS:
        return None
    tiles, streams = ceil_div(result, LANES), source * kernel
    packed = min(source, ceil_div(block - 1, kernel) + 1) * rows.source * columns.source
    products = positions * block * (tiles * LANES + STREAM_COST)
    products += geometry.batch * packed * SOURCE_COST
    products *= ceil_div(streams, block)
    if products * geometry.groups > GEMM_SHARE[0] * made_by_dot(dot_plan(geometry, itemsize)):
        return None
    layout = _layout(rows, columns, itemsize)
    parts, part_at = _parts(rows, columns, geometry.batch, layout["pitch"], width, positions)
    line = line_stride(positions + width, itemsize)
    units = cut_units(geometry.groups, streams, block)
    numbers = {
        "groups": geometry.groups, "source_channels": source, "result_channels": result,
        "kernel": kernel,
        "positions": positions, "tiles": tiles, "chunk": CHUNK_ROWS,
        "terms": sum_terms(geometry.macs, positions),
        "line_pitch": line, "lines_size": line * block,
        "packed_size": _packed_size(geometry.batch, layout, itemsize),
        "columns_size": line_stride(positions * block, itemsize),
        "panel_size": tiles * LANES * block,
        "lanes_size": tiles * positions * LANES,
    }  # fmt: skip
    sizes = (numbers[f"{name}_size"] for name in ("columns", "panel", "lines", "packed"))
    numbers["scratch_size"] = sum(sizes)
    return GemmPlan(
        geometry.weight_shape,
        record(numbers | layout | sweep_numbers(geometry.batch, rows, columns)),
        *_phases(rows, columns),
        *tap_tables(rows, columns, layout), np.zeros(1, np.int64), parts, part_at,
        units, workers_for(geometry, len(units)),
    )  # fmt: skip
