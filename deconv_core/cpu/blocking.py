"""How a pass is cut into blocks, packed and spread over tasks: by shape alone, never by threads.

A *block* is a rectangle of one image's result (of all rows' width where rows are not too wide), or
several whole small images, or a run of Winograd's tiles. Its source is packed once, as phase planes
with a zero halo, so that every tap of every output position is one constant offset away and
positions run densely through rows and images. A *unit* is one register tile's share of the result
channels. A *task* is one unit of one block; a thread takes a run of neighbouring tasks, and packs a
block once for all of its units that it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import config

from ..geometry import ConvGeometry, ceil_div
from ..sweep import Sweep, adjoint_sweep, forward_sweep, plain_sweeps, winograd_sweep
from .config import (
    BLOCK_POSITIONS,
    DOT_TERMS,
    LANES_BYTES,
    MACHINE,
    MAX_CHUNKS,
    MIN_BLOCKS,
    PACK_BYTES,
    PANEL_BYTES,
    PANEL_PHASES,
    PARTIAL_BYTES,
    SHARED_MACS,
    TILE_LANES_BYTES,
    TILED_COST,
    TILED_LEAST,
    TILED_SHARE,
    TILED_SUM,
    TILES_BYTES,
    WORKER_MACS,
)

_FIELDS = (
    "groups source_channels result_channels source_h source_w result_h result_w "  # per group
    "read_stride_h read_stride_w read_base_h read_base_w "
    "write_stride_h write_stride_w write_base_h write_base_w "
    "batch rows columns reach_h reach_w "  # positions of one image, halo
    "images block_rows row_blocks block_columns column_blocks blocks chunks "
    "pitch image_rows packed_rows phase_plane plane positions "  # packed source, in elements
    "panel_pitch packed_size panel_size phase_rows "
    "weight_size scratch_size "  # all units' weights (or sums), one worker's workspace
    "kernel w_lane w_channel streams tile_size lanes_size unit_run "  # weights and their sums
    "near_run panel_plane plain tile line_pitch lines_size"  # Winograd's tiles, their rows
).split()
_TABLES = "read_h read_w taps tap_kernel phase_at corners units".split()
_FIELDS += [f"{table}_{end}" for table in _TABLES for end in ("begin", "end")]
PLAN = np.dtype([(name, np.int64) for name in _FIELDS])


@dataclass(frozen=True)
class Plan:
    """Everything that a pass's kernel needs besides the arrays.

    Attributes
    ----------
    numbers : structured array of one `PLAN` record
    tables : int64, the next seven, one after another, for the kernels: every array that they are
        called with takes its time; NAME is from `numbers`' NAME_begin to its NAME_end
    read_h, read_w : the phases of the source that are packed
    taps : (n,), offset of each tap into the packed source, write phase by write phase
    tap_kernel : (n,), position of each tap in the (kh * kw) kernel; by Winograd's tiles its
        product, 16 * pair of phases + product
    phase_at : (phases + 1,), where each write phase's taps begin
    corners : (9 * pairs,), by Winograd's tiles the positions of each pair's 3x3 taps, -1 for none
    units : (n, 6), of each unit the group, first lane, lanes, where its weights (or sums)
        begin, the vectors (or streams) of its tile, and how many weights (or sums) it has
    weight_size, scratch_size : elements of all units' weights, and of one worker's workspace
    workers : how many threads are worth waking for the tasks, at most
    """

    numbers: np.ndarray
    tables: np.ndarray
    read_h: np.ndarray
    read_w: np.ndarray
    taps: np.ndarray
    tap_kernel: np.ndarray
    phase_at: np.ndarray
    corners: np.ndarray
    units: np.ndarray
    weight_size: int
    scratch_size: int
    workers: int


def tiles(lanes: int, table: tuple[tuple[int, int], ...]) -> list[tuple[int, int, int]]:
    """Cut `lanes` into tiles (first, lanes, vectors or streams), the largest first."""
    tiles, first = [], 0
    while first < lanes:
        count, across = next(tile for tile in table if tile[0] <= lanes - first)
        tiles.append((first, count, across))
        first += count
    return tiles


def _line_stride(elements: int, itemsize: int) -> int:
    """Round up to an odd number of cache lines: planes then never fight for the same cache sets."""
    line = 64 // itemsize
    return (ceil_div(elements, line) | 1) * line


def _block(rows: Sweep, columns: Sweep, batch: int, most: int, blocks: int) -> dict[str, int]:
    """Choose images and rows per block, and the packed layout that follows.

    A block has about `most` positions, or fewer: blocks are cut further, down to where the halo
    would be most of the work, until there are `blocks` of them.
    """
    least_rows = max(1, 2 * rows.reach)  # with fewer, the halo would be most of the work
    pitch, column_blocks = columns.count + columns.reach - columns.overlap, 1
    if pitch * (least_rows + rows.reach) > most:
        fit = max(128, most // (least_rows + rows.reach) - columns.reach)
        column_blocks = ceil_div(columns.count, fit)
    block_columns = min(columns.count, 16 * ceil_div(columns.count, 16 * column_blocks))
    column_blocks = ceil_div(columns.count, block_columns)
    if column_blocks > 1:
        pitch = block_columns + columns.reach
    image_rows = rows.count + rows.reach - rows.overlap
    room = most // pitch  # packed rows
    images, row_blocks = 1, 1
    if room >= 2 * image_rows and column_blocks == 1:
        images = max(1, min(room // image_rows, batch // blocks))
    if images == 1:
        least = max(4 * rows.reach, ceil_div(128, pitch))
        wanted = min(ceil_div(blocks, max(1, batch)), max(1, rows.count // least))
        row_blocks = max(wanted, ceil_div(rows.count, max(least_rows, room - rows.reach)))
    block_rows = ceil_div(rows.count, row_blocks)
    row_blocks = ceil_div(rows.count, block_rows)
    if images == 1:
        image_rows = block_rows + rows.reach
    packed_rows = (images - 1) * image_rows + block_rows + rows.reach
    return {
        "pitch": pitch,
        "images": images,
        "block_rows": block_rows,
        "row_blocks": row_blocks,
        "block_columns": block_columns,
        "column_blocks": column_blocks,
        "blocks": ceil_div(batch, images) * row_blocks * column_blocks,
        "image_rows": image_rows,
        "packed_rows": packed_rows,
        "phase_plane": packed_rows * pitch,
        "positions": ((images - 1) * image_rows + block_rows) * pitch,
    }


def _run(most: int, lanes: int, width: int) -> int:
    """Return how many of Winograd's tiles a block has: at most `most`, in whole vectors of `width`.

    It is the number with which the register tiles compute the least in vain for so many `lanes`.
    """
    widths = [(count, vectors * width) for _, count, vectors in tiles(lanes, MACHINE.spread)]

    def computed(length: int) -> float:
        return sum(count * ceil_div(length, wide) * wide for count, wide in widths) / length

    step = width * MACHINE.spread[0][1]
    lengths = range(step, max(step, most) + 1, step)
    return min(lengths, key=lambda length: (computed(length), -length))


def _taps(
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


def _tile(
    batch: int, sweeps: tuple[Sweep, Sweep], source: int, result: int, itemsize: int, dot: bool
) -> tuple[int, int]:
    """Return how many results Winograd's tiles have along an axis, and how many a block may have.

    Zeros if the pass runs without them. They take two or three taps in a phase, at most two phases
    (a weight gradient: one), and enough work.
    """
    rows, columns = sweeps
    strides = [axis.read_stride * axis.write_stride for axis in sweeps]
    if rows.reach != columns.reach or rows.reach not in (1, 2) or max(strides) > (1 if dot else 2):
        return 0, 0
    if any(len(axis.read_phases) != axis.read_stride for axis in sweeps):
        return 0, 0
    results, read, written = 4 - rows.reach, rows.read_stride, rows.write_stride
    tiled = [winograd_sweep(axis, results) for axis in sweeps]
    count, taps = tiled[0].count * tiled[1].count, len(tiled[0].taps) * len(tiled[1].taps)
    moved = 16 * (read * columns.read_stride * source + written * columns.write_stride * result)
    products = count * (taps * source * result + TILED_COST * max(strides) * moved)
    direct = len(rows.taps) * len(columns.taps) * rows.count * columns.count * source * result
    most = PACK_BYTES if dot else TILES_BYTES
    most //= 16 * read * columns.read_stride * source * itemsize
    pays = batch * count >= TILED_LEAST and products <= TILED_SHARE * direct
    return (results, most) if pays and (most >= TILED_SUM or not dot) else (0, 0)


def _join_short_block(layout: dict[str, int], count: int, least: int) -> None:
    """Cut a long row into fewer blocks until the last has room for the widest tile."""
    while count - (layout["column_blocks"] - 1) * layout["block_columns"] < least:
        if layout["column_blocks"] == 1:
            break
        layout["blocks"] -= layout["blocks"] // layout["column_blocks"]
        layout["column_blocks"] -= 1
        layout["block_columns"] = 16 * ceil_div(count, 16 * layout["column_blocks"])


def _plain(
    rows: Sweep, columns: Sweep, result: int, itemsize: int, dot: bool
) -> tuple[Sweep, Sweep] | None:
    """Return the sweeps of a pass that needs no packing: 1x1, no strides, big enough pictures."""
    width = MACHINE.vector_bytes // itemsize
    flat = plain_sweeps(rows, columns)
    if flat is None or (dot and flat[1].count % width):
        return None
    widest = width * max(vectors for _, _, vectors in tiles(result, MACHINE.spread))
    return flat if dot or flat[1].count >= widest else None


def _least_blocks(geometry: ConvGeometry) -> int:
    """Return how many blocks a pass is cut into at least; one where threads would not pay."""
    return MIN_BLOCKS if geometry.macs >= SHARED_MACS else 1


def _common(
    geometry: ConvGeometry,
    sweeps: tuple[Sweep, Sweep],
    source: int,
    result: int,
    itemsize: int,
    dot: bool,
) -> tuple[dict[str, int], Sweep, Sweep]:
    """Return the fields that every pass fills alike, and the sweeps that it makes.

    `source` and `result` are the channels of one group; `dot` says which tile will run.
    """
    tile, room = _tile(geometry.batch, sweeps, source, result, itemsize, dot)
    plain = _plain(*sweeps, result, itemsize, dot)
    rows, columns = plain or ((winograd_sweep(axis, tile) for axis in sweeps) if tile else sweeps)
    phases = len(rows.read_phases) * len(columns.read_phases)
    phase_rows = max(1, min(rows.write_stride, PANEL_PHASES // columns.write_stride))
    phase_rows = 4 if tile else phase_rows
    panel = MACHINE.spread[0][0] * phase_rows * columns.write_stride  # per position
    if not tile:
        room = PACK_BYTES // (source * phases * itemsize)
    width = MACHINE.vector_bytes // itemsize
    widest = width * max(vectors for _, vectors in MACHINE.spread)
    least = width * MACHINE.spread[0][1]
    most = min(BLOCK_POSITIONS, room, PANEL_BYTES // (panel * itemsize))
    if dot:
        most = min(most, DOT_TERMS * width)
    most = max(least, most)
    blocks = _least_blocks(geometry)
    if tile:  # (phase, channel, tile): one phase after the other is multiplied
        total = geometry.batch * rows.count * columns.count
        most = min(most, max(TILED_SUM if dot else least, total // blocks))
        run = most // least * least if dot else _run(most, result, width)
        layout = {"positions": run, "blocks": ceil_div(total, run)}
        layout |= {"row_blocks": 1, "column_blocks": 1}
        plane = _line_stride(layout["positions"] + width, itemsize)  # whole vectors are written
        layout["phase_plane"] = _line_stride(source * plane, itemsize)
        size = layout["phase_plane"] * phases
    else:
        layout = _block(rows, columns, geometry.batch, most, 1 if dot else blocks)
    if plain:  # not packed
        plane, size = columns.count, 0
        _join_short_block(layout, columns.count, widest)
    elif not tile:  # (channel, phase, position)
        if rows.read_stride > 1 or columns.read_stride > 1:
            layout["phase_plane"] += MACHINE.vector_bytes // itemsize  # whole vectors are written
        plane = _line_stride(phases * layout["phase_plane"] + columns.reach, itemsize)
        size = source * plane
    numbers = dict.fromkeys(_FIELDS, 0) | layout
    numbers |= {
        "groups": geometry.groups, "source_channels": source, "result_channels": result,
        "batch": geometry.batch, "rows": rows.count, "columns": columns.count,
        "reach_h": rows.reach, "reach_w": columns.reach, "phase_rows": phase_rows,
        "plane": plane, "kernel": len(sweeps[0].taps) * len(sweeps[1].taps), "tile": tile,
        "plain": int(plain is not None),
        "packed_size": _line_stride(size + widest + columns.reach, itemsize),
    }  # fmt: skip
    for name, axis in (("h", rows), ("w", columns)):
        for field in ("read_stride", "read_base", "write_stride", "write_base"):
            numbers[f"{field}_{name}"] = getattr(axis, field)
        numbers[f"source_{name}"], numbers[f"result_{name}"] = axis.source, axis.result
    if tile:  # whole vectors are written to the lines, which hold all rows of tiles of a block
        numbers["line_pitch"] = ceil_div(columns.count + 1, width) * width
        deep = min(rows.count, ceil_div(layout["positions"] - 1, columns.count) + 1)
        lines = columns.read_stride * (tile * deep + 2)
        lines = max(lines, tile * tile * columns.write_stride // 4)
        numbers["lines_size"] = numbers["line_pitch"] * lines + 2 * width
    return numbers, rows, columns


def _products(sweeps: tuple[Sweep, Sweep], tiles: tuple[Sweep, Sweep]) -> tuple[Any, Any]:
    """Return which product each pair of tap of `tiles` is, and the `corners` of pairs of phases.

    `sweeps` are the passes that the tiles stand for.
    """
    across = [len(axis.read_phases) * axis.write_stride for axis in sweeps]
    found = []
    for axis, sweep in zip(tiles, sweeps, strict=True):
        reads = len(sweep.read_phases)
        found.append([(b // 4 * reads + a // 4, b % 4) for b, a, _ in axis.taps])
    kernel = [
        16 * (pair_h * across[1] + pair_w) + 4 * product_h + product_w
        for pair_h, product_h in found[0]
        for pair_w, product_w in found[1]
    ]
    corners = np.full((across[0], across[1], 3, 3), -1)
    rows, columns = sweeps
    for i, (write_h, read_h, r) in enumerate(rows.taps):
        for j, (write_w, read_w, c) in enumerate(columns.taps):
            pair_h = write_h * len(rows.read_phases) + read_h
            pair_w = write_w * len(columns.read_phases) + read_w
            corners[pair_h, pair_w, r, c] = i * len(columns.taps) + j
    return np.array(kernel), corners.ravel()


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


def _finish(
    geometry: ConvGeometry,
    numbers: dict[str, int],
    sweeps: tuple[Sweep, Sweep],
    rows: Sweep,
    columns: Sweep,
    units: list[Any],
    size: int,
) -> Plan:
    """Freeze the fields into a plan; `size` is that of all units' weights or sums."""
    scratch = numbers["packed_size"] + numbers["panel_size"] + numbers["lines_size"]
    numbers["weight_size"], numbers["scratch_size"] = size, scratch
    taps, kernel, starts = _taps(rows, columns, numbers)
    corners = np.empty(0, np.int64)
    if numbers["tile"]:
        products, corners = _products(sweeps, (rows, columns))
        kernel = products[kernel]
    found = rows.read_phases, columns.read_phases, taps, kernel, starts, corners, np.ravel(units)
    tables, views = _joined(found, numbers)
    record = np.zeros(1, PLAN)
    if config.DISABLE_JIT:  # plain Python reads fields as attributes of record arrays only
        record = record.view(np.recarray)
    for name, value in numbers.items():
        record[name] = value
    tasks = (numbers["chunks"] or numbers["blocks"]) * len(units)
    workers = max(1, min(tasks, max(_least_blocks(geometry), geometry.macs // WORKER_MACS)))
    return Plan(record, tables, **views, weight_size=size, scratch_size=scratch, workers=workers)


@lru_cache(maxsize=512)
def spread_plan(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> Plan:
    """Plan a convolution's forward pass or, with `adjoint`, its input gradient."""
    sweep = adjoint_sweep if adjoint else forward_sweep
    sweeps = sweep(geometry.rows), sweep(geometry.cols)
    channels = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    source, result = channels[::-1] if adjoint else channels
    numbers, rows, columns = _common(geometry, sweeps, source, result, itemsize, False)
    kernel = geometry.rows.kernel * geometry.cols.kernel
    inner = geometry.weight_shape[1] * kernel
    numbers["w_lane"], numbers["w_channel"] = (kernel, inner) if adjoint else (inner, kernel)
    units, at = [], 0
    for group in range(geometry.groups):
        for first, lanes, vectors in tiles(result, MACHINE.spread):
            size = lanes * source * len(rows.taps) * len(columns.taps)
            units.append((group, first, lanes, at, vectors, size))
            at += size
    widest = MACHINE.vector_bytes // itemsize * max(v for _, v in MACHINE.spread)
    numbers["panel_pitch"] = _line_stride(numbers["positions"] + widest, itemsize)
    most = min(MACHINE.spread[0][0], result)
    phases = numbers["phase_rows"] * columns.write_stride
    numbers["panel_size"] = 0 if numbers["plain"] else numbers["panel_pitch"] * most * phases
    return _finish(geometry, numbers, sweeps, rows, columns, units, _line_stride(at, itemsize))


@lru_cache(maxsize=512)
def dot_plan(geometry: ConvGeometry, itemsize: int) -> Plan:
    """Plan a weight gradient: its source is the convolution's input, its lanes the output's."""
    sweeps = forward_sweep(geometry.rows), forward_sweep(geometry.cols)
    source, result = (
        geometry.in_channels // geometry.groups,
        geometry.out_channels // geometry.groups,
    )
    numbers, rows, columns = _common(geometry, sweeps, source, result, itemsize, True)
    width = MACHINE.vector_bytes // itemsize
    planes, streams = 1, source * numbers["kernel"]
    if numbers["tile"]:
        planes, streams = 16, source
    tile = max(ceil_div(lanes * across, width) * width for lanes, across in MACHINE.dot)
    units, at = [], 0
    for group in range(geometry.groups):
        for first, lanes, across in tiles(result, MACHINE.dot):
            size = ceil_div(streams, across) * tile * planes
            units.append((group, first, lanes, at, across, size))
            at += size
    numbers["streams"], numbers["tile_size"] = max(across for _, across in MACHINE.dot), tile
    room = numbers["positions"] + (width if numbers["tile"] else 0)
    numbers["panel_pitch"] = _line_stride(ceil_div(room, width) * width, itemsize)
    numbers["lanes_size"] = numbers["panel_pitch"] * MACHINE.dot[0][0]
    most = max(1, result // MACHINE.dot[0][0])
    near = LANES_BYTES // (numbers["lanes_size"] * itemsize)
    run = TILE_LANES_BYTES // (numbers["lanes_size"] * planes * itemsize) if planes > 1 else near
    numbers["near_run"], numbers["unit_run"] = max(1, min(near, most)), max(1, min(run, most))
    numbers["panel_plane"] = _line_stride(numbers["lanes_size"] * numbers["unit_run"], itemsize)
    numbers["panel_size"] = 0 if numbers["plain"] else numbers["panel_plane"] * planes
    most = max(1, min(MAX_CHUNKS, PARTIAL_BYTES // (at * itemsize)))
    numbers["chunks"] = min(most, numbers["blocks"])
    return _finish(geometry, numbers, sweeps, rows, columns, units, at)
