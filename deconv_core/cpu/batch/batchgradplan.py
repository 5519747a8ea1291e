"""Plans of weight gradients with images innermost (batchplan.py): whether they pay, and how.

Their vectors are channels and their sums go over pixels and images (batchgrad.py), or their vectors
are images, added up at the end (batchdot.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...geometry import ConvGeometry, ceil_div
from ...sweep import Sweep, forward_sweep
from ..config import (
    BATCH_LEAST,
    BATCH_PIXELS,
    BATCH_SHARE,
    BATCH_TERMS,
    GRAD_BATCH,
    GRAD_TASKS,
    MACHINE,
    MAX_CHUNKS,
    PARTIAL_BYTES,
    SHARED_MACS,
    SUMMED_COST,
    SUMS_COST,
)
from ..matrices.gemmplan import gemm_grad_plan, workers_for
from ..positions.blocking import line_stride
from ..positions.made import made_by_dot, unit_products
from ..positions.plan import Plan, dot_plan, record, sweep_numbers, tap_tables
from .batchplan import (
    LANES,
    NEVER,
    VECTORS,
    as_table,
    order_of,
    pixels_of,
    places_at,
    source_of,
    transposing_cost,
)


@dataclass(frozen=True)
class BatchGradPlan:
    """Everything that the kernels of a weight gradient need besides the arrays.

    Attributes
    ----------
    shape : of the result
    numbers : structured array of one `PLAN` record
    source_at, grad_at : int64, for `transpose`, where a channel's pixels go, and those of a lane
    runs : (n, 4), int64, tap, place among the lanes, place in the packed source, pixels
    workers : how many threads are worth waking for the tasks, at most
    """

    shape: tuple[int, ...]
    numbers: np.ndarray
    source_at: np.ndarray
    grad_at: np.ndarray
    runs: np.ndarray
    workers: int


@dataclass(frozen=True)
class BatchDotPlan:
    """The same of a weight gradient by `dot`.

    Attributes
    ----------
    shape : of the result
    numbers : structured array of one `PLAN` record
    source_at, grad_at : int64, for `transpose`, where a channel's pixels go, and those of lanes
    taps, tap_kernel : int64, each tap's offset into a packed channel and position in the kernel
    units : (n, 6), int64, as in another plan
    workers : how many threads are worth waking for the tasks, at most
    """

    shape: tuple[int, ...]
    numbers: np.ndarray
    source_at: np.ndarray
    grad_at: np.ndarray
    taps: np.ndarray
    tap_kernel: np.ndarray
    units: np.ndarray
    workers: int


def _inside(sweep: Sweep) -> list[tuple[int, int, int]]:
    """Return of each tap the first position inside the source, how many are, and its place."""
    order, found = order_of(sweep), []
    for _, a, offset in sweep.taps:
        at = [source_of(sweep, q, a, offset) for q in range(sweep.count)]
        inside = [q for q, s in enumerate(at) if 0 <= s < sweep.source]
        first = inside[0] if inside else 0
        found.append((first, len(inside), int(order[at[first]]) if inside else 0))
    return found


def _made_by_images(geometry: ConvGeometry, direct: Plan) -> float:
    """Return the products of a weight gradient by `dot`, its last sums counted in."""
    positions, width = (
        geometry.rows.out * geometry.cols.out,
        MACHINE.vector_bytes // direct.itemsize,
    )
    if positions > BATCH_TERMS:
        return math.inf
    each = sum(unit_products(direct.numbers, direct.units))
    return float(each * ceil_div(geometry.batch, width) * width * (positions + SUMS_COST))


def _dot_plan(geometry: ConvGeometry, direct: Plan) -> BatchDotPlan:
    """Plan a weight gradient by `dot`, in the units of `direct`: a block is a vector of images.

    The source has a halo. What no tap reads of it goes to a pixel of its own behind it.
    """
    rows, columns = forward_sweep(geometry.rows), forward_sweep(geometry.cols)
    itemsize, old = direct.itemsize, direct.numbers[0]
    images, positions = MACHINE.vector_bytes // itemsize, rows.count * columns.count
    pitch = columns.count + columns.reach
    phase_plane = (rows.count + rows.reach) * pitch
    phases = len(rows.read_phases) * len(columns.read_phases)
    offsets, kernel, _ = tap_tables(rows, columns, {"phase_plane": phase_plane, "pitch": pitch})
    places = np.full((rows.source, columns.source), phases * phase_plane)
    for i, j in np.ndindex(len(rows.read_phases), len(columns.read_phases)):
        for q, r in np.ndindex(rows.count + rows.reach, columns.count + columns.reach):
            h, w = source_of(rows, q, i, 0), source_of(columns, r, j, 0)
            if 0 <= h < rows.source and 0 <= w < columns.source:
                phase = i * len(columns.read_phases) + j
                places[h, w] = phase * phase_plane + q * pitch + r
    plane = line_stride((phases * phase_plane + 1) * images, itemsize)
    line, lanes = line_stride(positions * images, itemsize), MACHINE.dot[0][0]
    grad_at = line * np.arange(lanes)[:, None] + images * np.arange(positions)
    blocks, source = ceil_div(geometry.batch, images), int(old["source_channels"])
    most = max(1, min(MAX_CHUNKS, PARTIAL_BYTES // (direct.weight_size * itemsize)))
    kept = "groups", "source_channels", "result_channels", "kernel", "streams", "tile_size"
    numbers = {name: int(old[name]) for name in kept} | {
        "images": images, "blocks": blocks, "chunks": ceil_div(blocks, ceil_div(blocks, most)),
        "pitch": pitch * images, "positions": columns.count * images, "plane": plane,
        "panel_pitch": line, "lanes_size": lanes * line,
        "packed_size": line_stride(source * plane, itemsize), "weight_size": direct.weight_size,
    }  # fmt: skip
    numbers["scratch_size"] = numbers["packed_size"] + numbers["lanes_size"]
    return BatchDotPlan(
        geometry.weight_shape,
        record(sweep_numbers(geometry.batch, rows, columns) | numbers),
        places_at(places.ravel() * images, 0, NEVER), places_at(grad_at, 0, NEVER),
        offsets * images, kernel, direct.units,
        workers_for(geometry, numbers["chunks"] * len(direct.units)),
    )  # fmt: skip


def batch_grad_plan(geometry: ConvGeometry, itemsize: int) -> BatchGradPlan | BatchDotPlan | None:
    """Plan a weight gradient; None if another is cheaper.

    Its lanes are result channels, its vectors source channels, its sums over pixels and images. Or
    its vectors are images, added up at the end.
    """
    rows, columns = forward_sweep(geometry.rows), forward_sweep(geometry.cols)
    source, result = (
        geometry.in_channels // geometry.groups,
        geometry.out_channels // geometry.groups,
    )
    kernel, images = len(rows.taps) * len(columns.taps), GRAD_BATCH
    block = VECTORS * (MACHINE.vector_bytes // itemsize)
    pixels, positions = rows.source * columns.source, rows.count * columns.count
    if geometry.macs < SHARED_MACS or pixels > BATCH_PIXELS:
        return None
    if geometry.batch < max(1, BATCH_LEAST * images):
        return None
    high, wide = _inside(rows), _inside(columns)
    sources, lanes = ceil_div(source, block), ceil_div(result, LANES)
    units, panel = geometry.groups * sources * lanes, kernel * LANES * block
    made = units * LANES * block * geometry.batch
    made *= sum(count for _, count, _ in high) * sum(count for _, count, _ in wide)
    made = int(SUMMED_COST * made) + transposing_cost(geometry, sources)
    direct = dot_plan(geometry, itemsize)
    rival = made_by_dot(direct)
    by_dot = _made_by_images(geometry, direct) + transposing_cost(geometry)
    if gemm_grad_plan(geometry, itemsize) is not None:
        rival = min(rival, geometry.macs)
    if min(made, by_dot) > BATCH_SHARE[1] * rival:
        return None
    if by_dot < made:
        return _dot_plan(geometry, direct)

    runs = [
        (
            i * len(columns.taps) + j,
            ((top + n) * columns.count + left) * images * LANES,
            ((row + n) * columns.source + column) * images * block,
            count,
        )
        for i, (top, lines, row) in enumerate(high)
        for j, (left, count, column) in enumerate(wide)
        for n in range(lines if count else 0)
    ]
    starts = np.arange(positions) * images * LANES
    blocks = ceil_div(geometry.batch, images)
    numbers = {
        "groups": geometry.groups, "source_channels": source, "result_channels": result,
        "kernel": kernel, "images": images, "blocks": blocks,
        "chunks": ceil_div(blocks, ceil_div(blocks, min(blocks, ceil_div(GRAD_TASKS, units)))),
        "tiles": lanes, "panel_size": panel, "weight_size": units * panel,
        "packed_size": line_stride(pixels * images * block, itemsize),
        "lanes_size": line_stride(positions * images * LANES, itemsize),
    }  # fmt: skip
    numbers["scratch_size"] = numbers["packed_size"] + numbers["lanes_size"]
    return BatchGradPlan(
        geometry.weight_shape,
        record(sweep_numbers(geometry.batch, rows, columns) | numbers),
        places_at(pixels_of(rows, columns) * images * block, block, NEVER),
        places_at(starts, LANES, starts + images * LANES),
        as_table(runs).reshape(-1, 4), workers_for(geometry, units * numbers["chunks"]),
    )  # fmt: skip
