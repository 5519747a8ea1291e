"""How a pass is cut into blocks, and how a block is packed: by shape alone, never by threads.

A *block* is a rectangle of one image's result (of all rows' width where rows are not too wide), or
several whole small images. Its source is packed once, as phase planes with a zero halo, so that
every tap of every output position is one constant offset away and positions run densely through
rows and images. A *unit* is one register tile's share of the result channels. A *task* is one unit
of one block; a thread takes a run of neighbouring tasks, and packs a block once for all of its
units that it has.

Tiles cover a block's positions in *runs*: all of them as one, or an image or a row at a time where
the halo between these would begin another tile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ...geometry import ceil_div
from ...sweep import Sweep
from ..config import (
    BLOCK_POSITIONS,
    DOT_TERMS,
    FEW_TAPS,
    FULLER_SHARE,
    LEAST_LANES,
    MACHINE,
    MANY_PHASES,
    NEAR_POSITIONS,
    PACK_BYTES,
    PANEL_BYTES,
    PANEL_PHASES,
    SOURCE_COST,
    SUM_TERMS,
    UNEVEN_BLOCKS,
    UNPACK_COST,
)
from .joint import choose_joint, joint_taps


class Pass(NamedTuple):
    """A pass before it is cut: its sweeps, and the channels of one group.

    `dot` says whether it is a weight gradient. It has `blocks` blocks at least, where it can.
    """

    batch: int
    rows: Sweep
    columns: Sweep
    source: int
    result: int
    itemsize: int
    dot: bool
    blocks: int

    @property
    def width(self) -> int:
        """Elements of a vector."""
        return MACHINE.vector_bytes // self.itemsize

    @property
    def widest(self) -> int:
        """Positions of the widest register tile."""
        return self.width * max(vectors for _, vectors in MACHINE.spread)

    @property
    def narrowest(self) -> int:
        """Positions of the register tile with the most lanes."""
        return self.width * MACHINE.spread[0][1]

    @property
    def phases(self) -> int:
        """Phases of the source."""
        return len(self.rows.read_phases) * len(self.columns.read_phases)

    def most_positions(self, room: int, phase_rows: int) -> int:
        """Return how many positions a block may have, if its source has `room` for so many.

        The panel of its results, for `phase_rows` rows of phases, shares the cache.
        """
        panel = MACHINE.spread[0][0] * phase_rows * self.columns.write_stride * self.itemsize
        most = min(BLOCK_POSITIONS, room, PANEL_BYTES // panel)
        if self.dot:
            few = len(self.rows.taps) * len(self.columns.taps) <= FEW_TAPS
            most = min(most, DOT_TERMS[few] * self.width)
        return max(self.narrowest, most)

    def packed_size(self, size: int) -> int:
        """Return the elements of a packed source: `size`, and what whole vectors read beyond."""
        return line_stride(size + self.widest + self.columns.reach, self.itemsize)


def tiles(lanes: int, table: tuple[tuple[int, int], ...]) -> list[tuple[int, int, int]]:
    """Cut `lanes` into tiles (first, lanes, vectors or streams), the largest first."""
    tiles, first = [], 0
    while first < lanes:
        count, across = next(tile for tile in table if tile[0] <= lanes - first)
        tiles.append((first, count, across))
        first += count
    return tiles


def cut_units(groups: int, count: int, block: int) -> np.ndarray:
    """Cut `count` channels (or columns) of each group into blocks: group, first, how many."""
    cut = [(first, min(block, count - first)) for first in range(0, count, block)]
    return np.array([(group, *part) for group in range(groups) for part in cut], np.int64)


def covered(length: int, lanes: int, vectors: int, width: int) -> int:
    """Return the positions that tiles of `lanes` by `vectors` of `width` compute for `length`.

    The last of those with the most lanes may be of a single vector (tiles/spread.py).
    """
    step, most = vectors * width, MACHINE.spread[0][0]
    rest = length % step
    return length - rest + (width if lanes == most and rest <= width else step) * (rest > 0)


def tiled(length: int, lanes: int, vectors: int, width: int) -> int:
    """Return the same, if a tile of a single vector takes a quarter longer."""
    made = covered(length, lanes, vectors, width)
    return made + made % (vectors * width) // 4


def covered_streams(streams: int, lanes: int, across: int) -> int:
    """Return the streams that tiles of `lanes` by `across` of them compute for `streams`.

    The last of those with the most lanes may be half as wide (tiles/dot.py).
    """
    rest, half = streams % across, across // 2
    last = half if lanes == MACHINE.dot[0][0] and rest <= half else across
    return streams - rest + last * (rest > 0)


def line_stride(elements: int, itemsize: int) -> int:
    """Round up to an odd number of cache lines: planes then never fight for the same cache sets."""
    line = 64 // itemsize
    return (ceil_div(elements, line) | 1) * line


def cuts(work: Pass, most: int) -> Iterator[dict[str, int]]:
    """Yield the ways to cut a pass into blocks, and the packed layouts that follow.

    In the first, blocks have about `most` positions, or fewer: they are cut further, down to where
    the halo would be most of the work, until there are as many as `work` asks for. In the others
    they have a row or two more or fewer, and the last may be small: few of those share out badly.
    """
    rows, columns, batch = work.rows, work.columns, work.batch
    blocks = 1 if work.dot else work.blocks
    least_rows = max(1, 2 * rows.reach)  # with fewer, the halo would be most of the work
    pitch, column_blocks = columns.count + columns.reach - columns.overlap, 1
    if pitch * (least_rows + rows.reach) > most:
        fit = max(128, most // (least_rows + rows.reach) - columns.reach)
        column_blocks = ceil_div(columns.count, fit)
    block_columns = min(columns.count, 16 * ceil_div(columns.count, 16 * column_blocks))
    if block_columns < columns.count:
        pitch = block_columns + columns.reach
    apart = rows.count + rows.reach - rows.overlap
    room = most // pitch  # packed rows
    images = max(1, min(room // apart, batch // blocks)) if block_columns == columns.count else 1
    if images > 1:
        yield _layout(work, images, rows.count, block_columns, pitch, apart)
        return
    least = max(4 * rows.reach, ceil_div(128, pitch))
    wanted = min(ceil_div(blocks, max(1, batch)), max(1, rows.count // least))
    fit = max(least_rows, room - rows.reach)
    even = ceil_div(rows.count, max(wanted, ceil_div(rows.count, fit)))
    row_blocks = ceil_div(rows.count, even)
    for more in (0, -2, -1, 1, 2) if batch * row_blocks >= UNEVEN_BLOCKS else (0,):
        block_rows = even + more
        if 0 < block_rows <= fit and ceil_div(rows.count, block_rows) >= row_blocks:
            yield _layout(work, 1, block_rows, block_columns, pitch, block_rows + rows.reach)


def _layout(
    work: Pass, images: int, block_rows: int, block_columns: int, pitch: int, image_rows: int
) -> dict[str, int]:
    """Return how blocks of so many images, rows and columns are packed, and how many there are."""
    row_blocks = ceil_div(work.rows.count, block_rows)
    column_blocks = ceil_div(work.columns.count, block_columns)
    positions = ((images - 1) * image_rows + block_rows - 1) * pitch + block_columns
    return {
        "pitch": pitch,
        "images": images,
        "block_rows": block_rows,
        "row_blocks": row_blocks,
        "block_columns": block_columns,
        "column_blocks": column_blocks,
        "blocks": ceil_div(work.batch, images) * row_blocks * column_blocks,
        "image_rows": image_rows,
        "phase_plane": ((images - 1) * image_rows + block_rows + work.rows.reach) * pitch,
        "positions": positions,
        "run": positions,
        "run_pitch": positions,
    }


def _together(work: Pass) -> int:
    """Return how many channels of the source are packed together.

    All, but where many phases would leave a block few positions: for each chunk of channels it
    packs a halo and goes through the weights only once for all of its positions.
    """
    written = work.rows.write_stride * work.columns.write_stride
    if work.dot or written > 1 or work.phases < MANY_PHASES:
        return work.source
    positions = min(NEAR_POSITIONS, max(1, work.batch * work.rows.count * work.columns.count))
    chunks = ceil_div(work.source * work.phases * work.itemsize * positions, PACK_BYTES)
    return ceil_div(work.source, min(work.source, chunks))


def _blocks(work: Pass) -> list[dict[str, int]]:
    """Return the ways to cut a pass into blocks whose packed source stays in cache."""
    rows, columns = work.rows, work.columns
    phase_rows = max(1, min(rows.write_stride, PANEL_PHASES // columns.write_stride))
    chunk = _together(work)
    each = chunk * work.phases * work.itemsize
    room = PACK_BYTES // each
    if work.dot:  # whose lanes are read along with it, again and again
        room = min(room, 2 * MACHINE.near_bytes // each)
    else:  # within the second-level cache, unless that makes blocks small
        room = max(MACHINE.near_bytes // each, min(NEAR_POSITIONS, room))
    most = work.most_positions(room, phase_rows)
    return [cut | {"phase_rows": phase_rows, "chunk": chunk} for cut in cuts(work, most)]


def parts(count: int, size: int) -> list[int]:
    """Return the sizes of the parts of `count`, of `size` each but the last."""
    return [int(min(size, count - at)) for at in range(0, count, size)]


def block_runs(p: Any, images: int, rows: int) -> list[int]:
    """Return the runs of positions of a block of so many images and rows of them.

    `p` is a plan's numbers, or as many of them as are needed.
    """
    end = ((images - 1) * p["image_rows"] + rows - 1) * p["pitch"] + p["block_columns"]
    return [int(min(p["run"], end - start)) for start in range(0, int(end), int(p["run_pitch"]))]


def _in_runs(work: Pass, layout: dict[str, int]) -> Iterator[dict[str, int]]:
    """Yield a layout with a run of positions for each block, and with one for each image or row."""
    yield layout
    pitch, columns = layout["pitch"], layout["block_columns"]
    if layout["chunk"] < work.source:
        return  # a run's last tile may reach into the next one: its products would be added twice
    if layout["images"] > 1:
        run = (layout["block_rows"] - 1) * pitch + columns
        yield layout | {"run": run, "run_pitch": layout["image_rows"] * pitch}
    elif columns >= work.width:
        yield layout | {"run": columns, "run_pitch": pitch}


def cost(work: Pass, layout: dict[str, int], joint: int) -> float:
    """Return the products of a channel of the source, and what packing it is worth."""
    taps = joint_taps(work.rows, work.columns, joint)
    lengths = Counter(
        length
        for rows in parts(work.rows.count, layout["block_rows"])
        for length in block_runs(layout, layout["images"], rows)
    )
    made = sum(
        times * max(lanes, LEAST_LANES) * tiled(length, lanes, vectors, work.width)
        for length, times in lengths.items()
        for _, lanes, vectors in tiles(work.result * joint, MACHINE.spread)
    )
    packed = layout["row_blocks"] * layout["phase_plane"] * work.phases
    across = ceil_div(work.batch, layout["images"]) * layout["column_blocks"]
    return across * (made * taps + packed * SOURCE_COST)


def _straight(work: Pass, layout: dict[str, int]) -> int:
    """Return the most vectors of the tiles that write a block's rows straight into the result.

    Other tiles compute a panel of all positions, halo and all, which is unpacked. That is the only
    way where write phases take turns in a row or channels come in chunks, and the faster one where
    rows are no whole vectors and results, which are then across cache lines, are added to more than
    once.
    """
    rows, columns = work.rows, work.columns
    products = work.source * len(rows.taps) * len(columns.taps)
    if work.dot or rows.write_stride > 1 or columns.write_stride > 1:
        return 0
    if layout["chunk"] < work.source or (columns.count % work.width and products > SUM_TERMS):
        return 0
    length, lines = layout["block_columns"], layout["images"] * layout["block_rows"]
    shortest = columns.count - (layout["column_blocks"] - 1) * length
    found = 0
    for _, lanes, vectors in tiles(work.result, MACHINE.spread):
        step, made = vectors * work.width, tiled(length, lanes, vectors, work.width)
        more = lines * made - covered(layout["positions"], lanes, vectors, work.width)
        if step <= shortest and more * products <= UNPACK_COST * lines * length:
            found = max(found, vectors)
    return found


def _choose(work: Pass, joint: int) -> dict[str, int]:
    """Return the blocks, and the runs of their positions, whose tiles compute the least in vain.

    They are the first that are possible, if others gain little or rows go straight into the result.
    """
    cuts = _blocks(work)
    if work.dot or _straight(work, cuts[0]):
        return cuts[0]
    ways = [way for cut in cuts for way in _in_runs(work, cut)]
    costs = [cost(work, way, joint) for way in ways]
    least = min(costs)
    return ways[costs.index(least) if least < FULLER_SHARE * costs[0] else 0]


def _alike(work: Pass) -> int:
    """Return how many phases of the source have the same taps as one another, or 1.

    They can be multiplied like as many channels, if tiles have turns of their loop for these taps.
    """
    taps = 1
    for axis in (work.rows, work.columns):
        each: list[list[int]] = [[] for _ in axis.read_phases]
        for _, phase, offset in axis.taps:
            each[phase].append(offset)
        if axis.write_stride > 1 or any(offsets != each[0] for offsets in each):
            return 1
        taps *= len(each[0])
    return 1 if work.dot or taps not in dict(MACHINE.turns) else work.phases


def packed_layout(work: Pass) -> dict[str, int]:
    """Return how a pass is cut into blocks, and how one is packed: (channel, phase, position)."""
    joint = 1 if work.dot else choose_joint(work.rows, work.columns, work.result)
    layout = _choose(work, joint)
    if work.rows.read_stride > 1 or work.columns.read_stride > 1:
        layout["phase_plane"] += work.width  # whole vectors are written
    if not work.dot:  # and read: of a dense run, a phase's only tap is never across lines
        layout["phase_plane"] = ceil_div(layout["phase_plane"], work.width) * work.width
    alike = _alike(work)
    if alike > 1:
        layout["phase_plane"] = line_stride(
            layout["phase_plane"] + work.columns.reach, work.itemsize
        )
        plane = alike * layout["phase_plane"]
    else:
        plane = line_stride(work.phases * layout["phase_plane"] + work.columns.reach, work.itemsize)
    return layout | {
        "plane": plane,
        "alike": alike,
        "packed_size": work.packed_size(layout["chunk"] * plane),
        "straight": _straight(work, layout),
        "joint": joint,
    }


def plain_layout(work: Pass) -> dict[str, int]:
    """Return how a pass that needs no packing is cut into blocks.

    A row, which is a whole picture, is cut into fewer ones until the last has room for the widest
    tile.
    """
    layout, count = _blocks(work)[0], work.columns.count
    while count - (layout["column_blocks"] - 1) * layout["block_columns"] < work.widest:
        if layout["column_blocks"] == 1:
            break
        layout["blocks"] -= layout["blocks"] // layout["column_blocks"]
        layout["column_blocks"] -= 1
        layout["block_columns"] = 16 * ceil_div(count, 16 * layout["column_blocks"])
    straight = work.widest // work.width
    return layout | {
        "plain": 1, "straight": straight, "plane": count, "packed_size": work.packed_size(0),
    }  # fmt: skip
