"""Plans of depthwise convolutions: bands of rows, runs of taps, and the packed layout.

Each picture of one channel is cut into *bands* of rows that fit the nearest cache. A *run* is a few
taps in neighbouring packed rows of one column: the rows that one tap reads serve the next tap too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...geometry import ConvGeometry, ceil_div
from ...sweep import Sweep, adjoint_sweep, forward_sweep, trimmed
from ..config import BLOCK_POSITIONS, CHANNEL_RUN, MACHINE, MAX_CHUNKS, MIN_BLOCKS, PLANE_POSITIONS
from ..positions.plan import record, sweep_numbers
from .rowtile import ROWS, RUNS, TAPS


@dataclass(frozen=True)
class DepthPlan:
    """Everything that a depthwise pass needs besides the arrays.

    Attributes
    ----------
    shape : of the result
    numbers : structured array of one `PLAN` record
    read_h, read_w : int64, the phases of the source that are packed
    runs : int64, offset of each run (or tap) into the packed source
    run_at : int64, where the runs of each write phase and length begin
    tap_kernel : int64, position of each tap in the kernel, run by run
    phase_at : int64, where each write phase's taps begin
    edges : int64, of each write phase of rows the first and last position inside of the result
    scratch_size : elements of one worker's workspace
    tasks : how many there are to share among threads
    """

    shape: tuple[int, ...]
    numbers: np.ndarray
    read_h: np.ndarray
    read_w: np.ndarray
    runs: np.ndarray
    run_at: np.ndarray
    tap_kernel: np.ndarray
    phase_at: np.ndarray
    edges: np.ndarray
    scratch_size: int
    tasks: int


def is_depthwise(geometry: ConvGeometry) -> bool:
    """Tell whether each channel of the input makes one channel of the output by itself."""
    return geometry.in_channels == geometry.out_channels == geometry.groups > 1


def _row_runs(rows: Sweep, write: int) -> list[tuple[int, int, list[int]]]:
    """Return the runs of a write phase along the rows: read phase, offset, kernel rows."""
    taps = sorted((a, offset, k) for k, (b, a, offset) in enumerate(rows.taps) if b == write)
    runs: list[tuple[int, int, list[int]]] = []
    for phase, offset, k in taps:
        if runs:
            last, start, kernel = runs[-1]
            if (last, start + len(kernel)) == (phase, offset) and len(kernel) < RUNS[0]:
                kernel.append(k)
                continue
        runs.append((phase, offset, [k]))
    return runs


def _runs(
    rows: Sweep, columns: Sweep, layout: dict[str, int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return the plan's runs, run_at, tap_kernel and phase_at."""
    runs: list[int] = []
    taps: list[int] = []
    run_at, phase_at = [0], [0]
    for write_h in range(rows.write_stride):
        down = _row_runs(rows, write_h)
        for write_w in range(columns.write_stride):
            for size in RUNS:
                for read_h, offset_h, kernel in down:
                    for j, (write, read_w, offset_w) in enumerate(columns.taps):
                        if write == write_w and len(kernel) == size:
                            phase = read_h * len(columns.read_phases) + read_w
                            start = phase * layout["phase_plane"] + offset_h * layout["pitch"]
                            runs.append(start + offset_w)
                            taps += [i * len(columns.taps) + j for i in kernel]
                run_at.append(len(runs))
            phase_at.append(len(taps))
    return runs, run_at, taps, phase_at


def _edges(rows: Sweep, phase: int) -> tuple[int, int]:
    """Return the positions [first, last) of a write phase that lie inside of the result."""
    start = phase + rows.write_base
    first = max(0, ceil_div(-start, rows.write_stride))
    return first, max(first, min(rows.count, ceil_div(rows.result - start, rows.write_stride)))


