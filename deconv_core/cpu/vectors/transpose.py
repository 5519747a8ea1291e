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

from ..config import MACHINE
from ..runtime.jit import kernel
from .emit import INDEX, Emitter


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

    return _rounds(emit, [joined([load(emit.step(row, at)) for row in rows[i::few]]) for i in part])


def _rounds(emit: Emitter, lines: list[Any]) -> list[Any]:
    """Transpose within each 128 bits: 4 columns in two rounds, 2 in one."""
    few = len(lines)
    starts, half = range(0, emit.width, few), few // 2
    low = [start + k // 2 + k % 2 * emit.width for start in starts for k in range(few)]
    high = [n + half for n in low]
    for _ in range(half):
        pairs = list(zip(lines[:half], lines[half:], strict=True))
        lines = [emit.shuffle(*pair, order) for pair in pairs for order in (low, high)]
    return lines


def _parts(emit: Emitter, rows: list[Any]) -> list[Any]:
    """Transpose a square of parts of 128 bits: as many rows as a vector has parts."""
    few = 16 // emit.size

    def pick(one: Any, other: Any, parts: tuple[int, ...]) -> Any:
        return emit.shuffle(one, other, [few * part + k for part in parts for k in range(few)])

    if len(rows) == 4:
        halves = (0, 1, 4, 5), (2, 3, 6, 7)
        pairs = [[pick(rows[i], rows[i + 1], half) for i in (0, 2)] for half in halves]
        turns = (0, 2, 4, 6), (1, 3, 5, 7)
        return [pick(pair[0], pair[1], parts) for pair in pairs for parts in turns]
    if len(rows) == 2:
        return [pick(rows[0], rows[1], parts) for parts in ((0, 2), (1, 3))]
    return rows


def _square(emit: Emitter, rows: list[Any]) -> list[Any]:
    """Return the columns of as many rows as a vector has elements."""
    few = 16 // emit.size
    found = [_parts(emit, rows[i::few]) for i in range(few)]
    return [column for lines in zip(*found, strict=True) for column in _rounds(emit, list(lines))]


def _rows(emit: Emitter, start: Any, pitch: Any, lanes: Any) -> list[Any]:
    """Return where each lane's row begins, the last one's for those beyond `lanes`."""
    last = emit.builder.sub(lanes, ir.Constant(INDEX, 1))
    found = []
    for i in range(emit.width):
        lane = ir.Constant(INDEX, i)
        lane = emit.builder.select(emit.builder.icmp_signed("<", lane, last), lane, last)
        found.append(emit.step(start, emit.builder.mul(lane, pitch)))
    return found


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
        few, lines = 16 // emit.size, _rows(emit, source, x_pitch_, lanes_)

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


@intrinsic
def turn(
    typing: Any, y: Any, y_at: Any, before: Any, after: Any, x: Any, x_at: Any, x_pitch: Any,
    lanes: Any, count: Any, ahead: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """``y[y_at + (before + k) * width + lane] = x[x_at + lane * x_pitch + k]`` for k < count.

    `lanes` are at most `width`, a vector of them; whole vectors of `y` are written, of which the
    rest repeats the last lane. There are as many vectors of zeros `before` them, and `after` them;
    and fewer than `width` more may be written. What lies `ahead` elements on in `x` is called for.
    """
    signature = types.void(y, y_at, before, after, x, x_at, x_pitch, lanes, count, ahead)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, before_, after_, x_, x_at_, x_pitch_, lanes_, count_, ahead_ = values
        emit = Emitter(context, builder, x.dtype)
        source, begin = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        target = emit.step(begin, emit.times(before_, emit.width))
        end = emit.step(target, emit.times(count_, emit.width))
        zero, width = ir.Constant(INDEX, 0), ir.Constant(INDEX, emit.width)
        rows = _rows(emit, source, x_pitch_, lanes_)

        def write(columns: list[Any], at: Any) -> None:
            line = emit.step(target, emit.times(at, emit.width))
            for i, column in enumerate(columns):
                emit.store(column, emit.step(line, i * emit.width))

        whole = builder.mul(builder.sdiv(count_, width), width)
        with cgutils.for_range_slice(builder, zero, whole, width, inc=True) as (at, _):
            for row in rows:
                emit.prefetch(emit.step(emit.step(row, at), ahead_))
            write(_square(emit, [emit.load(emit.step(row, at)) for row in rows]), at)
        with builder.if_then(builder.icmp_signed("<", whole, count_)):
            loaded = [emit.load_before(emit.step(row, whole), whole, count_) for row in rows]
            write(_square(emit, loaded), whole)
        for start, vectors in (begin, before_), (end, after_):
            with cgutils.for_range(builder, vectors) as k:
                emit.store(emit.zero, emit.step(start, emit.times(k.index, emit.width)))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def turn_back(
    typing: Any, y: Any, y_at: Any, y_pitch: Any, lanes: Any, x: Any, x_at: Any, count: Any,
    ahead: Any, relu: Any, gate: Any, gated: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """``y[y_at + lane * y_pitch + k] = x[x_at + k * width + lane]`` for k < count.

    `lanes` are at most `width`, a vector of them. The last vector of `y` overlaps the one before
    it; masks are for less than a vector. What lies `ahead` elements on in `y` is called for. With
    `relu` 1, not 0, what is not positive becomes zero; with `gated` 1, what is not in `gate`, an
    array like `y`.
    """
    signature = types.void(y, y_at, y_pitch, lanes, x, x_at, count, ahead, relu, gate, gated)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, y_pitch_, lanes_, x_, x_at_, count_, ahead_, relu_, gate_, gated_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        gates = emit.pointer(gate, gate_, y_at_)
        zero, width = ir.Constant(INDEX, 0), ir.Constant(INDEX, emit.width)
        last, end = builder.sub(count_, width), builder.sub(count_, ir.Constant(INDEX, 1))
        short = builder.icmp_signed("<", last, zero)
        rectified, through = (builder.icmp_signed("!=", flag, zero) for flag in (relu_, gated_))

        def ended(column: Any, offset: Any, at: Any) -> Any:
            """Emit what comes after the last sum."""
            column, before = emit.positive(column, column, rectified), builder.block
            with builder.if_then(through):
                place = emit.step(gates, offset)
                emit.prefetch(emit.step(place, ahead_))
                let = emit.positive(column, emit.load_before(place, at, count_))
                inside = builder.block
            result = builder.phi(emit.vector)
            result.add_incoming(column, before)
            result.add_incoming(let, inside)
            return result

        with cgutils.for_range_slice(builder, zero, count_, width, inc=True) as (first, _):
            at = builder.select(builder.icmp_signed("<", first, last), first, last)
            at = builder.select(short, zero, at)
            pixels = [builder.add(at, ir.Constant(INDEX, i)) for i in range(emit.width)]
            pixels = [
                builder.select(builder.icmp_signed("<", pixel, end), pixel, end) for pixel in pixels
            ]
            rows = [emit.load(emit.step(source, emit.times(n, emit.width))) for n in pixels]
            for i, column in enumerate(_square(emit, rows)):
                lane = ir.Constant(INDEX, i)
                with builder.if_then(builder.icmp_signed("<", lane, lanes_)):
                    offset = builder.add(builder.mul(lane, y_pitch_), at)
                    place, column = emit.step(target, offset), ended(column, offset, at)
                    emit.prefetch(emit.step(place, ahead_))
                    with builder.if_else(short) as (masked, free):
                        with masked:
                            emit.store_before(column, place, zero, count_)
                        with free:
                            emit.store(column, place)
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


def _turn(
    y: np.ndarray, y_at: int, before: int, after: int, x: np.ndarray, x_at: int, x_pitch: int,
    lanes: int, count: int, ahead: int,
) -> None:  # fmt: skip
    """Compute `turn` in plain Python."""
    width = MACHINE.vector_bytes // x.itemsize
    whole = -(-count // width) * width
    lines = y[y_at : y_at + (before + max(whole, count + after)) * width].reshape(-1, width)
    lines[before + count : before + whole] = np.nan  # what vectors write in vain
    lines[:before] = lines[before + count : before + count + after] = 0
    for lane in range(width):
        start = x_at + min(lane, lanes - 1) * x_pitch
        lines[before : before + count, lane] = x[start : start + count]


def _turn_back(
    y: np.ndarray, y_at: int, y_pitch: int, lanes: int, x: np.ndarray, x_at: int, count: int,
    ahead: int, relu: int, gate: np.ndarray, gated: int,
) -> None:  # fmt: skip
    """Compute `turn_back` in plain Python."""
    width = MACHINE.vector_bytes // x.itemsize
    lines = x[x_at : x_at + count * width].reshape(count, width)
    for lane in range(lanes):
        row = slice(y_at + lane * y_pitch, y_at + lane * y_pitch + count)
        y[row] = lines[:, lane]
        if relu:
            y[row][y[row] <= 0] = 0
        if gated:
            y[row][gate[row] <= 0] = 0


if config.DISABLE_JIT:
    transpose, gather, turn, turn_back = _transpose, _gather, _turn, _turn_back


@kernel(_nrt=True)  # it allocates
def evenly(count, pitch):
    """Return the places, for `transpose`, of `count` vectors that begin `pitch` elements apart."""
    places = np.zeros(3 * count, np.int64)
    for k in range(count):
        places[3 * k], places[3 * k + 2] = k * pitch, count * pitch
    return places
