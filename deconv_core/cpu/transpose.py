"""Transposing: what lies far apart becomes neighbours, a square of vectors at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from .config import MACHINE
from .emit import INDEX, Emitter
from .jit import kernel


def _columns(emit: Emitter, rows: list[Any], at: Any, load: Any) -> list[Any]:
    """Return columns of a vector of rows, from column `at` on: those that fill 128 bits of a row.

    Parts of rows far apart are loaded into one vector, so that no element has to cross 128 bits:
    that takes other instructions, several times as long.
    """
    few = 16 // emit.size
    part = list(range(few))

    def joined(parts: list[Any]) -> Any:
        while len(parts) > 1:
            longer = list(range(2 * parts[0].type.count))
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [emit.shuffle(one, other, longer) for one, other in pairs]
        return parts[0]

    lines = [joined([load(emit.step(row, at)) for row in rows[i::few]]) for i in part]
    low = [start + k // 2 + k % 2 * emit.width for start in range(0, emit.width, few) for k in part]
    high = [n + few // 2 for n in low]
    half = few // 2
    for _ in range(half):  # 4 columns in two rounds, 2 in one
        pairs = list(zip(lines[:half], lines[half:], strict=True))
        lines = [emit.shuffle(*pair, order) for pair in pairs for order in (low, high)]
    return lines


def write_lanes(
    emit: Emitter, value: Any, target: Any, entry: Any, step: Any, lanes: Any, spill: Any
) -> None:
    """Store the first `lanes` elements of a vector at the place that `entry` tells.

    Three integers are at `entry`: the place is the first one plus `step` times the second. With
    `spill` 1, not 0, a whole vector is written wherever it ends at the third at the latest.
    """
    builder, width = emit.builder, ir.Constant(INDEX, emit.width)
    start, pitch, end = (builder.load(emit.step(entry, j)) for j in range(3))
    place = builder.add(start, builder.mul(step, pitch))
    room = builder.mul(builder.sub(end, place), spill)
    full = builder.icmp_signed("==", lanes, width)
    whole = builder.icmp_signed(">=", builder.select(full, width, room), width)
    with builder.if_else(whole) as (all_of_it, some):
        with all_of_it:
            emit.store(value, emit.step(target, place))
        with some:
            emit.store_before(value, emit.step(target, place), ir.Constant(INDEX, 0), lanes)


@intrinsic
def transpose(
    typing: Any, y: Any, y_at: Any, places: Any, step: Any, x: Any, x_at: Any, x_pitch: Any,
    lanes: Any, count: Any, spill: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """``y[y_at + place[k] + lane] = x[x_at + lane * x_pitch + k]`` for k < count.

    `lanes` are at most a vector of them. Three elements of `places` are for each k, and with
    `step` and `spill` tell the place (`write_lanes`).
    """
    signature = types.void(y, y_at, places, step, x, x_at, x_pitch, lanes, count, spill)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, places_, step_, x_, x_at_, x_pitch_, lanes_, count_, spill_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        table, zero = emit.pointer(places, places_, 0), ir.Constant(INDEX, 0)
        last = builder.sub(lanes_, ir.Constant(INDEX, 1))
        few = 16 // emit.size
        lines = []
        for i in range(emit.width):
            lane = ir.Constant(INDEX, i)
            lane = builder.select(builder.icmp_signed("<", lane, last), lane, last)
            lines.append(emit.step(source, builder.mul(lane, x_pitch_)))

        def write(column: Any, k: Any) -> None:
            entry = emit.step(table, emit.times(k, 3))
            write_lanes(emit, column, target, entry, step_, lanes_, spill_)

        before_last = builder.sub(count_, ir.Constant(INDEX, few))
        enough = builder.icmp_signed(">=", before_last, zero)
        with builder.if_else(enough) as (many, rest):
            with many:
                step = ir.Constant(INDEX, few)
                with cgutils.for_range_slice(builder, zero, count_, step, inc=True) as (first, _):
                    inside = builder.icmp_signed("<", first, before_last)
                    at = builder.select(inside, first, before_last)  # some are written twice
                    for i, column in enumerate(_columns(emit, lines, at, emit.load_part)):
                        write(column, builder.add(at, ir.Constant(INDEX, i)))
            with rest:

                def masked(pointer: Any) -> Any:
                    whole = emit.load_before(pointer, zero, count_)
                    return emit.shuffle(whole, whole, list(range(few)))

                for i, column in enumerate(_columns(emit, lines, zero, masked)):
                    k = ir.Constant(INDEX, i)
                    with builder.if_then(builder.icmp_signed("<", k, count_)):
                        write(column, k)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gather(
    typing: Any, y: Any, y_at: Any, y_pitch: Any, x: Any, x_at: Any, places: Any, place_at: Any,
    lanes: Any, count: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """``y[y_at + lane * y_pitch + k] = x[x_at + places[place_at + k] + lane]`` for k < count.

    `lanes` are at most a vector of them; whole vectors of `x` are read.
    """
    signature = types.void(y, y_at, y_pitch, x, x_at, places, place_at, lanes, count)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, y_pitch_, x_, x_at_, places_, place_at_, lanes_, count_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        table, zero = emit.pointer(places, places_, place_at_), ir.Constant(INDEX, 0)
        width, last = ir.Constant(INDEX, emit.width), builder.sub(count_, ir.Constant(INDEX, 1))
        with cgutils.for_range_slice(builder, zero, count_, width, inc=True) as (first, _):
            rows = []
            for i in range(emit.width):
                k = builder.add(first, ir.Constant(INDEX, i))
                k = builder.select(builder.icmp_signed("<", k, last), k, last)
                rows.append(emit.step(source, builder.load(emit.step(table, k))))
            whole = builder.icmp_signed("<=", builder.add(first, width), count_)
            parts = range(0, emit.width, 16 // emit.size)
            columns = [_columns(emit, rows, at, emit.load_part) for at in parts]
            for i, line in enumerate(chain.from_iterable(columns)):
                lane = ir.Constant(INDEX, i)
                with builder.if_then(builder.icmp_signed("<", lane, lanes_)):
                    row = emit.step(emit.step(target, builder.mul(lane, y_pitch_)), first)
                    with builder.if_else(whole) as (all_of_it, some):
                        with all_of_it:
                            emit.store(line, row)
                        with some:
                            emit.store_before(line, row, first, count_)
        return context.get_dummy_value()

    return signature, generate


def _transpose(
    y: np.ndarray, y_at: int, places: np.ndarray, step: int, x: np.ndarray, x_at: int, x_pitch: int,
    lanes: int, count: int, spill: int,
) -> None:  # fmt: skip
    """Compute `transpose` in plain Python."""
    assert lanes <= MACHINE.vector_bytes // x.itemsize
    for k in range(count):
        place = y_at + places[3 * k] + step * places[3 * k + 1]
        for lane in range(lanes):
            y[place + lane] = x[x_at + lane * x_pitch + k]


def _gather(
    y: np.ndarray, y_at: int, y_pitch: int, x: np.ndarray, x_at: int, places: np.ndarray,
    place_at: int, lanes: int, count: int,
) -> None:  # fmt: skip
    """Compute `gather` in plain Python."""
    assert lanes <= MACHINE.vector_bytes // x.itemsize
    for k in range(count):
        place = x_at + places[place_at + k]
        for lane in range(lanes):
            y[y_at + lane * y_pitch + k] = x[place + lane]


if config.DISABLE_JIT:
    transpose, gather = _transpose, _gather


@kernel(_nrt=True)  # it allocates
def evenly(count, pitch):
    """Return the places, for `transpose`, of `count` vectors that begin `pitch` elements apart."""
    places = np.zeros(3 * count, np.int64)
    for k in range(count):
        places[3 * k], places[3 * k + 2] = k * pitch, count * pitch
    return places
