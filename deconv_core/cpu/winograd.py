"""Winograd's tiles: F(2x2, 3x3) and F(3x3, 2x2), for each pair of phases of a pass.

Along one axis, m results of t = 5 - m taps g over four elements d are ``A^T ((G g) * (B^T d))``
with four products, not m t = 6. Along both, a *tile* of 4x4 source elements becomes 16 transformed
elements, one in each of 16 planes; each plane is multiplied by a plane of transformed weights, as a
convolution with a single tap (tile.py); and 16 products become m x m results, 16 instead of 36. A
pass with a stride is a dense one for each phase, so it has such planes for each phase; where a
phase has fewer taps, some of them vanish. A dilated pass is a dense one for each of its *folds*:
with a dilation of two, every second row and column. Folds of the rows are images of their own,
those of the columns lie side by side in a row of tiles. Where a pass has a single tap along a
column, its tiles are *flat*: four products of a row. The gradient to the weight is the same
identity read backwards. (S. Winograd, 1980; A. Lavin and S. Gray, 2015, arXiv:1509.09308.)

Here is what surrounds the products: each function stands in for its namesake in pack.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, types
from numba.extending import intrinsic

from .config import MACHINE
from .emit import Emitter
from .jit import kernel
from .phases import copy_row, deal_rows, weave_rows
from .rows import whole_vectors

_VECTOR_BYTES = MACHINE.vector_bytes
SOURCE = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B^T
RESULT = {  # A^T, by the number of results
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    3: ((1, 1, 1, 0), (0, 1, -1, 0), (0, 1, 1, -1)),
}
Matrix = tuple[tuple[int, ...], ...]


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


def _transform(matrix: Matrix, dealt: int = 4, flat: bool = False) -> Any:
    """Return an intrinsic for ``y = matrix @ x @ matrix.T``, for a row of `count` tiles.

    Element (r, c) of a tile's y is in ``y[y_at + r * y_row + c * y_column + tile]``, and x alike
    but for columns that are `dealt` to fewer parts: column c is the next tile's c - dealt. Whole
    vectors of x are read, and of y written. A `flat` tile is a single row, ``y = x @ matrix.T``.
    """
    down: Matrix = ((1,),) if flat else matrix

    def typed(
        typing: Any, y: Any, y_at: Any, y_row: Any, y_column: Any,
        x: Any, x_at: Any, x_row: Any, x_column: Any, count: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)

        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            y_, y_at_, y_row_, y_column_, x_, x_at_, x_row_, x_column_, count_ = values
            emit = Emitter(context, builder, x.dtype)
            source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)

            def place(start: Any, row: Any, column: Any, r: int, c: int) -> Any:
                return emit.step(emit.step(start, emit.times(row, r)), emit.times(column, c))

            reads = [
                [
                    emit.step(place(source, x_row_, x_column_, r, c % dealt), c // dealt)
                    for c in range(len(matrix[0]))
                ]
                for r in range(len(down[0]))
            ]

            def body(at: Any) -> None:
                tile = [[emit.load(emit.step(read, at)) for read in row] for row in reads]
                rows = [[_weighted(emit, factors, row) for factors in matrix] for row in tile]
                for r, factors in enumerate(down):
                    for c in range(len(matrix)):
                        value = _weighted(emit, factors, [row[c] for row in rows])
                        write = emit.step(place(target, y_row_, y_column_, r, c), at)
                        emit.store(value, write)

            whole_vectors(emit, count_, body)
            return context.get_dummy_value()

        return signature, generate

    def plain(
        y: np.ndarray, y_at: int, y_row: int, y_column: int,
        x: np.ndarray, x_at: int, x_row: int, x_column: int, count: int,
    ) -> None:  # fmt: skip
        tile = np.empty((len(down[0]), len(matrix[0]), count), x.dtype)
        for r in range(len(down[0])):
            for c in range(len(matrix[0])):
                start = x_at + r * x_row + c % dealt * x_column + c // dealt
                tile[r, c] = x[start : start + count]
        factors = np.array(down, x.dtype), np.array(matrix, x.dtype)
        result = np.einsum("ar,rct,bc->abt", factors[0], tile, factors[1])
        for r in range(len(down)):
            for c in range(len(matrix)):
                start = y_at + r * y_row + c * y_column
                y[start : start + count] = result[r, c]

    return plain if config.DISABLE_JIT else intrinsic(typed)


_GRAD = {tile: tuple(zip(*matrix, strict=True)) for tile, matrix in RESULT.items()}  # A
_source_2, _source_3 = _transform(SOURCE, 2), _transform(SOURCE, 3)
_source_flat_2, _source_flat_3 = _transform(SOURCE, 2, True), _transform(SOURCE, 3, True)
_result_2, _result_3 = _transform(RESULT[2]), _transform(RESULT[3])
_result_flat_2, _result_flat_3 = (_transform(RESULT[tile], flat=True) for tile in (2, 3))
_grad_2, _grad_3 = _transform(_GRAD[2]), _transform(_GRAD[3])
_grad_flat_2, _grad_flat_3 = (_transform(_GRAD[tile], flat=True) for tile in (2, 3))


@kernel(inline="always")
def _source(points, tile, y, y_at, y_row, y_column, x, x_at, x_row, x_column, count):
    """Transform a row of `count` tiles of the source."""
    if points == 1:
        if tile == 2:
            _source_flat_2(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)
        else:
            _source_flat_3(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)
    elif tile == 2:
        _source_2(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)
    else:
        _source_3(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)


@kernel(inline="always")
def _result(points, tile, y, y_at, y_row, y_column, x, x_at, x_row, x_column, count):
    """Transform the products of `count` tiles to results."""
    if points == 1:
        if tile == 2:
            _result_flat_2(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)
        else:
            _result_flat_3(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)
    elif tile == 2:
        _result_2(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)
    else:
        _result_3(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)


@kernel(inline="always")
def _grad(points, tile, y, y_at, y_row, y_column, x, x_at, x_row, x_column, count):
    """Transform a row of `count` tiles of the gradient."""
    if points == 1:
        if tile == 2:
            _grad_flat_2(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)
        else:
            _grad_flat_3(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)
    elif tile == 2:
        _grad_2(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)
    else:
        _grad_3(y, y_at, y_row, y_column, x, x_at, x_row, x_column, count)


@kernel(inline="always")
def _unfold(image, folds):
    """Return the image and the fold of an image of folds."""
    return (image, 0) if folds == 1 else divmod(image, folds)


@kernel
def _part(p, at, end):
    """Return what tiles from `at` to `end` have in the first one's picture, and where it is.

    They are the image, its fold, the first tile's row and column, the last one's row, and the end.
    Of rows that are longer than a block, it is what they have in the first one's row.
    """
    image, rest = divmod(at, p.rows * p.columns)
    row, column = divmod(rest, p.columns)
    until = min(end, at - rest + p.rows * p.columns)
    if p.positions <= p.columns:
        until = min(until, at - column + p.columns)
    image, fold = _unfold(image, p.folds_h)
    return image, fold, row, column, (rest + until - at - 1) // p.columns, until


@kernel
def pack_tiles(x, packed, p, phase, phases, start, group, first, last, lines):
    """Transform the block of tiles that begins with tile `start`, of `phases` row phases.

    They are those from `phase` on. `packed` becomes (row phase and product, column phase and
    product, channel, tile) of the source channels from `first` to `last`, with zeros behind the
    last tile. While a channel is packed, the next one's rows are called for.
    """
    points, tile, tile_h, line = p.points_h, p.tile, p.tile_h, p.line_pitch
    size, folds, planes = p.source_h * p.source_w, p.folds_w, p.folds_w * p.phases_w // 4
    columns, parts = p.columns // folds, p.read_stride_w * folds
    step_h, step_w = p.read_stride_h * p.folds_h // tile_h, parts // tile
    across, pitch = p.phases_w * p.phase_plane, parts * line
    apart = columns if folds > 1 else 4 * p.phase_plane  # of the phases, or of the folds
    end = min(start + p.positions, p.batch * p.rows * p.columns)
    for channel in range(first, last):
        for row_phase in range(phases):
            at, place = start, row_phase * points * p.phases_w * p.phase_plane
            while at < end:
                image, fold, row, column, bottom, until = _part(p, at, end)
                left, width = (column, min(columns, until - at)) if row == bottom else (0, columns)
                picture = ((image * p.groups + group) * p.source_channels + channel) * size
                top = step_h * tile_h * row + p.read_base_h + phase + row_phase + fold
                begin, rows = parts * left + p.read_base_w, tile_h * (bottom - row) + points
                deal_rows(
                    parts, lines, 0, pitch, line,
                    x, picture, p.source_h, p.source_w, top, step_h, begin, rows, width + 1,
                    size if channel + 1 < p.source_channels else 0,
                )  # fmt: skip
                deep, line_at = 0, column - left
                while at < until:
                    count = min(columns - column, until - at)
                    for plane in range(planes):
                        to = place + (channel - first) * p.plane + plane * apart + at - start
                        _source(
                            points, tile, packed, to, across, p.phase_plane,
                            lines, line_at + plane * line, pitch, step_w * line, count,
                        )  # fmt: skip
                    at, column, deep = at + count * folds, 0, deep + 1
                    line_at = deep * tile_h * pitch
        if end - start < p.positions:
            for k in range(phases * points * p.phases_w):
                row = k * p.phase_plane + (channel - first) * p.plane
                packed[row + end - start : row + p.positions] = 0


@kernel
def pack_grad_tiles(dy, panel, p, start, group, first, lanes, lines):
    """Transform some of the gradient's channels, `lanes` from `first` on: (plane, lane, tile)."""
    points, tile, tile_h, line = p.points_h, p.tile, p.tile_h, p.line_pitch
    plane, folds = p.panel_plane, p.folds_w
    columns, parts = p.columns // folds, tile * folds
    size, pitch, apart = p.result_h * p.result_w, parts * line, folds * line
    end = min(start + p.positions, p.batch * p.rows * p.columns)
    for lane in range(lanes):
        at = start
        while at < end:
            image, fold, row, column, bottom, until = _part(p, at, end)
            left, width = (column, min(columns, until - at)) if row == bottom else (0, columns)
            picture = ((image * p.groups + group) * p.result_channels + first + lane) * size
            top, rows = p.folds_h * tile_h * row + fold, tile_h * (bottom - row + 1)
            deal_rows(
                parts, lines, 0, pitch, line,
                dy, picture, p.result_h, p.result_w, top, p.folds_h, parts * left, rows, width,
                size if lane + 1 < lanes else 0,
            )  # fmt: skip
            deep, line_at = 0, column - left
            while at < until:
                count = min(columns - column, until - at)
                for fold in range(folds):
                    to = lane * p.panel_pitch + at - start + fold * columns
                    source = line_at + fold * line
                    _grad(
                        points, tile, panel, to, 4 * plane, plane,
                        lines, source, pitch, apart, count,
                    )  # fmt: skip
                at, column, deep = at + count * folds, 0, deep + 1
                line_at = deep * tile_h * pitch


