"""Plans of passes over many small pictures, images innermost: whether they pay, how they are cut.

A packed block has, for each channel and pixel of the source, the same pixel of some images side by
side. So any tap of any result is whole vectors away: there is no halo, no vector lies across two
rows, and products with what lies outside of a picture are left out. What it costs is that the
arrays are transposed. Results of one write phase that meet the same taps are a *class*, and those
of a class that lie side by side a *run*: the positions of the register tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from ...geometry import ConvGeometry, ceil_div
from ...sweep import Sweep, adjoint_sweep, forward_sweep
from ..config import (
    BATCH_CHUNK_BYTES,
    BATCH_LEAST,
    BATCH_PIXELS,
    BATCH_SHARE,
    BATCH_TASKS,
    MACHINE,
    PART_PIXELS,
    SHARED_MACS,
    TABLE_PIXELS,
    TRANSPOSE_COST,
)
from ..matrices.gemmplan import gemm_plan, workers_for
from ..positions.blocking import covered, line_stride, tiles
from ..positions.made import made_by_spread
from ..positions.plan import record, spread_plan, sweep_numbers, tap_tables

LANES, VECTORS = MACHINE.spread[0]  # of the tile with the most lanes
NEVER = 1 << 60  # an end (transpose.py) that is not reached


@dataclass(frozen=True)
class BatchPlan:
    """Everything that the kernels of a forward pass or an input gradient need besides the arrays.

    Attributes
    ----------
    shape : of the result
    numbers : structured array of one `PLAN` record
    source_at : int64, for `transpose`, where the pixels of channels that are packed together go
    result_at : int64, for `gather`, where a panel has the pixels of lanes that are written together
    tap_kernel, phase_at : int64, each write phase's taps, as in another plan
    taps, picks : int64, each class's taps: offset in the packed source, number in its write phase
    classes : (n, 5), int64, write phase, first tap and end, first run and end
    class_at : int64, where the classes of each part of the result's rows begin
    runs : (n, 3), int64, place in a packed channel, place in a lane of the panel, positions
    units : (n, 4), int64, of each unit the group, first lane, lanes, and vectors of its tile
    workers : how many threads are worth waking for the tasks, at most
    """

    shape: tuple[int, ...]
    numbers: np.ndarray
    source_at: np.ndarray
    result_at: np.ndarray
    tap_kernel: np.ndarray
    phase_at: np.ndarray
    taps: np.ndarray
    picks: np.ndarray
    classes: np.ndarray
    class_at: np.ndarray
    runs: np.ndarray
    units: np.ndarray
    workers: int


@dataclass(frozen=True, order=True)
class _Stretch:
    """Results of an axis with like taps, a write stride apart; their sources are neighbours.

    Attributes
    ----------
    phase : the write phase
    taps : of each tap that is inside the source its number in the phase, and its source's place
        from that of the first one
    first, count : the results
    source : place of the first result's first source
    """

    phase: int
    taps: tuple[tuple[int, int], ...]
    first: int
    count: int
    source: int


def order_of(sweep: Sweep) -> np.ndarray:
    """Return the place of each element of an axis' source, which is packed phase by phase."""
    phase = (np.arange(sweep.source) - sweep.read_base) % sweep.read_stride
    order = np.empty(sweep.source, np.int64)
    order[np.argsort(phase, kind="stable")] = np.arange(sweep.source)
    return order


def pixels_of(rows: Sweep, columns: Sweep) -> np.ndarray:
    """Return the place of each pixel of the source."""
    return (order_of(rows)[:, None] * columns.source + order_of(columns)).ravel()


def source_of(sweep: Sweep, position: int, phase: int, offset: int) -> int:
    """Return what a tap reads at a position, which may lie outside of the source."""
    return sweep.read_stride * (position + offset) + sweep.read_phases[phase] + sweep.read_base


