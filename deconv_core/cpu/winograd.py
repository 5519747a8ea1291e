"""Winograd's F(2x2, 3x3): a 3x3 convolution of stride 1 with 16 products for 2x2 results, not 36.

Along one axis, two results of a three-tap filter g over d are ``A^T ((G g) * (B^T d))`` with four
products. Along both, a *tile* of 4x4 source elements becomes 16 transformed elements, one in each
of 16 planes; each plane is multiplied by a plane of transformed weights, as a convolution with a
single tap (tile.py); and 16 products become 2x2 results. The gradient to the weight is the same
identity read backwards. (S. Winograd, 1980; A. Lavin and S. Gray, 2015, arXiv:1509.09308.)

Here is what surrounds the products: each function stands in for its namesake in pack.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, types
from numba.extending import intrinsic

from .emit import Emitter
from .jit import kernel
from .rows import halve, merge, vectors

SOURCE = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B^T
RESULT = ((1, 1, 1, 0), (0, 1, -1, -1))  # A^T
GRAD = tuple(zip(*RESULT, strict=True))  # A
Matrix = tuple[tuple[int, ...], ...]
Address = Callable[[int, int], tuple[int, int, int]]  # (row, column) in rows, columns, elements


def _planes(row: int, column: int) -> tuple[int, int, int]:
    """Address element (row, column) of a tile in a plane of its own."""
    return row, column, 0


def _halves(row: int, column: int) -> tuple[int, int, int]:
    """Address it in rows that are split into even and odd columns."""
    return row, column % 2, column // 2


def _weighted(emit: Emitter, factors: tuple[int, ...], terms: list[Any]) -> Any:
    """Emit the sum of factors (0, 1 or -1) times terms."""
    signed = sorted(
        ((factor, term) for factor, term in zip(factors, terms, strict=True) if factor),
        key=lambda pair: -pair[0],
    )
    total = signed[0][1] if signed[0][0] > 0 else emit.subtract(emit.zero, signed[0][1])
    for factor, term in signed[1:]:
        total = emit.add(total, term) if factor > 0 else emit.subtract(total, term)
    return total


def _transform(matrix: Matrix, address: Address) -> Any:
    """Return an intrinsic for ``y = matrix @ x @ matrix.T``, for a row of `count` tiles.

    Element (r, c) of a tile's y is in ``y[y_at + r * y_row + c * y_column + tile]``; x alike, as
    `address` says. Whole vectors of x are read; of y just `count` elements are written.
    """

    def typed(
        typing: Any, y: Any, y_at: Any, y_row: Any, y_column: Any,
        x: Any, x_at: Any, x_row: Any, x_column: Any, count: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)

        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            y_, y_at_, y_row_, y_column_, x_, x_at_, x_row_, x_column_, count_ = values
            emit = Emitter(context, builder, x.dtype)
            source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
            size = range(len(matrix[0]))

            def place(start: Any, row: Any, column: Any, where: tuple[int, int, int]) -> Any:
                moved = emit.step(start, emit.times(row, where[0]))
                return emit.step(emit.step(moved, emit.times(column, where[1])), where[2])

            reads = [[place(source, x_row_, x_column_, address(r, c)) for c in size] for r in size]

            def body(at: Any, masked: bool) -> None:
                tile = [[emit.load(emit.step(read, at)) for read in row] for row in reads]
                rows = [[_weighted(emit, factors, row) for factors in matrix] for row in tile]
                for r, factors in enumerate(matrix):
                    for c in range(len(matrix)):
                        value = _weighted(emit, factors, [row[c] for row in rows])
                        write = emit.step(place(target, y_row_, y_column_, (r, c, 0)), at)
                        if masked:
                            emit.store_before(value, write, at, count_)
                        else:
                            emit.store(value, write)

            vectors(emit, count_, body)
            return context.get_dummy_value()

        return signature, generate

    def plain(
        y: np.ndarray, y_at: int, y_row: int, y_column: int,
        x: np.ndarray, x_at: int, x_row: int, x_column: int, count: int,
    ) -> None:  # fmt: skip
        size, factors = range(len(matrix[0])), np.array(matrix, x.dtype)
        tile = np.empty((len(size), len(size), count), x.dtype)
        for r in size:
            for c in size:
                row, column, offset = address(r, c)
                start = x_at + row * x_row + column * x_column + offset
                tile[r, c] = x[start : start + count]
        result = np.einsum("ar,rct,bc->abt", factors, tile, factors)
        for r in range(len(matrix)):
            for c in range(len(matrix)):
                start = y_at + r * y_row + c * y_column
                y[start : start + count] = result[r, c]

    return plain if config.DISABLE_JIT else intrinsic(typed)


source_tiles = _transform(SOURCE, _halves)
result_tiles = _transform(RESULT, _planes)
grad_tiles = _transform(GRAD, _halves)


@kernel
def _split_rows(lines, pitch, x, x_at, first, last, left, width, p_h, p_w):
    """Split the rows [first, last) of one picture of p_h x p_w elements into even and odd columns.

    Row `first` begins `lines`, column `left` begins each row, and each half has `width` elements;
    what lies outside the picture is zero.
    """
    for row in range(first, last):
        inside = 0 <= row < p_h
        halve(
            lines, 2 * (row - first) * pitch, pitch,
            x, x_at + row * p_w if inside else x_at, left, width, p_w if inside else 0,
        )  # fmt: skip


@kernel
def pack_tiles(x, packed, p, image, row, column, group, lines):
    """Transform all tiles of `group` that the block at (`image`, `row`, `column`) reads.

    `packed` becomes (plane, channel, image and row of tiles, tile).
    """
    size, rows = p.source_h * p.source_w, 2 * p.block_rows + 2
    top, left = 2 * row + p.read_base_h, 2 * column + p.read_base_w
    for channel in range(p.source_channels):
        for i in range(min(p.images, p.batch - image)):
            of = ((image + i) * p.groups + group) * p.source_channels + channel
            _split_rows(
                lines, p.line_pitch, x, of * size, top, top + rows, left, p.block_columns + 1,
                p.source_h, p.source_w,
            )  # fmt: skip
            for q in range(p.block_rows):
                source_tiles(
                    packed, channel * p.plane + (i * p.image_rows + q) * p.pitch,
                    4 * p.phase_plane, p.phase_plane,
                    lines, 4 * q * p.line_pitch, 2 * p.line_pitch, p.line_pitch, p.block_columns,
                )  # fmt: skip


@kernel
def pack_grad_tiles(dy, panel, at, p, image, row, column, group, first, lanes, lines):
    """Transform a unit's result channels into `panel`: (plane, unit, lane, position).

    The unit begins at `at`; behind the last position there are zeros.
    """
    plane = p.panel_plane
    whole = image + p.images <= p.batch and row + p.block_rows <= p.rows
    whole = whole and column + p.block_columns <= p.columns
    for k in range(16):
        for lane in range(lanes):
            start = at + k * plane + lane * p.panel_pitch
            panel[start + (p.positions if whole else 0) : start + p.panel_pitch] = 0
    size = p.result_h * p.result_w
    for lane in range(lanes):
        for i in range(min(p.images, p.batch - image)):
            of = ((image + i) * p.groups + group) * p.result_channels + first + lane
            _split_rows(
                lines, p.line_pitch, dy, of * size, 2 * row, 2 * (row + p.block_rows), 2 * column,
                p.block_columns, p.result_h, p.result_w,
            )  # fmt: skip
            for q in range(min(p.block_rows, p.rows - row)):
                grad_tiles(
                    panel, at + lane * p.panel_pitch + (i * p.image_rows + q) * p.pitch,
                    4 * plane, plane,
                    lines, 4 * q * p.line_pitch, 2 * p.line_pitch, p.line_pitch,
                    min(p.block_columns, p.columns - column),
                )  # fmt: skip


@kernel
def unpack_tiles(panel, plane, y, p, image, row, column, channel, lanes, bias, lines):
    """Turn a unit's products (plane, lane, position) into results, and add the bias."""
    channels = p.groups * p.result_channels
    tiles = min(p.block_columns, p.columns - column)
    width = min(2 * tiles, p.result_w - 2 * column)
    for lane in range(lanes):
        offset = bias[channel + lane]
        for i in range(min(p.images, p.batch - image)):
            of = ((image + i) * channels + channel + lane) * p.result_h
            for q in range(min(p.block_rows, p.rows - row)):
                at = lane * p.panel_pitch + (i * p.image_rows + q) * p.pitch
                result_tiles(
                    lines, 0, 2 * p.line_pitch, p.line_pitch, panel, at, 4 * plane, plane, tiles
                )
                for r in range(min(2, p.result_h - 2 * (row + q))):
                    start = (of + 2 * (row + q) + r) * p.result_w + 2 * column
                    even = 2 * r * p.line_pitch
                    merge(y, start, lines, even, even + p.line_pitch, width, offset)


