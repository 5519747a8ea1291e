"""What the kernels of a pass are told: its numbers and tables, found once for each geometry."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numba import config

from ...geometry import ConvGeometry, ceil_div
from ...sweep import Sweep, adjoint_sweep, forward_sweep, plain_sweeps, trimmed
from ..config import (
    AHEAD_BYTES,
    AHEAD_PLANES,
    AHEAD_TAPS,
    CAREFUL_MACS,
    CROSSED_CHANNELS,
    CROSSED_MACS,
    LANES_BYTES,
    LEAST_TERMS,
    MACHINE,
    MAX_CHUNKS,
    MIN_BLOCKS,
    MIN_TASKS,
    PARTIAL_BYTES,
    PLAIN_RUN,
    SHARED_MACS,
    SUM_TERMS,
    WORKER_MACS,
)
from .blocking import Pass, block_runs, cost, line_stride, packed_layout, parts, plain_layout, tiles
from .joint import join, joint_taps

_FIELDS = (
    "groups source_channels result_channels source_h source_w result_h result_w "  # per group
    "read_stride_h read_stride_w read_base_h read_base_w "
    "write_stride_h write_stride_w write_base_h write_base_w "
    "batch rows columns reach_h reach_w "  # positions of one image, halo
    "images block_rows row_blocks block_columns column_blocks blocks chunks run run_pitch "
    "pitch image_rows phase_plane plane positions "  # packed source, in elements
    "alike "  # phases of a channel that are multiplied like as many channels, or one
    "panel_pitch packed_size panel_size unit_panel phase_rows "
    "weight_size scratch_size "  # all units' weights (or sums), one worker's workspace
    "kernel w_lane w_channel streams tile_size lanes_size unit_run "  # weights and their sums
    "terms "  # products that are added up in a row, those with zeros around the picture included
    "ahead "  # from what a tile reads of the packed source to what it calls for
    "plain straight "  # whether tiles write the result: all, or those of so many vectors
    "rowwise "  # whether a weight gradient reads the gradient's rows as they lie
    "joint "  # write phases that are lanes of one tile
    "tile tile_h points_h panel_plane lines_size "  # Winograd's tiles
    "near near_size "  # whether a unit's weights are transformed as they are used, or made
    "phases_h phases_w folds_h folds_w "  # read phases, dilated passes that are folded
    "chunk tiles region columns_size line_pitch "  # rows (channels, tiles) together, tiles (units)
    "packed_together written_together "  # channels, images innermost
    "depths"  # chunks of channels that a matrix register holds
).split()
_TABLES = "read_h read_w taps tap_kernel phase_at ends units".split()
_FIELDS += [f"{table}_{end}" for table in _TABLES for end in ("begin", "end")]
PLAN = np.dtype([(name, np.int64) for name in _FIELDS])


@dataclass(frozen=True)
class Plan:
    """Everything that a pass's kernel needs besides the arrays.

    Attributes
    ----------
    shape : of the result
    numbers : structured array of one `PLAN` record
    tables : int64, the next seven, one after another, for the kernels: every array that they are
        called with takes its time; NAME is from `numbers`' NAME_begin to its NAME_end
    read_h, read_w : the phases of the source that are packed
    taps : (n,), offset of each tap into the packed source, write phase by write phase
    tap_kernel : (n,), position of each tap in the (kh * kw) kernel; of joint phases (n * joint,),
        -1 for none
    phase_at : (phases + 1,), where each write phase's taps begin, or those of joint phases
    ends : (blocks + 1,), how many positions the blocks before each compute (of a weight gradient:
        the chunks before each), which is how the tasks are shared
    units : (n, 6), of each unit the group, first lane, lanes, where its weights (or sums)
        begin, the vectors (or streams) of its tile, and how many weights (or sums) it has
    weight_size, scratch_size : elements of all units' weights, and of one worker's workspace
    workers : how many threads are worth waking for the tasks, at most
    itemsize : bytes of an element
    """

    shape: tuple[int, ...]
    numbers: np.ndarray
    tables: np.ndarray
    read_h: np.ndarray
    read_w: np.ndarray
    taps: np.ndarray
    tap_kernel: np.ndarray
    phase_at: np.ndarray
    ends: np.ndarray
    units: np.ndarray
    weight_size: int
    scratch_size: int
    workers: int
    itemsize: int

    def runs(self, vectors: int | None = None) -> list[list[int]]:
        """Return the runs of positions that each block computes, by tiles of so many `vectors`."""
        return _runs(self.numbers[0], vectors)


def _runs(p: Any, vectors: int | None = None) -> list[list[int]]:
    """Return the runs of positions that each block of a plan of numbers `p` computes.

    With `vectors`, they are those of tiles of so many, which may write rows straight into the
    result; with one, those of a weight gradient, which may read rows as they lie. Without, they
    are those of a panel, whose last of a picture may be shorter, or of a 1x1 convolution.
    """
    blocks = product(
        parts(p["batch"], p["images"]),
        parts(p["rows"], p["block_rows"]),
        parts(p["columns"], p["block_columns"]),
    )
    straight = vectors is not None and (p["rowwise"] or vectors <= p["straight"])
    if p["plain"] or straight:
        return [[length] * (images * rows) for images, rows, length in blocks]
    return [block_runs(p, images, rows) for images, rows, _ in blocks]


def chunk_ends(chunks: int, lengths: Iterable[int]) -> np.ndarray:
    """Return how long the blocks before each chunk are, and all of them."""
    ends = np.cumsum([0, *lengths])
    return ends[np.arange(chunks + 1) * (len(ends) - 1) // max(1, chunks)]


def least_blocks(geometry: ConvGeometry, units: int) -> int:
    """Return how many blocks a pass is cut into at least; one where threads would not pay.

    Its units make tasks too: where there are many of them, blocks need not be so small.
    """
    if geometry.macs < SHARED_MACS:
        return 1
    blocks = MIN_BLOCKS
    while blocks > 2 and blocks // 2 * units >= MIN_TASKS:
        blocks //= 2
    return blocks


def most_workers(geometry: ConvGeometry, tasks: int) -> int:
    """Return how many threads are worth waking for so many tasks; one for a small pass."""
    least = MIN_BLOCKS if geometry.macs >= SHARED_MACS else 1
    return max(1, min(tasks, max(least, geometry.macs // WORKER_MACS)))


def _flat(geometry: ConvGeometry, work: Pass) -> tuple[Sweep, Sweep] | None:
    """Return the sweeps of a pass that needs no packing: 1x1, no strides, big enough pictures.

    Where vectors across cache lines take long, a pass of many channels is packed nevertheless: in
    the caller's array lines begin anywhere, and those of many channels share the same cache sets.
    """
    flat = plain_sweeps(work.rows, work.columns)
    if flat is None or (work.dot and flat[1].count % work.width):
        return None
    many = min(work.source, work.result) >= CROSSED_CHANNELS and geometry.macs >= CROSSED_MACS
    if MACHINE.crossing and many and not work.dot:
        return None
    widest = work.width * max(vectors for _, _, vectors in tiles(work.result, MACHINE.spread))
    return flat if work.dot or flat[1].count >= widest else None


def _least_packed(work: Pass) -> tuple[tuple[Sweep, Sweep], dict[str, int]]:
    """Return the sweeps, trimmed or not, that take less (`blocking.cost`), and the layout."""
    short = work._replace(rows=trimmed(work.rows), columns=trimmed(work.columns))
    found = [(way, packed_layout(way)) for way in (work, short)]
    best, layout = min(found, key=lambda made: cost(made[0], made[1], made[1]["joint"]))
    return (best.rows, best.columns), layout


def _common(geometry: ConvGeometry, work: Pass) -> tuple[dict[str, int], tuple[Sweep, Sweep]]:
    """Return the fields that every pass fills alike, and the sweeps that it makes."""
    flat = _flat(geometry, work)
    if flat:
        rows, columns = flat
        layout = plain_layout(work._replace(rows=rows, columns=columns))
    else:  # of a 1x1 pass without strides, a picture is one long row
        rows, columns = plain_sweeps(work.rows, work.columns) or (work.rows, work.columns)
        (rows, columns), layout = _least_packed(work._replace(rows=rows, columns=columns))
    return pass_numbers(geometry, work, (rows, columns), layout), (rows, columns)


def pass_numbers(
    geometry: ConvGeometry, work: Pass, sweeps: tuple[Sweep, Sweep], layout: dict[str, int]
) -> dict[str, int]:
    """Return all fields of a plan that makes `sweeps`: zero where its layout has none."""
    numbers = dict.fromkeys(_FIELDS, 0) | {"chunk": work.source, "joint": 1, "alike": 1} | layout
    numbers |= {
        "groups": geometry.groups, "source_channels": work.source, "result_channels": work.result,
        "kernel": len(work.rows.taps) * len(work.columns.taps),
    }  # fmt: skip
    return numbers | sweep_numbers(geometry.batch, *sweeps)


def sweep_numbers(batch: int, rows: Sweep, columns: Sweep) -> dict[str, int]:
    """Return the fields of a plan that its sweeps fill.

    The folds of the rows count as images, those of the columns as columns.
    """
    numbers = {"batch": batch * rows.folds, "rows": rows.count, "columns": columns.positions}
    for name, axis in (("h", rows), ("w", columns)):
        numbers[f"phases_{name}"] = len(axis.read_phases)
        for field in (
            "reach", "read_stride", "read_base", "write_stride", "write_base", "source", "result",
            "folds",
        ):  # fmt: skip
            numbers[f"{field}_{name}"] = getattr(axis, field)
    return numbers


def sum_terms(macs: int, products: int) -> int:
    """Return how many products are added up in a row, of so many that make a result.

    As many as there are such sums to add up then: so both lose the least to rounding. Where there
    is more to compute, that would take too long: the sums are read and written again each time.
    """
    least = LEAST_TERMS if macs < CAREFUL_MACS else SUM_TERMS
    return min(SUM_TERMS, max(least, math.isqrt(products)))


def pass_terms(geometry: ConvGeometry, rows: Sweep, columns: Sweep, source: int, taps: int) -> int:
    """Return the same of a pass over `source` channels: some of them, times a phase's most `taps`.

    Products with zeros around the picture are among them, but count for nothing: where most of a
    kernel lies outside, most are.
    """
    inside = max(1, rows.inside * columns.inside)
    channels = (sum_terms(geometry.macs, source * inside) + inside // 2) // inside
    return max(1, channels) * taps


def record(numbers: dict[str, int]) -> np.ndarray:
    """Return the fields of a plan as a record."""
    made: Any = np.zeros(1, PLAN)
    if config.DISABLE_JIT:  # plain Python reads fields as attributes of record arrays only
        made = made.view(np.recarray)
    for name, value in numbers.items():
        made[name] = value
    return made


def tap_tables(
    rows: Sweep, columns: Sweep, layout: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the taps' offsets and kernel positions by write phase, and where phases start."""
    found: list[list[tuple[int, int]]] = [
        [] for _ in range(rows.write_stride * columns.write_stride)
    ]
    for i, (write_h, read_h, offset_h) in enumerate(rows.taps):
        for j, (write_w, read_w, offset_w) in enumerate(columns.taps):
            phase = read_h * len(columns.read_phases) + read_w
            offset = phase * layout["phase_plane"] + offset_h * layout["pitch"] + offset_w
            write = write_h * columns.write_stride + write_w
            found[write].append((offset, i * len(columns.taps) + j))
    flat = [tap for taps in found for tap in taps]
    starts = np.cumsum([0] + [len(taps) for taps in found])
    offsets, kernel = np.array(flat, np.int64).reshape(-1, 2).T
    return np.ascontiguousarray(offsets), np.ascontiguousarray(kernel), starts.astype(np.int64)