def _stretches(sweep: Sweep, first: int, end: int) -> list[_Stretch]:
    """Return the stretches of an axis' results from `first` to `end`, like ones together."""
    order, found = order_of(sweep), []
    for b in range(sweep.write_stride):
        own = [(a, offset) for write, a, offset in sweep.taps if write == b]
        for q in range(sweep.count):
            result = sweep.write_stride * q + b + sweep.write_base
            if first <= result < end:
                at = [source_of(sweep, q, *tap) for tap in own]
                inside = [(i, int(order[s])) for i, s in enumerate(at) if 0 <= s < sweep.source]
                source = inside[0][1] if inside else 0
                taps = tuple((i, s - source) for i, s in inside)
                found.append(_Stretch(b, taps, result, 1, source))
    joined: list[_Stretch] = []
    for one in sorted(found):
        if joined:
            last = joined[-1]
            after = last.first + last.count * sweep.write_stride, last.source + last.count
            if (last.phase, last.taps, *after) == (one.phase, one.taps, one.first, one.source):
                joined[-1] = _Stretch(
                    last.phase, last.taps, last.first, last.count + 1, last.source
                )
                continue
        joined.append(one)
    return joined


def _alike(
    stretches: list[_Stretch],
) -> list[tuple[int, tuple[tuple[int, int], ...], list[_Stretch]]]:
    """Return write phase, taps and stretches of each class of an axis."""
    groups = groupby(stretches, lambda one: (one.phase, one.taps))
    return [(phase, taps, list(members)) for (phase, taps), members in groups]


class _Tables:
    """The tables of a plan as they are found: for pixels of `images`, tiles of `steps` positions.

    `size` is that of a lane of the panel: each run has room for whole tiles.
    """

    def __init__(
        self, rows: Sweep, columns: Sweep, part: int, images: int, steps: set[int]
    ) -> None:
        self.taps: list[int] = []
        self.picks: list[int] = []
        self.classes: list[tuple[int, ...]] = []
        self.class_at = [0]
        self.runs: list[tuple[int, int, int]] = []
        self.result_at = np.empty((rows.result, columns.result), np.int64)
        self.size = 0
        self._axes, self._images, self._steps = (rows, columns), images, steps
        across = _alike(_stretches(columns, 0, columns.result))
        for top in range(0, rows.result, part):
            self._place = 0
            for down in _alike(_stretches(rows, top, min(rows.result, top + part))):
                for wide in across:
                    self._add_class(down, wide)
            self.class_at.append(len(self.classes))
            self.size = max(self.size, self._place)

    def _add_class(self, down: tuple, wide: tuple) -> None:
        """Add one class: its taps and its runs."""
        rows, columns = self._axes
        begin, first = len(self.taps), len(self.runs)
        of_phase = sum(phase == wide[0] for phase, _, _ in columns.taps)
        for i, row in down[1]:
            for j, column in wide[1]:
                self.taps.append((row * columns.source + column) * self._images)
                self.picks.append(i * of_phase + j)
        for high in down[2]:
            for i in range(high.count):
                for stretch in wide[2]:
                    self._add_run(high.first + i * rows.write_stride, high.source + i, stretch)
        phase = down[0] * columns.write_stride + wide[0]
        self.classes.append((phase, begin, len(self.taps), first, len(self.runs)))

    def _add_run(self, result: int, source: int, stretch: _Stretch) -> None:
        """Add a run of row `result`."""
        columns, length = self._axes[1], stretch.count * self._images
        at = (source * columns.source + stretch.source) * self._images
        self.runs.append((at, self._place, length))
        own = self.result_at[result, stretch.first :: columns.write_stride]
        own[: stretch.count] = self._place + self._images * np.arange(stretch.count)
        self._place += max(ceil_div(length, step) * step for step in self._steps)


def places_at(starts: np.ndarray, step: int, ends: int | np.ndarray) -> np.ndarray:
    """Return the table of places for `transpose`."""
    table = np.empty((*starts.shape, 3), np.int64)
    table[..., 0], table[..., 1], table[..., 2] = starts, step, ends
    return table.ravel()


def as_table(values: list) -> np.ndarray:
    """Return integers as a table."""
    return np.array(values, np.int64)


def transposing_cost(geometry: ConvGeometry, times: int = 1) -> int:
    """Return the products that it costs to transpose the input, and so many times the output."""
    output = times * math.prod(geometry.output_shape)
    return TRANSPOSE_COST * (math.prod(geometry.input_shape) + output)