@kernel(_nrt=True)  # it allocates
def pack_tile_weights(w, packed, p, tap_kernel, group, first, lanes, at):
    """Transform one unit's weights, ``G g G^T``, into (plane, channel, lane)."""
    channels = p.source_channels
    base = group * p.result_channels * channels * 9 + first * p.w_lane
    half = w.dtype.type(0.5)
    rows = np.empty((4, 3), w.dtype)
    for channel in range(channels):
        for lane in range(lanes):
            start = base + channel * p.w_channel + lane * p.w_lane
            for c in range(3):
                top, bottom = w[start + tap_kernel[c]], w[start + tap_kernel[6 + c]]
                both, middle = half * (top + bottom), half * w[start + tap_kernel[3 + c]]
                rows[0, c], rows[3, c] = top, bottom
                rows[1, c], rows[2, c] = both + middle, both - middle
            place = at + channel * lanes + lane
            step = channels * lanes
            for r in range(4):
                both, middle = half * (rows[r, 0] + rows[r, 2]), half * rows[r, 1]
                packed[place] = rows[r, 0]
                packed[place + step] = both + middle
                packed[place + 2 * step] = both - middle
                packed[place + 3 * step] = rows[r, 2]
                place += 4 * step


@kernel(_nrt=True)  # it allocates
def weight_from_tiles(dw, at, sums, first, step):
    """Write one 3x3 gradient, ``G^T s G``, of the 16 sums at ``sums[first + step * plane]``."""
    half = sums.dtype.type(0.5)
    columns = np.empty((3, 4), sums.dtype)
    for c in range(4):
        place = first + c * step
        s0, s1 = sums[place], half * sums[place + 4 * step]
        s2, s3 = half * sums[place + 8 * step], sums[place + 12 * step]
        columns[0, c], columns[1, c], columns[2, c] = s0 + (s1 + s2), s1 - s2, (s1 + s2) + s3
    for r in range(3):
        s1, s2 = half * columns[r, 1], half * columns[r, 2]
        dw[at + 3 * r] = columns[r, 0] + (s1 + s2)
        dw[at + 3 * r + 1] = s1 - s2
        dw[at + 3 * r + 2] = (s1 + s2) + columns[r, 3]
