"""The weights of Winograd's tiles: transformed before the products, and gradients turned back.

``G g G^T`` makes the 16 factors of a tile's products out of the taps g of a pair of phases
(transforms.py); the gradient to g is ``G^T s G`` of the 16 sums s. Taps that a phase lacks are
zeros, and products that vanish with them are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from ..config import LINE, MACHINE
from ..runtime.jit import kernel
from ..runtime.launch import linked
from ..vectors.emit import INDEX, Emitter
from ..vectors.rows import prefetch
from ..vectors.transpose import turn

_VECTOR_BYTES = MACHINE.vector_bytes
_RUN = 128  # weights of a lane that are transposed together, about
_G = {  # by the number of taps
    2: ((1, 0), (0.5, 0.5), (0.5, -0.5), (0, 1)),
    3: ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
}
_NEEDED = 2, 10  # products that no missing tap makes vanish: of flat tiles, of others


def _factors(emit: Emitter, taps: list[Any]) -> list[Any]:
    """Return ``G g`` of two or three taps: the first, both their half sums, and the last."""
    half = emit.constant(0.5)
    outer = emit.add(taps[0], taps[2]) if len(taps) == 3 else taps[0]
    both, one = emit.multiply(half, outer), emit.multiply(half, taps[1])
    return [taps[0], emit.add(both, one), emit.subtract(both, one), taps[-1]]


def _lift(count: int, flat: bool = False) -> Any:
    """Return an intrinsic for ``G g G^T``, for `count` x `count` taps of a vector of lanes.

    The taps of a `flat` tile are a single row, ``g G^T``.
    Tap (r, c) is the vector at ``x[x_at + taps[tap_at + 3 * r + c]]``. Product k goes to the place
    ``y_at + places[place_at + 2 * k] + step * places[place_at + 2 * k + 1]``, a whole vector. The
    last one that is written is one that every pair needs.
    """
    order = sorted(
        range(4 if flat else 16), key=lambda k: k == (_NEEDED[0] if flat else _NEEDED[1])
    )

    def typed(
        typing: Any, y: Any, y_at: Any, places: Any, place_at: Any, step: Any,
        x: Any, x_at: Any, taps: Any, tap_at: Any,
    ) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
        signature = types.void(y, y_at, places, place_at, step, x, x_at, taps, tap_at)

        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            y_, y_at_, places_, place_at_, step_, x_, x_at_, taps_, tap_at_ = values
            emit = Emitter(context, builder, x.dtype)
            target, source = emit.pointer(y, y_, y_at_), emit.pointer(x, x_, x_at_)
            table, entries = (
                emit.pointer(taps, taps_, tap_at_),
                emit.pointer(places, places_, place_at_),
            )
            g = [
                [
                    emit.load(emit.step(source, builder.load(emit.step(table, 3 * r + c))))
                    for r in range(1 if flat else count)
                ]
                for c in range(count)
            ]
            columns = g if flat else [_factors(emit, column) for column in g]
            points = len(columns[0])
            rows = [_factors(emit, [column[r] for column in columns]) for r in range(points)]
            for k in order:
                start, pitch = (builder.load(emit.step(entries, 2 * k + j)) for j in range(2))
                place = builder.add(start, builder.mul(step_, pitch))
                emit.store(rows[k // 4][k % 4], emit.step(target, place))
            return context.get_dummy_value()

        return signature, generate

    def plain(
        y: np.ndarray, y_at: int, places: np.ndarray, place_at: int, step: int,
        x: np.ndarray, x_at: int, taps: np.ndarray, tap_at: int,
    ) -> None:  # fmt: skip
        g, width = np.array(_G[count], x.dtype), _VECTOR_BYTES // x.itemsize
        starts = x_at + taps[tap_at : tap_at + 9].reshape(3, 3)[:count, :count]
        tile = x[starts[..., None] + np.arange(width)]
        down = g[:1, :1] if flat else g
        rows = np.einsum("ir,rcv,jc->ijv", down, tile[: 1 if flat else count], g)
        for k in order:
            place = y_at + places[place_at + 2 * k] + step * places[place_at + 2 * k + 1]
            y[place : place + width] = rows.reshape(-1, width)[k]

    return plain if config.DISABLE_JIT else intrinsic(typed)


_lift_2, _lift_3, _lift_flat_2, _lift_flat_3 = _lift(2), _lift(3), _lift(2, True), _lift(3, True)


@kernel(inline="always")
def _factors_of(p, y, y_at, places, place_at, step, x, x_at, taps, tap_at):
    """Transform the taps of one pair of phases."""
    if p.points_h == 1:
        if p.tile == 2:
            _lift_flat_3(y, y_at, places, place_at, step, x, x_at, taps, tap_at)
        else:
            _lift_flat_2(y, y_at, places, place_at, step, x, x_at, taps, tap_at)
    elif p.tile == 2:
        _lift_3(y, y_at, places, place_at, step, x, x_at, taps, tap_at)
    else:
        _lift_2(y, y_at, places, place_at, step, x, x_at, taps, tap_at)


@kernel(_nrt=True)  # it allocates
def _places(p, pairs, codes, starts, size, pitch):
    """Return where the weights of each product of each pair go: place, step of channels.

    Those of a tap have `size` elements, those of a channel `pitch`. Products that a pair does not
    need go where its last one is written over them. Of pairs without taps all are nowhere: -1.
    """
    places = np.full(2 * 16 * pairs, -1)
    for tap in range(starts[-1]):
        places[2 * codes[tap]], places[2 * codes[tap] + 1] = tap * size, pitch
    last = 2 * (_NEEDED[0] if p.points_h == 1 else _NEEDED[1])
    for pair in range(0, 32 * pairs, 32):
        for k in range(pair, pair + 8 * p.points_h, 2):
            if places[k] < 0:
                places[k], places[k + 1] = places[pair + last], places[pair + last + 1]
    return places


@linked
@kernel(_nrt=True)  # it allocates
def pack_tile_weights(
    w, packed, at, p, codes, starts, corners, group, first, lanes, vectors, channel, channels
):  # fmt: skip
    """Transform weights of one unit, ``G g G^T``, into (product, tap, channel, lane).

    They are those of `channels` source channels, from `channel` on, and of `lanes` result channels,
    from `first` on: whole `vectors` of them.

    A tap is one product of one pair: ``codes[tap] = 16 * pair + product``. A pair's `corners` are
    the positions of its 3x3 taps in the kernel, -1 where it has none.
    """
    kernel, width = p.kernel, _VECTOR_BYTES // w.itemsize
    together = max(1, min(channels, _RUN // kernel))
    pitch = vectors * width
    places = _places(
        p, corners.size // 9, codes, starts, channels * pitch + LINE // w.itemsize, pitch
    )
    none = together * kernel + width - 1  # the line of zeros, behind what is written in vain
    size = (none + 1) * width  # of a vector of lanes
    lines, taps = np.zeros(vectors * size, w.dtype), np.empty(together * corners.size, np.int64)
    for i in range(taps.size):
        c, corner = i // corners.size, corners[i % corners.size]
        taps[i] = (c * kernel + corner if corner >= 0 else none) * width
    base = group * p.result_channels * p.source_channels * kernel + channel * p.w_channel
    for c in range(0, channels, together):
        count = min(together, channels - c)
        for v in range((lanes + width - 1) // width):
            here = min(width, lanes - v * width)
            source = base + c * p.w_channel + (first + v * width) * p.w_lane
            if p.w_channel == kernel:
                turn(
                    lines, v * size, 0, 0, w, source, p.w_lane, here, count * kernel,
                    together * kernel,
                )  # fmt: skip
                continue
            for i in range(count):
                prefetch(w, source + (i + 3) * p.w_channel, here * kernel)
                turn(
                    lines, v * size + i * kernel * width, 0, 0, w, source + i * p.w_channel,
                    p.w_lane, here, kernel, 0,
                )  # fmt: skip
        for i in range(count):
            for pair in range(corners.size // 9):
                for v in range(vectors if places[32 * pair] >= 0 else 0):
                    _factors_of(
                        p, packed, at + v * width, places, 32 * pair, c + i,
                        lines, v * size, taps, i * corners.size + 9 * pair,
                    )  # fmt: skip


def _sums(emit: Emitter, products: list[Any], count: int) -> list[Any]:
    """Return ``G^T s`` of four sums, for `count` taps."""
    half = emit.constant(0.5)
    one, two = emit.multiply(half, products[1]), emit.multiply(half, products[2])
    both = emit.add(one, two)
    taps = [emit.add(products[0], both), emit.subtract(one, two), both][:count]
    return [*taps[:-1], emit.add(taps[-1], products[3])]


def _lower(count: int, flat: bool = False) -> Any:
    """Return an intrinsic for ``G^T s G``, for a vector of source channels at once.

    The sums of a `flat` tile are a single row, ``s G``.
    Sum k is the vector at ``x[x_at + places[place_at + k]]``, or zero if that is negative. Tap
    (r, c) goes to line ``lines[line_at + 3 * r + c]`` of `y`, or nowhere if that is negative.
    """

    def typed(
        typing: Any, y: Any, lines: Any, line_at: Any, x: Any, x_at: Any, places: Any, place_at: Any
    ) -> tuple[Any, Callable[..., Any]]:
        signature = types.void(y, lines, line_at, x, x_at, places, place_at)

        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            y_, lines_, line_at_, x_, x_at_, places_, place_at_ = values
            emit, zero = Emitter(context, builder, x.dtype), ir.Constant(INDEX, 0)
            target, source = emit.pointer(y, y_, 0), emit.pointer(x, x_, x_at_)
            table, order = (
                emit.pointer(places, places_, place_at_),
                emit.pointer(lines, lines_, line_at_),
            )
            sums = []
            for k in range(4 if flat else 16):
                place = builder.load(emit.step(table, k))
                there = builder.icmp_signed(">=", place, zero)
                value = emit.load(emit.step(source, builder.select(there, place, zero)))
                sums.append(builder.select(there, value, emit.zero))
            columns = [sums[c::4] if flat else _sums(emit, sums[c::4], count) for c in range(4)]
            high = len(columns[0])
            rows = [_sums(emit, [column[r] for column in columns], count) for r in range(high)]
            for r in range(high):
                for c in range(count):
                    line = builder.load(emit.step(order, 3 * r + c))
                    with builder.if_then(builder.icmp_signed(">=", line, zero)):
                        emit.store(rows[r][c], emit.step(target, emit.times(line, emit.width)))
            return context.get_dummy_value()

        return signature, generate

    def plain(
        y: np.ndarray, lines: np.ndarray, line_at: int,
        x: np.ndarray, x_at: int, places: np.ndarray, place_at: int,
    ) -> None:  # fmt: skip
        g, width = np.array(_G[count], x.dtype), _VECTOR_BYTES // x.itemsize
        sums = np.zeros((16, width), x.dtype)
        for k, place in enumerate(places[place_at : place_at + 16]):
            if place >= 0:
                sums[k] = x[x_at + place : x_at + place + width]
        down = g[:1, :1] if flat else g
        square = sums.reshape(4, 4, width)[: len(down)]
        taps = np.einsum("ir,ijv,jc->rcv", down, square, g)
        for r in range(taps.shape[0]):
            for c in range(count):
                line = lines[line_at + 3 * r + c]
                if line >= 0:
                    y[line * width : (line + 1) * width] = taps[r, c]

    return plain if config.DISABLE_JIT else intrinsic(typed)


_lower_2, _lower_3 = _lower(2), _lower(3)
_lower_flat_2, _lower_flat_3 = _lower(2, True), _lower(3, True)


@linked
@kernel
def taps_from_tiles(p, lines, sums, at, places, corners):
    """Turn the sums of a vector of source channels into taps, ``G^T s G``: a line for each.

    Product k of a pair of phases is at ``sums[at + places[16 * pair + k]]``, or zero where that is
    negative. A pair's `corners` are the positions of its 3x3 taps in the kernel, -1 where it has
    none.
    """
    for pair in range(corners.size // 9):
        if p.points_h == 1:
            if p.tile == 2:
                _lower_flat_3(lines, corners, 9 * pair, sums, at, places, 16 * pair)
            else:
                _lower_flat_2(lines, corners, 9 * pair, sums, at, places, 16 * pair)
        elif p.tile == 2:
            _lower_3(lines, corners, 9 * pair, sums, at, places, 16 * pair)
        else:
            _lower_2(lines, corners, 9 * pair, sums, at, places, 16 * pair)