def run_products(classes: Any, runs: Any, lanes: int, vectors: int, width: int) -> int:
    """Return the products that a unit's tiles make for one source channel of a block of images."""
    return sum(
        (end - begin) * lanes * covered(int(run[2]), lanes, vectors, width)
        for _, begin, end, first, last in classes
        for run in runs[first:last]
    )


def batch_plan(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> BatchPlan | None:
    """Plan a forward pass or, with `adjoint`, an input gradient; None if another is cheaper."""
    sweep = adjoint_sweep if adjoint else forward_sweep
    rows, columns = sweep(geometry.rows), sweep(geometry.cols)
    channels = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    source, result = channels[::-1] if adjoint else channels
    width, kernel = MACHINE.vector_bytes // itemsize, len(rows.taps) * len(columns.taps)
    images, pixels, drawn = (
        VECTORS * width,
        rows.source * columns.source,
        rows.result * columns.result,
    )
    if geometry.macs < SHARED_MACS or max(pixels, drawn) > BATCH_PIXELS:
        return None
    if geometry.batch < max(1, BATCH_LEAST * images):
        return None
    found = tiles(result, MACHINE.spread)
    units = [(g, *unit) for g in range(geometry.groups) for unit in found]
    blocks, plane = ceil_div(geometry.batch, images), line_stride(pixels * images, itemsize)
    chunks = ceil_div(source * plane * itemsize, BATCH_CHUNK_BYTES)
    chunk = ceil_div(source, min(source, chunks))
    parts = 1  # packed weights serve all parts of a block if they are those of all channels
    if chunk == source:
        parts = min(ceil_div(BATCH_TASKS, blocks * len(units)), max(1, drawn // PART_PIXELS))
    part = ceil_div(rows.result, parts)
    steps = {vectors * width for _, _, vectors in found}
    tables = _Tables(rows, columns, part, images, steps)

    products = sum(
        run_products(tables.classes, tables.runs, lanes, vectors, width)
        for _, lanes, vectors in found
    )
    made = products * blocks * source * geometry.groups + transposing_cost(geometry)
    rival = made_by_spread(spread_plan(geometry, adjoint, itemsize))
    if gemm_plan(geometry, adjoint, itemsize) is not None:
        rival = min(rival, geometry.macs)
    if made > BATCH_SHARE[0] * rival:
        return None

    _, tap_kernel, phase_at = tap_tables(rows, columns, {"phase_plane": 0, "pitch": 0})
    together = min(source * geometry.groups, ceil_div(TABLE_PIXELS, pixels))
    source_at = plane * np.arange(together)[:, None] + images * pixels_of(rows, columns)
    panel = line_stride(tables.size, itemsize)
    written = 1 if len(tables.class_at) > 2 else min(LANES, ceil_div(TABLE_PIXELS, drawn))
    result_at = panel * np.arange(written)[:, None] + tables.result_at.ravel()
    weights = line_stride(chunk * kernel * LANES + width, itemsize)
    inner = geometry.weight_shape[1] * kernel
    numbers = {
        "groups": geometry.groups, "source_channels": source, "result_channels": result,
        "kernel": kernel,
        "w_lane": kernel if adjoint else inner, "w_channel": inner if adjoint else kernel,
        "images": images, "blocks": blocks,
        "block_rows": part, "row_blocks": len(tables.class_at) - 1,
        "chunk": chunk, "plane": plane,
        "packed_size": line_stride(source * geometry.groups * plane + max(steps), itemsize),
        "packed_together": together, "written_together": written,
        "panel_pitch": panel, "panel_size": panel * LANES,
        "weight_size": weights, "scratch_size": panel * LANES + 2 * weights,
    }  # fmt: skip
    return BatchPlan(
        geometry.input_shape if adjoint else geometry.output_shape,
        record(sweep_numbers(geometry.batch, rows, columns) | numbers),
        places_at(source_at, plane, NEVER), result_at.ravel(), tap_kernel, phase_at,
        as_table(tables.taps), as_table(tables.picks), as_table(tables.classes),
        as_table(tables.class_at), as_table(tables.runs), as_table(units),
        workers_for(geometry, blocks * (len(tables.class_at) - 1) * len(units)),
    )  # fmt: skip
