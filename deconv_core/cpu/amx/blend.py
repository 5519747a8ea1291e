"""Matrix registers (AMX): tiles that multiply float32 numbers as sums of three of 8 bits.

A core has eight registers of 16 rows of 64 bytes. One instruction adds the products of 16 x 32 and
32 x 16 numbers of bfloat16 to 16 x 16 sums in float32: in a cycle, 16 times the multiply-adds of
vectors. A float32 number is the sum of three of bfloat16, exactly: its first 8 bits, the next 8 of
what is left, and the rest. Of the nine products of two such sums six are made, the largest last;
the others are about 2**-24 of the product at most, which float32 itself rounds by, and mostly a
tenth of that. So results are about as exact as those of multiply-adds in float32, at up to 16 / 6
of their speed. (G. Henry, P. Tang and A. Heinecke, 2019, arXiv:1904.06376.)

Two channels share 32 bits, so that a plane of pairs of channels is one of as many elements as a
plane of one: it has offsets, pitches and taps like any other. Numbers, and products, below 2**-103
lose bits, as their smaller parts are below the smallest that these registers tell from zero. An
infinity, and a number whose first part would be one, makes NaN of the results it is a part of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..config import MATRIX, MATRIX_STEPS
from ..runtime.jit import kernel
from ..runtime.launch import linked_by_address
from ..vectors.emit import I32, INDEX, Emitter

PARTS = 3  # of a number
SIDE = 16  # rows of a register; elements, or pairs of parts, of one
DEPTH = 2 * SIDE  # channels that one instruction multiplies
STEP = PARTS * SIDE * SIDE  # elements of the weights of a tap, for SIDE lanes and DEPTH channels
TILES = {1: 3, 2: 2}  # registers of sums: of lanes, and of positions
# Which parts of both factors are multiplied: neighbours share one, which is loaded once.
_ORDER = ((0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0))
_I8 = ir.IntType(8)
_POINTER = _I8.as_pointer()


class _Registers:
    """The instructions for matrix registers, which are numbered from 0 to 7."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def _call(self, name: str, *values: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.x86.{name}")
        self.builder.call(function, values)

    def _rows(self, name: str, register: int, pointer: Any, pitch: Any) -> None:
        address = self.builder.bitcast(pointer, _POINTER)
        self._call(name, ir.Constant(_I8, register), address, pitch)

    def configure(self) -> None:
        """Make all registers 16 rows of 64 bytes."""
        shape = [1] + [0] * 15 + [64, 0] * 8 + [0] * 16 + [16] * 8 + [0] * 8
        table = ir.Constant(ir.ArrayType(_I8, 64), shape)
        place = cgutils.alloca_once_value(self.builder, table)
        self._call("ldtilecfg", self.builder.bitcast(place, _POINTER))

    def release(self) -> None:
        """Tell the system that there is nothing in them to be kept."""
        self._call("tilerelease")

    def clear(self, register: int) -> None:
        """Set a register to zero."""
        self._call("tilezero", ir.Constant(_I8, register))

    def load(self, register: int, pointer: Any, pitch: Any) -> None:
        """Load rows that are `pitch` bytes apart."""
        self._rows("tileloadd64", register, pointer, pitch)

    def store(self, register: int, pointer: Any, pitch: Any) -> None:
        """Store rows that are `pitch` bytes apart."""
        self._rows("tilestored64", register, pointer, pitch)

    def multiply_add(self, a: int, b: int, total: int) -> None:
        """Add the product of two registers' numbers to a third one."""
        self._call("tdpbf16ps", *[ir.Constant(_I8, n) for n in (total, a, b)])


