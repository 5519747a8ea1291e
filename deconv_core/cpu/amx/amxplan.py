"""How a pass by matrix registers (blend.py) is cut into blocks and units."""

from __future__ import annotations

from itertools import chain

from ...geometry import ConvGeometry, ceil_div
from ...sweep import adjoint_sweep, forward_sweep, plain_sweeps
from ..config import (
    MATRIX,
    MATRIX_BYTES,
    MATRIX_MACS,
    MATRIX_PHASES,
    MATRIX_POSITIONS,
    MATRIX_SHARE,
    MATRIX_TASKS,
    MATRIX_TERMS,
    PANEL_BYTES,
)
from ..positions.blocking import Pass, cuts, line_stride
from ..positions.made import made_by_spread
from ..positions.plan import Plan, finish, least_blocks, pass_numbers, spread_plan
from .blend import DEPTH, PARTS, SIDE, STEP, TILES

_LANES = SIDE * max(TILES)  # of a unit
_BEYOND = SIDE * max(TILES.values())  # what tiles read and write beyond the last position


def _layout(work: Pass, depths: int) -> dict[str, int]:
    """Return how a pass is cut into blocks, and how one is packed."""
    written = work.rows.write_stride * work.columns.write_stride
    each = depths * PARTS * SIDE * work.phases * work.itemsize
    least, most = MATRIX_POSITIONS
    most = min(most, MATRIX_BYTES // each, PANEL_BYTES // (_LANES * written * work.itemsize))
    layout = next(cuts(work, max(least, most)))
    if work.rows.read_stride > 1 or work.columns.read_stride > 1:
        layout["phase_plane"] += work.width  # whole vectors are written
    plane = line_stride(work.phases * layout["phase_plane"] + work.columns.reach, work.itemsize)
    pitch = line_stride(layout["positions"] + _BEYOND, work.itemsize)
    source = depths * PARTS * SIDE * plane + 2 * plane
    return layout | {
        "plane": plane,
        "packed_size": line_stride(source + _BEYOND + work.columns.reach, work.itemsize),
        "panel_pitch": pitch,
        "panel_size": _LANES * written * pitch,
        "phase_rows": work.rows.write_stride,
    }


def cut_amx(geometry: ConvGeometry, adjoint: bool) -> Plan:
    """Plan a forward pass or, with `adjoint`, an input gradient, of float32 numbers."""
    sweep, itemsize = adjoint_sweep if adjoint else forward_sweep, 4
    sweeps = sweep(geometry.rows), sweep(geometry.cols)
    sweeps = plain_sweeps(*sweeps) or sweeps
    channels = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    source, result = channels[::-1] if adjoint else channels
    depths, parts = ceil_div(source, DEPTH), ceil_div(result, _LANES)
    tasks = geometry.groups * parts  # of a block: fewer than vectors make
    blocks = max(least_blocks(geometry, tasks), ceil_div(MATRIX_TASKS, tasks))
    work = Pass(geometry.batch, *sweeps, source, result, itemsize, False, blocks)
    numbers = pass_numbers(geometry, work, sweeps, _layout(work, depths)) | {"depths": depths}
    kernel = numbers["kernel"]
    inner = geometry.weight_shape[1] * kernel
    # A unit's weights are packed with source channels for lanes.
    numbers["w_channel"], numbers["w_lane"] = (kernel, inner) if adjoint else (inner, kernel)
    units, at = [], 0
    for group in range(geometry.groups):
        for first in range(0, result, _LANES):
            lanes = min(_LANES, result - first)
            high = ceil_div(lanes, SIDE)
            size = high * STEP * depths * kernel
            units.append((group, first, lanes, at, high, size))
            at += size
    shape = geometry.input_shape if adjoint else geometry.output_shape
    return finish(geometry, shape, work, numbers, sweeps, units, line_stride(at, itemsize))


def _made(plan: Plan) -> int:
    """Return the products that a plan's tiles make."""
    lanes = SIDE * sum(int(unit[4]) for unit in plan.units)
    positions = sum(ceil_div(length, SIDE) * SIDE for length in chain.from_iterable(plan.runs()))
    return lanes * positions * DEPTH * int(plan.numbers["depths"][0]) * len(plan.taps)


def amx_plan(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> Plan | None:
    """Plan a forward pass or, with `adjoint`, an input gradient; None if another is cheaper."""
    if not MATRIX or itemsize != 4:
        return None
    direct = spread_plan(geometry, adjoint, itemsize)
    p = direct.numbers[0]
    written = p["write_stride_h"] * p["write_stride_w"]
    terms = p["source_channels"] * p["kernel"] // written
    if terms < MATRIX_TERMS or geometry.macs < written * MATRIX_MACS:
        return None
    if len(direct.read_h) * len(direct.read_w) > MATRIX_PHASES:
        return None
    plan = cut_amx(geometry, adjoint)
    tasks = len(plan.units) * int(plan.numbers["blocks"][0])
    cheaper = _made(plan) <= MATRIX_SHARE * made_by_spread(direct)
    return plan if cheaper and tasks >= MATRIX_TASKS else None
