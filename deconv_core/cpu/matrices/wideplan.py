"""Plans of weight gradients of wide kernels: whether they pay, and how they are cut.

A row of the kernel meets, at each position, a piece of a source row as it lies. So vectors can run
along the kernel's rows, whatever the stride, where these are long enough to fill them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from ...geometry import ConvGeometry, ceil_div
from ...sweep import forward_sweep
from ..config import (
    GEMM_POSITIONS,
    MACHINE,
    PACK_BYTES,
    SHARED_MACS,
    WIDE_SHARE,
    WIDE_TERMS,
)
from ..positions.blocking import covered, line_stride
from ..positions.made import made_by_dot
from ..positions.plan import dot_plan, record, sweep_numbers
from .gemmplan import LANES, VECTORS, workers_for


@dataclass(frozen=True)
class WidePlan:
    """Everything that the kernels need besides the arrays.

    Attributes
    ----------
    shape : of the result
    numbers : structured array of one `PLAN` record
    read_h : int64, the phases of the source's rows
    tap_rows : int64, offset of each row of the kernel into the packed rows, phase by phase
    tap_kernel : int64, where each begins in the kernel
    phase_at : int64, where each phase's rows of the kernel begin
    places : int64, offset of each position of a picture into the packed rows
    units : (n, 3), of each task the group, the source channel and the phase
    workers : how many threads are worth waking for the tasks, at most
    """

    shape: tuple[int, ...]
    numbers: np.ndarray
    read_h: np.ndarray
    tap_rows: np.ndarray
    tap_kernel: np.ndarray
    phase_at: np.ndarray
    places: np.ndarray
    units: np.ndarray
    workers: int


def wide_plan(geometry: ConvGeometry, itemsize: int) -> WidePlan | None:
    """Plan a weight gradient along the kernel's rows; None if another way is cheaper."""
    rows, columns = forward_sweep(geometry.rows), forward_sweep(geometry.cols)
    source, result = (
        geometry.in_channels // geometry.groups,
        geometry.out_channels // geometry.groups,
    )
    size, wide, high = rows.count * columns.count, geometry.cols.kernel, len(rows.taps)
    if geometry.macs < SHARED_MACS or not 0 < geometry.batch * size <= GEMM_POSITIONS:
        return None
    if geometry.cols.dilation > 1 and wide > 1:
        return None
    width, tiles = MACHINE.vector_bytes // itemsize, ceil_div(result, LANES)
    block = VECTORS * width
    made = geometry.batch * size * tiles * LANES * covered(wide, LANES, VECTORS, width)
    made *= geometry.groups * source * high
    length = columns.read_stride * (columns.count - 1) + wide
    pitch, across = line_stride(length, itemsize), ceil_div(wide, block)
    packed = (rows.count + rows.reach) * pitch + block
    if packed * itemsize > PACK_BYTES:
        return None
    if made > WIDE_SHARE * made_by_dot(dot_plan(geometry, itemsize)):
        return None
    phases = range(len(rows.read_phases))
    taps = [[k for k, tap in enumerate(rows.taps) if tap[1] == phase] for phase in phases]
    order = [k for phase in taps for k in phase]
    row, column = np.divmod(np.arange(size), columns.count)
    units = np.array(list(product(range(geometry.groups), range(source), phases)), np.int64)
    numbers = {
        "groups": geometry.groups, "source_channels": source, "result_channels": result,
        "kernel": high * wide, "streams": wide,
        "positions": geometry.batch * size, "tiles": tiles,
        "chunk": ceil_div(size, ceil_div(size, WIDE_TERMS)), "region": length, "pitch": pitch,
        "packed_size": packed,
        "panel_pitch": block, "panel_plane": across * LANES * block,
        "panel_size": max(map(len, taps)) * tiles * across * LANES * block,
        "lanes_size": tiles * geometry.batch * size * LANES,
    }  # fmt: skip
    numbers["scratch_size"] = line_stride(packed, itemsize) + numbers["panel_size"]
    return WidePlan(
        geometry.weight_shape,
        record(numbers | sweep_numbers(geometry.batch, rows, columns)),
        np.array(rows.read_phases, np.int64),
        np.array([rows.taps[k][2] * pitch for k in order], np.int64),
        np.array(order, np.int64) * wide,
        np.cumsum([0, *map(len, taps)]),
        row * pitch + column * columns.read_stride,
        units,
        workers_for(geometry, len(units)),
    )