def _step(
    rows: int,
    columns: int,
    left: Callable[[int, int], None],
    right: Callable[[int, int], None],
    add: Callable[[int, int], None],
    ahead: Callable[[int], None],
) -> None:
    """Emit a step: what `rows` registers hold times what `columns` hold, all parts of it.

    ``left(part, row)`` and ``right(part, column)`` load, ``add(row, column)`` multiplies. A part
    is loaded as soon as the one before it has been used for the last time, so that loads run beside
    products though no register has a copy. ``ahead(i)`` is emitted behind product i.
    """
    lefts, rights = [-1] * rows, [-1] * columns
    turns = iter(range(len(_ORDER) * rows * columns))
    for (i, j), (next_i, next_j) in zip(_ORDER, [*_ORDER[1:], _ORDER[-1]], strict=True):
        renewed = next_i != i
        for outer in range(rows if renewed else columns):
            for inner in range(columns if renewed else rows):
                row, column = (outer, inner) if renewed else (inner, outer)
                if lefts[row] != i:
                    left(i, row)
                    lefts[row] = i
                if rights[column] != j:
                    right(j, column)
                    rights[column] = j
                add(row, column)
                ahead(next(turns))
            if renewed:
                left(next_i, outer)
                lefts[outer] = next_i
            elif next_j != j:
                right(next_j, outer)
                rights[outer] = next_j


def _alone(instruction: Callable[[_Registers], None]) -> Any:
    """Return an intrinsic that is a single instruction without operands."""

    def typed(typing: Any) -> tuple[Any, Callable[..., Any]]:
        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            instruction(_Registers(builder))
            return context.get_dummy_value()

        return types.void(), generate

    return intrinsic(typed)