def _joined(found: tuple[Any, ...], numbers: dict[str, int]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return all tables in one array, and each by name; fill the fields that say where it is."""
    tables = np.concatenate(found).astype(np.int64)
    views, begin = {}, 0
    for name, table in zip(_TABLES, found, strict=True):
        end = begin + len(table)
        numbers[f"{name}_begin"], numbers[f"{name}_end"] = begin, end
        views[name], begin = tables[begin:end], end
    views["units"] = views["units"].reshape(-1, 6)
    return tables, views


def finish(
    geometry: ConvGeometry,
    shape: tuple[int, ...],
    work: Pass,
    numbers: dict[str, int],
    sweeps: tuple[Sweep, Sweep],
    units: list[Any],
    size: int,
) -> Plan:
    """Freeze the fields into a plan; `size` is that of all units' weights or sums."""
    scratch = numbers["packed_size"] + numbers["panel_size"]
    numbers["weight_size"], numbers["scratch_size"] = size, scratch
    rows, columns = sweeps
    taps, kernel, starts = tap_tables(rows, columns, numbers)
    if work.dot or numbers["alike"] > 1:  # those of a phase follow one another: they read the same
        # Within a phase they keep the kernel's order, in which weights are packed (pack.py).
        order = np.argsort(taps // numbers["phase_plane"], kind="stable")
        taps, kernel = taps[order], kernel[order]
    if numbers["joint"] > 1:
        taps, kernel, starts = join(taps, kernel, starts, numbers["joint"])
    if not work.dot:
        most = int(np.diff(starts).max())
        numbers["terms"] = pass_terms(geometry, rows, columns, work.source, most)
    work_parts = numbers["chunks"] or numbers["blocks"]
    ends = chunk_ends(work_parts, map(sum, _runs(numbers)))
    found = (
        rows.read_phases, columns.read_phases, taps, kernel, starts, ends, np.ravel(units),
    )  # fmt: skip
    tables, views = _joined(found, numbers)
    tasks = work_parts * len(units)
    return Plan(
        shape, record(numbers), tables, **views, weight_size=size, scratch_size=scratch,
        workers=most_workers(geometry, tasks), itemsize=work.itemsize,
    )  # fmt: skip


def _ahead(plane: int, channels: int, taps: int, itemsize: int) -> int:
    """Return how many elements ahead tiles call for positions: none where that would be in vain.

    Of few channels it would be beyond the packed source, where another thread may write; larger
    planes would leave the nearest cache again before they are read.
    """
    planes = AHEAD_PLANES * (ceil_div(AHEAD_TAPS, taps) if MACHINE.turns else 1)
    near = channels > 2 * planes and plane * itemsize <= AHEAD_BYTES
    return planes * plane if near else 0


@lru_cache(maxsize=512)
def spread_plan(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> Plan:
    """Plan a convolution's forward pass or, with `adjoint`, its input gradient."""
    sweep = adjoint_sweep if adjoint else forward_sweep
    sweeps = sweep(geometry.rows), sweep(geometry.cols)
    channels = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    source, result = channels[::-1] if adjoint else channels
    blocks = least_blocks(geometry, geometry.groups * len(tiles(result, MACHINE.spread)))
    work = Pass(geometry.batch, *sweeps, source, result, itemsize, False, blocks)
    numbers, sweeps = _common(geometry, work)
    joint = numbers["joint"]
    taps = joint_taps(*sweeps, joint)
    kernel = geometry.rows.kernel * geometry.cols.kernel
    inner = geometry.weight_shape[1] * kernel
    numbers["w_lane"], numbers["w_channel"] = (kernel, inner) if adjoint else (inner, kernel)
    units, at = [], 0
    for group in range(geometry.groups):
        for first, lanes, vectors in tiles(result * joint, MACHINE.spread):
            size = lanes * source * taps
            units.append((group, first, lanes, at, vectors, size))
            at += size
    alike = numbers["alike"]
    numbers["ahead"] = _ahead(numbers["plane"] // alike, source * alike, kernel // alike, itemsize)
    numbers["panel_pitch"] = line_stride(numbers["positions"] + work.widest, itemsize)
    panels = [lanes for _, _, lanes, _, vectors, _ in units if vectors > numbers["straight"]]
    phases = numbers["phase_rows"] * sweeps[1].write_stride // joint
    numbers["panel_size"] = numbers["panel_pitch"] * max(panels, default=0) * phases
    if numbers["chunk"] < source:  # all units' sums wait for the next chunk
        numbers["unit_panel"] = numbers["panel_size"]
        numbers["panel_size"] *= len(units)
    shape = geometry.input_shape if adjoint else geometry.output_shape
    return finish(geometry, shape, work, numbers, sweeps, units, line_stride(at, itemsize))


def _rows_as_they_lie(work: Pass, numbers: dict[str, int]) -> bool:
    """Tell whether a weight gradient's tiles read the lanes' rows where they lie.

    They do where these are whole vectors; packed ones run on, with zeros in between.
    """
    aligned = numbers["block_columns"] % work.width == work.columns.count % work.width == 0
    return aligned and numbers["images"] == 1 and not numbers["plain"]


@lru_cache(maxsize=512)
def dot_plan(geometry: ConvGeometry, itemsize: int) -> Plan:
    """Plan a weight gradient: its source is the convolution's input, its lanes the output's."""
    sweeps = forward_sweep(geometry.rows), forward_sweep(geometry.cols)
    source, result = (
        geometry.in_channels // geometry.groups,
        geometry.out_channels // geometry.groups,
    )
    blocks = least_blocks(geometry, geometry.groups * len(tiles(result, MACHINE.dot)))
    work = Pass(geometry.batch, *sweeps, source, result, itemsize, True, blocks)
    numbers, sweeps = _common(geometry, work)
    width = work.width
    streams = source * numbers["kernel"]
    tile = max(ceil_div(lanes * across, width) * width for lanes, across in MACHINE.dot)
    units, at = [], 0
    for group in range(geometry.groups):
        for first, lanes, across in tiles(result, MACHINE.dot):
            size = ceil_div(streams, across) * tile
            units.append((group, first, lanes, at, across, size))
            at += size
    numbers["streams"], numbers["tile_size"] = max(across for _, across in MACHINE.dot), tile
    numbers["panel_pitch"] = line_stride(ceil_div(numbers["positions"], width) * width, itemsize)
    numbers["lanes_size"] = numbers["panel_pitch"] * MACHINE.dot[0][0]
    most = max(1, result // MACHINE.dot[0][0])
    near = LANES_BYTES // (numbers["lanes_size"] * itemsize)
    if numbers["plain"]:  # the operand of more rows is read once, or as seldom as may be
        near = most if source > result else PLAIN_RUN
    numbers["unit_run"] = max(1, min(near, most))
    size = line_stride(numbers["lanes_size"] * numbers["unit_run"] + width, itemsize)
    numbers["rowwise"] = int(_rows_as_they_lie(work, numbers))
    numbers["panel_size"] = 0 if numbers["plain"] or numbers["rowwise"] else size
    most = max(1, min(MAX_CHUNKS, PARTIAL_BYTES // (at * itemsize)))
    numbers["chunks"] = min(most, numbers["blocks"])
    return finish(geometry, geometry.weight_shape, work, numbers, sweeps, units, at)