@kernel
def unpack_tiles(panel, plane, y, p, start, channel, lanes, phase_h, bias, lines):
    """Turn a unit's products (column phase and product, lane, tile) into results, with bias.

    The panel holds the row products of row phase `phase_h`, `plane` elements apart. As many tiles
    as fit a line are transformed and woven together, wherever rows of tiles end, and their rows are
    copied to their places; those of a single row of tiles are woven there. While a lane is written,
    the next one's results are called for.
    """
    channels, points, tile = p.groups * p.result_channels, p.points_h, p.tile
    line, tile_h, limit = p.line_pitch, p.tile_h, p.result_w
    step_h, step_w = p.write_stride_h * p.folds_h // points, p.write_stride_w * p.folds_w // 4
    columns, lane_pitch, across = p.columns, p.panel_pitch, p.write_stride_w * plane
    parts, end = tile * step_w, min(start + p.positions, p.batch * p.rows * columns)
    pitch, woven, wide = parts * line, parts * line * tile_h, columns // p.folds_w
    folded = p.folds_w > 1  # a row of tiles at a time, and in it one fold after the other
    apart, together = (wide, columns) if folded else (4 * plane, line)
    width, top = _VECTOR_BYTES // y.itemsize, phase_h + p.write_base_h
    size = p.result_h * limit  # of a picture
    for lane in range(lanes):
        at, offset, ahead = start, bias[channel + lane], size if lane + 1 < lanes else 0
        tiles, column = divmod(at, columns)
        while at < end:
            first, until = at, min(end, at + together)
            length = wide if folded else until - at
            for phase in range(step_w):
                source = phase * apart + lane * lane_pitch + at - start
                _result(
                    points, tile, lines, phase * line, pitch, step_w * line,
                    panel, source, across, plane, length,
                )  # fmt: skip
            if columns - column >= until - at:  # of one row of tiles: straight to its place
                image, row = divmod(tiles, p.rows)
                image, fold = _unfold(image, p.folds_h)
                weave_rows(
                    parts, y, (image * channels + channel + lane) * size,
                    p.result_h, limit, step_h * tile_h * row + top + fold, step_h,
                    parts * column + p.write_base_w, lines, 0, pitch, line, tile_h, length, offset,
                    ahead,
                )  # fmt: skip
                at, column = until, column + until - at
                if column == columns:
                    column, tiles = 0, tiles + 1
                continue
            length = (length + width - 1) // width * width
            weave_rows(
                parts, lines, woven, tile_h, pitch, 0, 1, 0,
                lines, 0, pitch, line, tile_h, length, offset, 0,
            )  # fmt: skip
            while at < until:
                count = min(columns - column, until - at)
                image, row = divmod(tiles, p.rows)
                image, fold = _unfold(image, p.folds_h)
                left = parts * column + p.write_base_w
                begin, stop = max(0, left), min(limit, left + parts * count)
                source = woven + parts * (at - first) + begin - left
                h = step_h * tile_h * row + top + fold
                picture = (image * channels + channel + lane) * size
                for _ in range(tile_h):
                    if 0 <= h < p.result_h and begin < stop:
                        copy_row(y, picture + h * limit + begin, lines, source, stop - begin, ahead)
                    source, h = source + pitch, h + step_h
                at, column = at + count, column + count
                if column == columns:
                    column, tiles = 0, tiles + 1
