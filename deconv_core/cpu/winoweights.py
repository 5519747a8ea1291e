"""The weights of Winograd's tiles: transformed before the products, and gradients turned back.

``G g G^T`` makes the 16 factors of a tile's products out of the taps g of a pair of phases
(winograd.py); the gradient to g is ``G^T s G`` of the 16 sums s. Taps that a phase lacks are zeros,
and products that vanish with them are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from .config import MACHINE
from .emit import INDEX, Emitter
from .jit import kernel
from .rows import prefetch
from .transpose import evenly, transpose, write_lanes

_VECTOR_BYTES = MACHINE.vector_bytes
_G = {  # by the number of taps
    2: ((1, 0), (0.5, 0.5), (0.5, -0.5), (0, 1)),
    3: ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
}


def _factors(emit: Emitter, taps: list[Any]) -> list[Any]:
    """Return ``G g`` of two or three taps: the first, both their half sums, and the last."""
    half = emit.constant(0.5)
    outer = emit.add(taps[0], taps[2]) if len(taps) == 3 else taps[0]
    both, one = emit.multiply(half, outer), emit.multiply(half, taps[1])
    return [taps[0], emit.add(both, one), emit.subtract(both, one), taps[-1]]


def _lift(count: int, flat: bool = False) -> Any:
    """Return an intrinsic for ``G g G^T``, for `count` x `count` taps of some lanes at once.

    The taps of a `flat` tile are a single row, ``g G^T``.
    Tap (r, c) of lane i is ``x[taps[tap_at + 3 * r + c] + i]``. Product k goes to the place that
    the three elements of `places` from ``place_at + 3 * k`` on tell with `step` (transpose.py), and
    nowhere if the first is negative.
    """

    def typed(
        typing: Any, y: Any, y_at: Any, places: Any, place_at: Any, step: Any,
        x: Any, taps: Any, tap_at: Any, lanes: Any, spill: Any,
    ) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
        signature = types.void(y, y_at, places, place_at, step, x, taps, tap_at, lanes, spill)

        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            y_, y_at_, places_, place_at_, step_, x_, taps_, tap_at_, lanes_, spill_ = values
            emit = Emitter(context, builder, x.dtype)
            target, source = emit.pointer(y, y_, y_at_), emit.pointer(x, x_, 0)
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
            for k in range(4 * points):
                entry = emit.step(entries, 3 * k)
                needed = builder.icmp_signed(">=", builder.load(entry), ir.Constant(INDEX, 0))
                with builder.if_then(needed):
                    write_lanes(emit, rows[k // 4][k % 4], target, entry, step_, lanes_, spill_)
            return context.get_dummy_value()

        return signature, generate

    def plain(
        y: np.ndarray, y_at: int, places: np.ndarray, place_at: int, step: int,
        x: np.ndarray, taps: np.ndarray, tap_at: int, lanes: int, spill: int,
    ) -> None:  # fmt: skip
        g = np.array(_G[count], x.dtype)
        for lane in range(lanes):
            tile = x[taps[tap_at : tap_at + 9] + lane].reshape(3, 3)[:count, :count]
            rows = tile[:1] if flat else g @ tile
            for k, value in enumerate((rows @ g.T).ravel()):
                start, pitch = places[place_at + 3 * k], places[place_at + 3 * k + 1]
                if start >= 0:
                    y[y_at + start + step * pitch + lane] = value

    return plain if config.DISABLE_JIT else intrinsic(typed)


_lift_2, _lift_3, _lift_flat_2, _lift_flat_3 = _lift(2), _lift(3), _lift(2, True), _lift(3, True)


@kernel(inline="always")
def _factors_of(p, y, y_at, places, place_at, step, x, taps, tap_at, lanes, spill):
    """Transform the taps of one pair of phases."""
    if p.points_h == 1:
        if p.tile == 2:
            _lift_flat_3(y, y_at, places, place_at, step, x, taps, tap_at, lanes, spill)
        else:
            _lift_flat_2(y, y_at, places, place_at, step, x, taps, tap_at, lanes, spill)
    elif p.tile == 2:
        _lift_3(y, y_at, places, place_at, step, x, taps, tap_at, lanes, spill)
    else:
        _lift_2(y, y_at, places, place_at, step, x, taps, tap_at, lanes, spill)


@kernel(_nrt=True)  # it allocates
def _places(p, pairs, tap_kernel, phase_at, lanes):
    """Return where the weights of each product of each pair go: place, step of channels, the end.

    A tap is one product of one pair: ``tap_kernel = 16 * pair + product``. Those that are not
    needed are nowhere: -1.
    """
    places = np.full(3 * 16 * pairs, -1)
    for phase in range(phase_at.size - 1):
        begin, end = phase_at[phase], phase_at[phase + 1]
        for tap in range(begin, end):
            k = 3 * tap_kernel[tap]
            places[k] = (p.source_channels * begin + tap - begin) * lanes + phase * p.weight_gap
            places[k + 1] = (end - begin) * lanes
            places[k + 2] = p.source_channels * end * lanes + (phase + 1) * p.weight_gap
    return places


@kernel(_nrt=True)  # it allocates
def pack_tile_weights(w, packed, p, tap_kernel, phase_at, corners, group, first, lanes, at):
    """Transform one unit's weights, ``G g G^T``, into (write phase, channel, tap, lane).

    A pair's `corners` are the positions of its 3x3 taps in the kernel, -1 where it has none.
    """
    kernel, width = p.kernel, _VECTOR_BYTES // w.itemsize
    places = _places(p, corners.size // 9, tap_kernel, phase_at, lanes)
    lines, by_tap = np.zeros((kernel + 1) * width, w.dtype), evenly(kernel, width)
    taps = np.empty(corners.size, np.int64)
    for i in range(corners.size):  # the last line is one of zeros
        taps[i] = (corners[i] if corners[i] >= 0 else kernel) * width
    spill = 1 if lanes <= width else 0
    for channel in range(p.source_channels):
        start = group * p.result_channels * p.source_channels * kernel + channel * p.w_channel
        if p.w_lane == kernel:
            prefetch(w, start + first * p.w_lane + 3 * p.w_channel, lanes * kernel)
        for lane in range(0, lanes, width):
            count = min(width, lanes - lane)
            source = start + (first + lane) * p.w_lane
            transpose(lines, 0, by_tap, 0, w, source, p.w_lane, count, kernel, 1)
            for pair in range(corners.size // 9):
                _factors_of(
                    p, packed, at + lane, places, 48 * pair, channel,
                    lines, taps, 9 * pair, count, spill,
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
