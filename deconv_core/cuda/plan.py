"""What the host works out for a pass, once for each geometry: numbers and a small table."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..geometry import ConvGeometry, ceil_div
from ..sweep import Sweep, adjoint_sweep, forward_sweep, plain_sweeps
from .config import DOT_BLOCKS, DOT_POSITIONS, Tile
from .memory import to_device

LIMIT = 2**31  # elements of an array: indices are 32-bit integers


def check_size(**sizes: int) -> None:
    """Raise ValueError where an array has more elements than an index can count."""
    for name, size in sizes.items():
        if size >= LIMIT:
            raise ValueError(
                f"{name} has {size} elements; kernels on the GPU take fewer than {LIMIT} at once"
            )


class Pass(NamedTuple):
    """The numbers of a forward pass or an input gradient; both are dense passes over phases.

    The source has `groups` of `channels`, and the result `groups` of `results` channels. `padded`
    channels are summed over, and `padded_rows` results computed, zeros and nothing beyond them.
    A position is an image, a row and a column (`rows` x `columns` of them), read and written with
    these strides and bases.
    """

    positions: int
    rows: int
    columns: int
    groups: int
    channels: int
    padded: int
    results: int
    padded_rows: int
    phases: int
    taps: int
    source_height: int
    source_width: int
    read_height: int
    read_width: int
    result_height: int
    result_width: int
    write_height: int
    write_width: int
    base_height: int
    base_width: int


def _taps(rows: Sweep, columns: Sweep) -> tuple[list[list[int]], list[list[int]]]:
    """Return the phases (row, column, first tap, last tap) and taps (row, column, kernel, 0).

    The phases with the most taps come first, so that the last blocks to run are short ones.
    """
    grid: dict[tuple[int, int], list[list[int]]] = {}
    for i, (phase_h, read_h, offset_h) in enumerate(rows.taps):
        for j, (phase_w, read_w, offset_w) in enumerate(columns.taps):
            grid.setdefault((phase_h, phase_w), []).append([
                rows.read_stride * offset_h + rows.read_phases[read_h] + rows.read_base,
                columns.read_stride * offset_w + columns.read_phases[read_w] + columns.read_base,
                i * len(columns.taps) + j,
                0,
            ])  # fmt: skip
    order = [(h, w) for h in range(rows.write_stride) for w in range(columns.write_stride)]
    order.sort(key=lambda phase: -len(grid.get(phase, [])))
    phases: list[list[int]] = []
    taps: list[list[int]] = []
    for phase in order:
        first = len(taps)
        taps += grid.get(phase, [])
        phases.append([*phase, first, len(taps)])
    return phases, taps


def _sweeps(geometry: ConvGeometry, adjoint: bool) -> tuple[Sweep, Sweep, bool]:
    """Return what a pass does along rows and columns, and whether pictures are as long rows."""
    sweep = adjoint_sweep if adjoint else forward_sweep
    rows, columns = sweep(geometry.rows), sweep(geometry.cols)
    plain = plain_sweeps(rows, columns)
    return (*(plain or (rows, columns)), plain is not None)


@lru_cache(maxsize=1024)
def in_quads(geometry: ConvGeometry, adjoint: bool) -> bool:
    """Return whether positions come in fours that lie side by side in the source.

    So it is in a 1x1 convolution with stride 1 and no padding, of pictures whose size four divides.

    Examples
    --------
    >>> from deconv_core.geometry import conv
    >>> in_quads(conv((1, 8, 6, 6), (4, 8, 1, 1)), False)
    True
    """
    _, columns, plain = _sweeps(geometry, adjoint)
    return plain and columns.count % 4 == 0


@lru_cache(maxsize=1024)
def spread_plan(geometry: ConvGeometry, adjoint: bool, tile: Tile) -> tuple[Pass, Any]:
    """Return the numbers of a pass, and its phases and taps as a device array."""
    rows, columns, _ = _sweeps(geometry, adjoint)
    channels, results = (
        n // geometry.groups for n in (geometry.in_channels, geometry.out_channels)
    )
    if adjoint:
        channels, results = results, channels
    phases, taps = _taps(rows, columns)
    numbers = Pass(
        positions=geometry.batch * rows.count * columns.count,
        rows=rows.count,
        columns=columns.count,
        groups=geometry.groups,
        channels=channels,
        padded=ceil_div(channels, tile.depth) * tile.depth,
        results=results,
        padded_rows=ceil_div(results, tile.rows) * tile.rows,
        phases=len(phases),
        taps=len(taps),
        source_height=rows.source,
        source_width=columns.source,
        read_height=rows.read_stride,
        read_width=columns.read_stride,
        result_height=rows.result,
        result_width=columns.result,
        write_height=rows.write_stride,
        write_width=columns.write_stride,
        base_height=rows.write_base,
        base_width=columns.write_base,
    )
    return numbers, to_device(np.array([*phases, *taps], np.int32).reshape(-1))


class Dot(NamedTuple):
    """The numbers of a weight gradient: a sum over positions, cut into chunks.

    A position is an image, a row and a column of the output gradient (`rows` x `columns`). There
    are `groups` of `results` rows, one for each output channel, and of `terms` columns, one for
    each (input channel, tap).
    """

    positions: int
    rows: int
    columns: int
    groups: int
    results: int
    channels: int
    terms: int
    taps: int
    source_height: int
    source_width: int
    stride_height: int
    stride_width: int
    chunk: int
    chunks: int


@lru_cache(maxsize=1024)
def dot_plan(geometry: ConvGeometry, tile: Tile) -> tuple[Dot, Any]:
    """Return the numbers of a weight gradient, and its taps (row, column) as a device array."""
    rows, columns = geometry.rows, geometry.cols
    results, channels, *kernel = geometry.weight_shape
    results, taps = results // geometry.groups, kernel[0] * kernel[1]
    positions = geometry.batch * rows.out * columns.out
    tiles = geometry.groups * ceil_div(results, tile.rows) * ceil_div(channels * taps, tile.columns)
    wanted = max(1, min(DOT_BLOCKS // tiles, positions // DOT_POSITIONS))
    chunk = ceil_div(ceil_div(positions, wanted), tile.depth) * tile.depth
    numbers = Dot(
        positions=positions,
        rows=rows.out,
        columns=columns.out,
        groups=geometry.groups,
        results=results,
        channels=channels,
        terms=channels * taps,
        taps=taps,
        source_height=rows.size,
        source_width=columns.size,
        stride_height=rows.step,
        stride_width=columns.step,
        chunk=chunk,
        chunks=max(1, ceil_div(positions, max(1, chunk))),
    )
    places = [
        (i * rows.dilation - rows.pad_lo, j * columns.dilation - columns.pad_lo)
        for i in range(rows.kernel)
        for j in range(columns.kernel)
    ]
    return numbers, to_device(np.array(places, np.int32).reshape(-1))