def _layout(rows: Sweep, columns: Sweep, planes: int, width: int, positions: int) -> dict[str, int]:
    """Choose the bands' rows, about `positions` of them all, and the packed layout that follows."""
    pitch = ceil_div(columns.count + columns.reach, width) * width
    least = max(ROWS, 2 * rows.reach)  # with fewer, the halo would be most of the work
    bands = ceil_div(rows.count, max(least, positions // pitch - rows.reach))
    bands = max(bands, min(ceil_div(MIN_BLOCKS, max(1, planes)), max(1, rows.count // least)))
    block_rows = ceil_div(rows.count, bands)
    packed_rows = block_rows + rows.reach
    return {
        "pitch": pitch, "images": 1, "block_rows": block_rows,
        "row_blocks": ceil_div(rows.count, block_rows), "block_columns": columns.count,
        "image_rows": packed_rows, "phase_plane": packed_rows * pitch,
    }  # fmt: skip


def _numbers(
    geometry: ConvGeometry, rows: Sweep, columns: Sweep, itemsize: int, positions: int
) -> dict[str, int]:
    """Return the fields of a plan that all passes fill alike."""
    width = MACHINE.vector_bytes // itemsize
    phases = len(rows.read_phases) * len(columns.read_phases)
    planes = geometry.batch * geometry.groups
    numbers = _layout(rows, columns, planes, width, max(1, positions // phases))
    size = phases * numbers["phase_plane"] + columns.reach
    numbers |= {
        "groups": geometry.groups, "source_channels": 1, "result_channels": 1,
        "kernel": len(rows.taps) * len(columns.taps),
        "packed_size": (ceil_div(size, width) + 1) * width,
    }  # fmt: skip
    return numbers | sweep_numbers(geometry.batch, rows, columns)


def _finish(
    shape: tuple[int, ...], numbers: dict[str, int], rows: Sweep, columns: Sweep,
    lists: tuple[list[int], ...], extra: int, tasks: int,
) -> DepthPlan:  # fmt: skip
    """Freeze the fields into a plan; `extra` elements of workspace follow the packed source."""
    read_h, read_w = (np.array(axis.read_phases, np.int64) for axis in (rows, columns))
    runs, run_at, taps, phase_at = (np.array(values, np.int64) for values in lists)
    edges = np.array([_edges(rows, phase) for phase in range(rows.write_stride)], np.int64).ravel()
    size = ceil_div(numbers["packed_size"] + extra, 64) * 64
    return DepthPlan(
        shape, record(numbers), read_h, read_w, runs, run_at, taps, phase_at, edges, size, tasks
    )


def plane_plan(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> DepthPlan:
    """Plan a depthwise forward pass or, with `adjoint`, its input gradient."""
    sweep = adjoint_sweep if adjoint else forward_sweep
    rows, columns = trimmed(sweep(geometry.rows)), trimmed(sweep(geometry.cols))
    numbers = _numbers(geometry, rows, columns, itemsize, PLANE_POSITIONS)
    lists = _runs(rows, columns, numbers)
    numbers["panel_size"] = 0
    if columns.write_stride > 2:  # the phases of a tile's rows, before they take turns
        numbers["panel_pitch"] = ROWS * numbers["pitch"]
        numbers["panel_size"] = numbers["panel_pitch"] * columns.write_stride
    tasks = geometry.batch * geometry.groups * numbers["row_blocks"]
    extra = numbers["kernel"] + numbers["panel_size"]
    shape = geometry.input_shape if adjoint else geometry.output_shape
    return _finish(shape, numbers, rows, columns, lists, extra, tasks)


def plane_dot_plan(geometry: ConvGeometry, itemsize: int) -> DepthPlan:
    """Plan a depthwise weight gradient: a task is some channels and a chunk of all bands."""
    rows, columns = forward_sweep(geometry.rows), forward_sweep(geometry.cols)
    numbers = _numbers(geometry, rows, columns, itemsize, BLOCK_POSITIONS)
    width, kernel = MACHINE.vector_bytes // itemsize, numbers["kernel"]
    starts: list[int] = []
    for _, read_h, offset_h in rows.taps:
        for _, read_w, offset_w in columns.taps:
            phase = read_h * len(columns.read_phases) + read_w
            starts.append(phase * numbers["phase_plane"] + offset_h * numbers["pitch"] + offset_w)
    streams = TAPS[0] if kernel > TAPS[1] else TAPS[1]
    padded = ceil_div(kernel, streams) * streams
    starts += starts[-1:] * (padded - kernel)  # repeated, to be dropped
    blocks = geometry.batch * numbers["row_blocks"]
    numbers["blocks"], numbers["streams"] = blocks, streams
    parts = MIN_BLOCKS
    while parts * CHANNEL_RUN < geometry.groups:
        parts *= 2
    run = ceil_div(geometry.groups, parts)
    parts = ceil_div(geometry.groups, run)
    numbers["unit_run"] = run
    numbers["chunks"] = min(blocks, MAX_CHUNKS, ceil_div(MIN_BLOCKS, parts))
    tasks = numbers["chunks"] * parts
    lists, extra = (starts, list[int](), list[int](), list[int]()), run * padded * width
    return _finish(geometry.weight_shape, numbers, rows, columns, lists, extra, tasks)
