"""Winograd's tiles: F(2x2, 3x3) and F(3x3, 2x2), for each pair of phases of a pass.

Along one axis, m results of t = 5 - m taps g over four elements d are ``A^T ((G g) * (B^T d))``
with four products, not m t = 6. Along both, a *tile* of 4x4 source elements becomes 16 transformed
elements, one in each of 16 planes; each plane, a matrix of tiles by channels, is multiplied by one
of transformed weights (tiles/cross.py); and 16 products become m x m results, 16 instead of 36. A
pass with a stride is a dense one for each phase, so it has such planes for each phase; where a
phase has fewer taps, some of them vanish. A dilated pass is a dense one for each of its *folds*:
with a dilation of two, every second row and column. Folds of the rows are images of their own,
those of the columns lie side by side in a row of tiles. Where a pass has a single tap along a
column, its tiles are *flat*: four products of a row. The gradient to the weight is the same
identity read backwards. (S. Winograd, 1980; A. Lavin and S. Gray, 2015, arXiv:1509.09308.)

Here is what surrounds the products. A vector holds channels of one pixel: rows are transposed to
lines of such vectors on the way in, and back on the way out. So no vector has anything but whole
channels in it, however short rows of tiles are, and strides and dilations are mere distances.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..config import MACHINE
from ..runtime.jit import kernel
from ..runtime.launch import linked
from ..vectors.emit import Emitter
from ..vectors.transpose import turn, turn_back

_VECTOR_BYTES, _VECTORS = MACHINE.vector_bytes, MACHINE.spread[0][1]
_AHEAD = 4  # vectors that a single row is called for in advance; of several, it is the next one
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


def _transform(matrix: Matrix, flat: bool = False, shifted: bool = False) -> Any:
    """Return an intrinsic for ``y = matrix @ x @ matrix.T``, for `count` tiles in a row.

    Element (r, c) of tile t's y is the vector at ``y[y_at + r * y_row + c * y_column + t *
    y_step]``, and x alike. A `flat` tile is a single row, ``y = x @ matrix.T``. The vector at
    ``y[0]`` is added to results that are `shifted`.
    """
    down: Matrix = ((1,),) if flat else matrix

    def typed(
        typing: Any, y: Any, y_at: Any, y_row: Any, y_column: Any, y_step: Any,
        x: Any, x_at: Any, x_row: Any, x_column: Any, x_step: Any, count: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(
            y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count
        )

        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            y_, y_at_, y_row_, y_column_, y_step_, x_, x_at_, x_row_, x_column_, x_step_, count_ = (
                values
            )
            emit = Emitter(context, builder, x.dtype)
            source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
            shift = emit.load(emit.pointer(y, y_, 0)) if shifted else None

            def place(start: Any, row: Any, column: Any, r: int, c: int) -> Any:
                return emit.step(emit.step(start, emit.times(row, r)), emit.times(column, c))

            with cgutils.for_range(builder, count_) as tiles:
                read = emit.step(source, builder.mul(tiles.index, x_step_))
                write = emit.step(target, builder.mul(tiles.index, y_step_))
                tile = [
                    [emit.load(place(read, x_row_, x_column_, r, c)) for c in range(len(matrix[0]))]
                    for r in range(len(down[0]))
                ]
                rows = [[_weighted(emit, factors, row) for factors in matrix] for row in tile]
                for r, factors in enumerate(down):
                    for c in range(len(matrix)):
                        value = _weighted(emit, factors, [row[c] for row in rows])
                        if shifted:
                            value = emit.add(value, shift)
                        emit.store(value, place(write, y_row_, y_column_, r, c))
            return context.get_dummy_value()

        return signature, generate

    def plain(
        y: np.ndarray, y_at: int, y_row: int, y_column: int, y_step: int,
        x: np.ndarray, x_at: int, x_row: int, x_column: int, x_step: int, count: int,
    ) -> None:  # fmt: skip
        width = _VECTOR_BYTES // x.itemsize
        factors = np.array(down, x.dtype), np.array(matrix, x.dtype)
        shift = y[:width].copy() if shifted else 0
        for t in range(count):
            tile = np.empty((len(down[0]), len(matrix[0]), width), x.dtype)
            for r, c in np.ndindex(*tile.shape[:2]):
                start = x_at + r * x_row + c * x_column + t * x_step
                tile[r, c] = x[start : start + width]
            result = np.einsum("ar,rcv,bc->abv", factors[0], tile, factors[1]) + shift
            for r, c in np.ndindex(*result.shape[:2]):
                start = y_at + r * y_row + c * y_column + t * y_step
                y[start : start + width] = result[r, c]

    return plain if config.DISABLE_JIT else intrinsic(typed)


_GRAD = {tile: tuple(zip(*matrix, strict=True)) for tile, matrix in RESULT.items()}  # A
_source, _source_flat = _transform(SOURCE), _transform(SOURCE, flat=True)
_result_2, _result_3 = (_transform(RESULT[tile], shifted=True) for tile in (2, 3))
_result_flat_2, _result_flat_3 = (_transform(RESULT[tile], True, True) for tile in (2, 3))
_grad_2, _grad_3 = _transform(_GRAD[2]), _transform(_GRAD[3])
_grad_flat_2, _grad_flat_3 = (_transform(_GRAD[tile], flat=True) for tile in (2, 3))


@kernel(inline="always")
def _sources(points, y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count):
    """Transform `count` tiles of the source."""
    if points == 1:
        _source_flat(y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count)
    else:
        _source(y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count)


@kernel(inline="always")
def _results(
    points, tile, y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count
):  # fmt: skip
    """Transform the products of `count` tiles to results, and add the vector at ``y[0]``."""
    if points == 1:
        if tile == 2:
            _result_flat_2(
                y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count
            )
        else:
            _result_flat_3(
                y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count
            )
    elif tile == 2:
        _result_2(y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count)
    else:
        _result_3(y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count)


@kernel(inline="always")
def _grads(
    points, tile, y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count
):  # fmt: skip
    """Transform `count` tiles of the gradient."""
    if points == 1:
        if tile == 2:
            _grad_flat_2(y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count)
        else:
            _grad_flat_3(y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count)
    elif tile == 2:
        _grad_2(y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count)
    else:
        _grad_3(y, y_at, y_row, y_column, y_step, x, x_at, x_row, x_column, x_step, count)


@kernel(inline="always")
def _unfold(image, folds):
    """Return the image and the fold of an image of folds."""
    return (image, 0) if folds == 1 else divmod(image, folds)


@kernel
def _part(p, at, end):
    """Return what tiles from `at` to `end` have in the first one's picture, and where it is.

    They are the image, its fold, the first tile's row and column, how many rows follow that one,
    the first column of all rows and how many there are, and the end. Of rows that are longer than a
    block, it is what they have in the first one's row.
    """
    image, rest = divmod(at, p.rows * p.columns)
    row, column = divmod(rest, p.columns)
    until = min(end, at - rest + p.rows * p.columns)
    if p.positions <= p.columns:
        until = min(until, at - column + p.columns)
    image, fold = _unfold(image, p.folds_h)
    more = (rest + until - at - 1) // p.columns - row
    if more == 0 and p.folds_w == 1:
        return image, fold, row, column, more, column, until - at, until
    return image, fold, row, column, more, 0, p.columns // p.folds_w, until


@linked
@kernel
def _turn_rows(lines, x, picture, height, limit, top, step, left, rows, count, channels):
    """Transpose rows of some channels of a picture to lines: a vector for each of `count` pixels.

    They are `rows` rows, from row `top` and column `left` on, `step` apart, with zeros around the
    picture. While a row is transposed, the next one is called for.
    """
    width = _VECTOR_BYTES // x.itemsize
    begin = min(count, max(0, -left))
    end = max(begin, min(count, limit - left))
    for r in range(rows):
        h = top + r * step
        inside, start = 0 <= h < height, picture + h * limit + left + begin
        turn(
            lines, r * count * width, begin, count - (end if inside else begin),
            x, start, height * limit, channels, end - begin if inside else 0,
            step * limit if height > 1 else _AHEAD * width,
        )  # fmt: skip


@linked
@kernel
def pack_tiles(
    x, packed, to, tile_pitch, plane, p, start, group, channel, channels, lines
):  # fmt: skip
    """Transform a vector of source channels of the block of tiles that begins with tile `start`.

    They are `channels` channels of `group`, from `channel` on. The vector of (row phase and
    product, column phase and product) k and tile t goes to ``packed[to + k * plane + t *
    tile_pitch]``.
    """
    points, tile, tile_h, width = p.points_h, p.tile, p.tile_h, _VECTOR_BYTES // x.itemsize
    size, planes, parts = p.source_h * p.source_w, p.phases_w // 4, p.read_stride_w * p.folds_w
    columns, each = p.columns // p.folds_w, parts // tile
    step_h, across = p.read_stride_h * p.folds_h // tile_h, p.phases_w * plane
    end = min(start + p.positions, p.batch * p.rows * p.columns)
    at = start
    while at < end:
        image, fold, row, column, more, left, wide, until = _part(p, at, end)
        count = parts * (wide - 1) + 3 * each + max(planes, p.folds_w)
        picture = ((image * p.groups + group) * p.source_channels + channel) * size
        top, begin = step_h * tile_h * row + p.read_base_h + fold, parts * left
        for row_phase in range(p.phases_h // points):
            _turn_rows(
                lines, x, picture, p.source_h, p.source_w, top + row_phase, step_h,
                begin + p.read_base_w, tile_h * more + points, count, channels,
            )  # fmt: skip
            to_phase = to + row_phase * points * across
            now, place = at, column
            while now < until:
                deep = (now - at + column) // p.columns
                many = min(p.columns - place, until - now)
                source = deep * tile_h * count
                if p.folds_w == 1:
                    for b in range(planes):
                        _sources(
                            points, packed, to_phase + 4 * b * plane + (now - start) * tile_pitch,
                            across, plane, tile_pitch, lines,
                            (source + parts * (place - left) + b) * width, count * width,
                            each * width, parts * width, many,
                        )  # fmt: skip
                else:
                    for f in range(p.folds_w):
                        _sources(
                            points, packed, to_phase + (now - start + f * columns) * tile_pitch,
                            across, plane, tile_pitch, lines, (source + f) * width, count * width,
                            each * width, parts * width, columns,
                        )  # fmt: skip
                now, place = now + many, 0
        at = until


@linked
@kernel
def pack_grad_tiles(dy, packed, to, tile_pitch, plane, p, start, group, channel, channels, lines):
    """Transform a vector of the gradient's channels, as `pack_tiles` does the source's."""
    points, tile, tile_h, width = p.points_h, p.tile, p.tile_h, _VECTOR_BYTES // dy.itemsize
    size, folds = p.result_h * p.result_w, p.folds_w
    columns, parts = p.columns // folds, tile * folds
    end = min(start + p.positions, p.batch * p.rows * p.columns)
    at = start
    while at < end:
        image, fold, row, column, more, left, wide, until = _part(p, at, end)
        picture = ((image * p.groups + group) * p.result_channels + channel) * size
        _turn_rows(
            lines, dy, picture, p.result_h, p.result_w, p.folds_h * tile_h * row + fold, p.folds_h,
            parts * left, tile_h * (more + 1), parts * wide, channels,
        )  # fmt: skip
        now, place = at, column
        while now < until:
            many = min(columns - place, until - now) if folds == 1 else columns
            source = (now - at + column) // p.columns * tile_h * parts * wide + parts * (
                place - left
            )
            for f in range(folds):
                _grads(
                    points, tile, packed, to + (now - start + f * columns) * tile_pitch,
                    4 * plane, plane, tile_pitch, lines, (source + f) * width,
                    parts * wide * width, folds * width, parts * width, many,
                )  # fmt: skip
            now, place = now + many * folds, 0
        at = until


@linked
@kernel
def unpack_tiles(
    sums, at, y, p, start, channel, channels, phase_h, bias, lines, relu, gate
):  # fmt: skip
    """Turn the sums of a vector of result channels, from `channel` on, into results, with bias.

    The sum of column phase and product k and row product r of row phase `phase_h`, for tile t, is
    at ``sums[at + (r * phases + k) * plane + t * most]``, as `cross` leaves it.
    """
    points, tile, tile_h, width = p.points_h, p.tile, p.tile_h, _VECTOR_BYTES // y.itemsize
    plane, block, each, total = (
        p.panel_plane,
        _VECTORS * width,
        p.write_stride_w // 4,
        p.groups * p.result_channels,
    )
    folds, columns = p.folds_w, p.columns // p.folds_w
    step_h, step_w = p.write_stride_h * p.folds_h // points, each * folds
    parts, size, across = tile * step_w, p.result_h * p.result_w, p.write_stride_w * plane
    end = min(start + p.positions, p.batch * p.rows * p.columns)
    ahead = step_h * p.result_w if p.result_h > 1 else _AHEAD * width
    gated = min(1, gate.size)
    for lane in range(channels):
        lines[lane] = bias[channel + lane]
    now = start
    while now < end:
        tiles, place = divmod(now, p.columns)
        image, row = divmod(tiles, p.rows)
        image, fold = _unfold(image, p.folds_h)
        many = min(p.columns - place, end - now)
        wide = columns if folds > 1 else many
        pitch = parts * wide
        for part in range(step_w):
            source = at + (now - start) * block
            source += part * columns * block if folds > 1 else 4 * part * plane
            _results(
                points, tile, lines, (1 + part) * width, pitch * width, step_w * width,
                parts * width, sums, source, across, plane, block, wide,
            )  # fmt: skip
        left = parts * (place if folds == 1 else 0) + p.write_base_w
        begin, stop = max(0, left), min(p.result_w, left + pitch)
        for r in range(tile_h):
            h = step_h * (tile_h * row + r) + phase_h + p.write_base_h + fold
            if 0 <= h < p.result_h and begin < stop:
                turn_back(
                    y, (image * total + channel) * size + h * p.result_w + begin, size, channels,
                    lines, (1 + r * pitch + begin - left) * width, stop - begin, ahead,
                    relu, gate, gated,
                )  # fmt: skip
        now += many