@intrinsic(prefer_literal=True)
def _blend(
    typing: Any, high: Any, count: Any, w: Any, w_at: Any, x: Any, x_at: Any, plane: Any,
    depths: Any, taps: Any, tap_at: Any, tap_end: Any, y: Any, y_at: Any, y_pitch: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `blend` for literal `high`: lanes in units of `SIDE`."""
    signature = types.void(
        high, count, w, w_at, x, x_at, plane, depths, taps, tap_at, tap_end, y, y_at, y_pitch
    )
    rows, most = high.literal_value, TILES[high.literal_value]

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, count_, w_, w_at_, x_, x_at_, plane_, depths_, taps_, tap_at_, tap_end_, y_, y_at_,
         y_pitch_) = values  # fmt: skip
        emit, registers = Emitter(context, builder, x.dtype), _Registers(builder)
        zero, one = (ir.Constant(INDEX, n) for n in range(2))
        weights, sources = emit.pointer(w, w_, w_at_), emit.pointer(x, x_, x_at_)
        results, offsets = emit.pointer(y, y_, y_at_), emit.pointer(taps, taps_, tap_at_)
        tap_count = builder.sub(tap_end_, tap_at_)
        near, apart = ir.Constant(INDEX, SIDE * emit.size), emit.times(plane_, emit.size)
        down = emit.times(y_pitch_, emit.size)
        weight = cgutils.alloca_once_value(builder, weights)
        source = cgutils.alloca_once_value(builder, sources)
        begins = cgutils.alloca_once_value(builder, one)
        pending = cgutils.alloca_once_value(builder, zero)
        lanes, positions = rows * most, 8 - most  # their first registers, behind those of sums
        block = ir.ArrayType(ir.ArrayType(emit.vector, most), rows * SIDE)
        spare = builder.bitcast(cgutils.alloca_once(builder, block), results.type)
        line = ir.Constant(INDEX, most * SIDE * emit.size)

        def multiply(columns: int, begin: Any) -> None:
            """Multiply a tap of some channels, at `begin`; call for what comes after it."""
            factors = builder.load(weight)
            after = emit.step(begin, emit.times(plane_, PARTS * SIDE))  # of the next channels
            # What comes after it: the lines of the next weights, those of the positions there.
            lines = [
                (factors, (rows * PARTS * SIDE + n) * SIDE) for n in range(rows * PARTS * SIDE)
            ]
            lines += [
                (emit.step(after, emit.times(plane_, n)), column * SIDE)
                for n in range(PARTS * SIDE)
                for column in range(columns)
            ]
            each = len(lines) // (len(_ORDER) * rows * columns)

            def left(part: int, row: int) -> None:
                place = emit.step(factors, (part * rows + row) * SIDE * SIDE)
                registers.load(lanes + row, place, near)

            def right(part: int, column: int) -> None:
                place = emit.step(begin, emit.times(plane_, part * SIDE))
                registers.load(positions + column, emit.step(place, column * SIDE), apart)

            def add(row: int, column: int) -> None:
                registers.multiply_add(lanes + row, positions + column, row * most + column)

            def ahead(turn: int) -> None:
                for place, offset in lines[turn * each : (turn + 1) * each]:
                    emit.prefetch(emit.step(place, offset))

            _step(rows, columns, left, right, add, ahead)
            builder.store(emit.step(factors, STEP * rows), weight)

        def write(target: Any, columns: int) -> None:
            """Write the sums, or add them to what there is, and begin anew."""
            sums = [(row, column) for row in range(rows) for column in range(columns)]
            first = builder.icmp_signed("!=", builder.load(begins), zero)
            with builder.if_else(first) as (alone, added):
                with alone:
                    for row, column in sums:
                        place = emit.step(target, emit.times(y_pitch_, row * SIDE))
                        place = emit.step(place, column * SIDE)
                        registers.store(row * most + column, place, down)
                with added:
                    for row, column in sums:
                        place = emit.step(spare, (row * most * SIDE + column) * SIDE)
                        registers.store(row * most + column, place, line)
                    with cgutils.for_range(builder, ir.Constant(INDEX, rows * SIDE)) as lane:
                        more = emit.step(spare, emit.times(lane.index, most * SIDE))
                        place = emit.step(target, builder.mul(y_pitch_, lane.index))
                        for column in range(columns):
                            here = emit.step(place, column * SIDE)
                            total = emit.load(emit.step(more, column * SIDE))
                            emit.store(emit.add(emit.load(here), total), here)
            for row, column in sums:
                registers.clear(row * most + column)
            builder.store(zero, begins)
            builder.store(zero, pending)

        def tile(at: Any, columns: int) -> None:
            """Compute the positions from `at` on."""
            target = emit.step(results, at)
            builder.store(weights, weight)
            builder.store(emit.step(sources, at), source)
            builder.store(one, begins)
            builder.store(zero, pending)
            for row in range(rows):
                for column in range(columns):
                    registers.clear(row * most + column)
            many = ir.Constant(INDEX, MATRIX_STEPS)
            with cgutils.for_range(builder, depths_):
                here = builder.load(source)
                with cgutils.for_range_slice(builder, zero, tap_count, many, inc=True) as (tap, _):
                    rest = builder.sub(tap_count, tap)
                    some = builder.select(builder.icmp_signed("<", many, rest), many, rest)
                    with cgutils.for_range(builder, some) as within:
                        offset = emit.step(offsets, builder.add(tap, within.index))
                        multiply(columns, emit.step(here, builder.load(offset)))
                    steps = builder.add(builder.load(pending), some)
                    builder.store(steps, pending)
                    with builder.if_then(builder.icmp_signed(">=", steps, many)):
                        write(target, columns)
                builder.store(emit.step(here, emit.times(plane_, PARTS * SIDE)), source)
            last = builder.or_(builder.load(pending), builder.load(begins))
            with builder.if_then(builder.icmp_signed("!=", last, zero)):
                write(target, columns)

        whole = builder.mul(
            builder.udiv(
                builder.add(count_, ir.Constant(INDEX, SIDE - 1)), ir.Constant(INDEX, most * SIDE)
            ),
            ir.Constant(INDEX, most * SIDE),
        )
        step, side = ir.Constant(INDEX, most * SIDE), ir.Constant(INDEX, SIDE)
        with cgutils.for_range_slice(builder, zero, whole, step, inc=True) as (at, _):
            tile(at, most)
        with cgutils.for_range_slice(builder, whole, count_, side, inc=True) as (at, _):
            tile(at, 1)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _split_pairs(
    typing: Any, y: Any, y_at: Any, y_pitch: Any, x: Any, x_at: Any, x_pitch: Any, count: Any
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `split_pairs`."""
    signature = types.void(y, y_at, y_pitch, x, x_at, x_pitch, count)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, y_pitch_, x_, x_at_, x_pitch_, count_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        other, width = emit.step(source, x_pitch_), ir.Constant(INDEX, emit.width)
        with cgutils.for_range_slice(builder, ir.Constant(INDEX, 0), count_, width, inc=True) as (
            at,
            _,
        ):
            first = _split(emit, emit.load(emit.step(source, at)))
            second = _split(emit, emit.load(emit.step(other, at)))
            for part in range(PARTS):
                low = builder.lshr(first[part], _bits(emit, 16))
                both = builder.or_(low, builder.and_(second[part], _bits(emit, -65536)))
                place = emit.step(emit.step(target, emit.times(y_pitch_, part)), at)
                emit.store(builder.bitcast(both, emit.vector), place)
        return context.get_dummy_value()

    return signature, generate


def _bits(emit: Emitter, value: int) -> Any:
    """Return a vector of an integer."""
    return ir.Constant(ir.VectorType(I32, emit.width), [value] * emit.width)


def _split(emit: Emitter, value: Any) -> list[Any]:
    """Return the parts of a vector of numbers, each in the upper 16 of 32 bits."""
    builder, kind = emit.builder, ir.VectorType(I32, emit.width)
    parts = []
    for _ in range(PARTS - 1):
        rounded = builder.add(builder.bitcast(value, kind), _bits(emit, 0x8000))
        part = builder.and_(rounded, _bits(emit, -65536))
        parts.append(part)
        value = emit.subtract(value, builder.bitcast(part, emit.vector))
    return [*parts, builder.bitcast(value, kind)]


@intrinsic
def _split_rows(
    typing: Any, y: Any, y_at: Any, y_pitch: Any, x: Any, x_at: Any, count: Any
) -> tuple[Any, Callable[..., Any]]:
    """Emit `split_rows`."""
    signature = types.void(y, y_at, y_pitch, x, x_at, count)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, y_pitch_, x_, x_at_, count_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        short = ir.VectorType(ir.IntType(16), emit.width)
        for half in range(2):
            at = ir.Constant(INDEX, half * emit.width)
            values = _split(emit, emit.load_before(emit.step(source, at), at, count_))
            for part, value in enumerate(values):
                low = builder.trunc(builder.lshr(value, _bits(emit, 16)), short)
                place = emit.step(target, emit.times(y_pitch_, part))
                place = emit.step(place, half * emit.width // 2)
                builder.store(low, builder.bitcast(place, short.as_pointer()), align=emit.size)
        return context.get_dummy_value()

    return signature, generate


def _parts(values: np.ndarray) -> list[np.ndarray]:
    """Return the parts of numbers, as numbers."""
    parts = []
    for _ in range(PARTS - 1):
        rounded = (values.view(np.int32) + 0x8000) & -65536
        parts.append(rounded.astype(np.int32).view(np.float32))
        values = values - parts[-1]
    return [*parts, (values.view(np.int32) & -65536).astype(np.int32).view(np.float32)]


def _numbers(pairs: np.ndarray) -> np.ndarray:
    """Return the numbers of pairs of parts: (..., n) as (..., n, 2)."""
    bits = pairs.view(np.int32)
    return np.stack([bits << 16, bits & -65536], -1).astype(np.int32).view(np.float32)


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return numbers of 16 bits in pairs."""
    low = first.view(np.int32).astype(np.int64) >> 16 & 0xFFFF
    return (low | second.view(np.int32)).astype(np.int32).view(np.float32)


def _blend_python(
    high: int, count: int, w: np.ndarray, w_at: int, x: np.ndarray, x_at: int, plane: int,
    depths: int, taps: np.ndarray, tap_at: int, tap_end: int, y: np.ndarray, y_at: int,
    y_pitch: int,
) -> None:  # fmt: skip
    """Compute `blend` in plain Python, though as one sum, and with all products of parts."""
    count, lanes = -(-count // SIDE) * SIDE, high * SIDE
    sums = np.zeros((lanes, count), np.float32)
    for depth in range(depths):
        for tap in taps[tap_at:tap_end]:
            step = w[w_at : w_at + high * STEP].reshape(PARTS, lanes, SIDE)
            factors = _numbers(step).reshape(PARTS, lanes, DEPTH).sum(0)
            rows = x_at + (PARTS * SIDE * depth + np.arange(PARTS * SIDE)) * plane + tap
            pairs = _numbers(x[rows[:, None] + np.arange(count)]).reshape(PARTS, SIDE, count, 2)
            sums += factors @ pairs.sum(0).transpose(0, 2, 1).reshape(DEPTH, count)
            w_at += high * STEP
    place = y_at + np.arange(lanes)[:, None] * y_pitch + np.arange(count)
    y[place] = sums


def _split_pairs_python(
    y: np.ndarray, y_at: int, y_pitch: int, x: np.ndarray, x_at: int, x_pitch: int, count: int
) -> None:
    """Compute `split_pairs` in plain Python."""
    count = -(-count // SIDE) * SIDE
    both = [_parts(x[at : at + count].copy()) for at in (x_at, x_at + x_pitch)]
    for part in range(PARTS):
        start = y_at + part * y_pitch
        y[start : start + count] = _pairs(both[0][part], both[1][part])


def _split_rows_python(
    y: np.ndarray, y_at: int, y_pitch: int, x: np.ndarray, x_at: int, count: int
) -> None:
    """Compute `split_rows` in plain Python."""
    row = np.zeros(DEPTH, np.float32)
    row[:count] = x[x_at : x_at + count]
    for part, values in enumerate(_parts(row)):
        start = y_at + part * y_pitch
        y[start : start + SIDE] = _pairs(values[::2].copy(), values[1::2].copy())


def _nothing() -> None:
    """Do in plain Python what `open_registers` and `close_registers` do."""


if config.DISABLE_JIT or not MATRIX:
    _blend, split_pairs, split_rows = _blend_python, _split_pairs_python, _split_rows_python
    open_registers = close_registers = _nothing
else:
    split_pairs, split_rows = _split_pairs, _split_rows
    open_registers = _alone(_Registers.configure)
    close_registers = _alone(_Registers.release)


@linked_by_address("iiaiaiiiniiaii")
@kernel
def blend(high, count, w, w_at, x, x_at, plane, depths, taps, tap_at, tap_end, y, y_at, y_pitch):
    """Sum products up, for ``high * SIDE`` lanes and some positions, tile by tile.

    ``y[i * y_pitch + p] = sum(w[(d, t, i, c)] * x[d, c, taps[t] + p])`` over the channels c of
    each depth d of `DEPTH` channels and taps t, for positions p < count.

    Assumptions: `high` is in `TILES`; `count` is rounded up to whole registers; `x` is packed by
    `split_pairs` (depth, part, pair of channels, position), rows of it `plane` elements apart, and
    `w` by `split_rows` (depth, tap, part, lane, pair of channels); `taps` are int64 offsets, those
    from `tap_at` to `tap_end` apply; this thread has called `open_registers`.
    """
    if high == 1:
        _blend(1, count, w, w_at, x, x_at, plane, depths, taps, tap_at, tap_end, y, y_at, y_pitch)
    else:
        _blend(2, count, w, w_at, x, x_at, plane, depths, taps, tap_at, tap_end, y, y_at, y_pitch)
