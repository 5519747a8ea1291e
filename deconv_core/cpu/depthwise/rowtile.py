"""The two tiles of depthwise convolutions: one channel, some rows, all of their columns.

A depthwise convolution reads each element of a picture for a few products only, so its tiles take
pictures row by row, without a panel in between: `row_tile` writes into the result itself, `row_dot`
reads the gradient itself, both with masked ends. The other operand is packed (pack.py), so that
each tap is one offset. Each tile has a plain Python twin for when Numba's compiler is disabled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..config import LINE, MACHINE
from ..runtime.jit import kernel
from ..vectors.emit import I32, INDEX, Emitter
from ..vectors.rows import vectors

ROWS = 4  # result rows of one tile: each packed row that it loads serves several of them
RUNS = (3, 2, 1)  # taps in neighbouring rows of one column, which share the rows that are loaded
TAPS = (9, 3)  # taps of one `row_dot`, or `plane_dot`


def _interleave(emit: Emitter, even: Any, odd: Any) -> list[Any]:
    """Return the two vectors that take elements of `even` and `odd` in turn."""
    width = emit.width
    return [
        emit.shuffle(
            even, odd, [half * width // 2 + i // 2 + width * (i % 2) for i in range(width)]
        )
        for half in (0, 1)
    ]


def store_past(emit: Emitter, value: Any, pointer: Any) -> None:
    """Store an aligned vector past the caches."""
    address = emit.builder.bitcast(pointer, emit.vector.as_pointer())
    store = emit.builder.store(value, address, align=MACHINE.vector_bytes)
    store.set_metadata("nontemporal", emit.builder.module.add_metadata([ir.Constant(I32, 1)]))


def write_rows(
    emit: Emitter,
    rows: list[list[Any]],
    target: Any,
    pitch: Any,
    first: Any,
    limit: Any,
    lines: Any,
) -> None:
    """Store each row's vectors, from `target` on and `pitch` elements apart.

    Their elements are `first` and on of a row of `limit` elements. If `lines`, whole vectors go
    past the caches. What has nothing of the row is left out: even empty stores would claim the line
    that they name.
    """
    builder = emit.builder
    starts = [emit.step(target, emit.times(pitch, row)) for row in range(len(rows))]
    for v in range(len(rows[0])):
        vectors = [
            (row[v], emit.step(to, v * emit.width)) for row, to in zip(rows, starts, strict=True)
        ]
        start = builder.add(first, ir.Constant(INDEX, v * emit.width))
        begins = builder.icmp_signed(">=", start, ir.Constant(INDEX, 0))
        ends = builder.icmp_signed("<=", builder.add(start, ir.Constant(INDEX, emit.width)), limit)
        with builder.if_else(builder.and_(begins, ends)) as (whole, cut):
            with whole, builder.if_else(lines) as (past, near):
                for way, store in ((past, store_past), (near, Emitter.store)):
                    with way:
                        for vector, to in vectors:
                            store(emit, vector, to)
            with cut, builder.if_then(builder.icmp_signed("<", start, limit)):
                for vector, to in vectors:
                    emit.store_inside(vector, to, start, limit)


@intrinsic(prefer_literal=True)
def _row_tile(
    typing: Any, rows: Any, phases: Any, w: Any, w_at: Any, x: Any, x_at: Any, pitch: Any,
    runs: Any, run_at: Any, at: Any, count: Any,
    y: Any, y_at: Any, y_pitch: Any, left: Any, limit: Any, bias: Any, past: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `row_tile` for literal `rows` and `phases`."""
    signature = types.void(
        rows, phases, w, w_at, x, x_at, pitch, runs, run_at, at, count,
        y, y_at, y_pitch, left, limit, bias, past,
    )  # fmt: skip
    height, across = rows.literal_value, phases.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, _, w_, w_at_, x_, x_at_, pitch_, runs_, run_at_, at_, count_,
         y_, y_at_, y_pitch_, left_, limit_, bias_, past_) = values  # fmt: skip
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        weights, offset = emit.pointer(w, w_, w_at_), emit.broadcast(bias_)
        weight = cgutils.alloca_once_value(builder, weights)
        table, starts = emit.pointer(runs, runs_, 0), emit.pointer(run_at, run_at_, at_)
        zero, width = ir.Constant(INDEX, 0), ir.Constant(INDEX, emit.width)
        total = emit.accumulators(across, height)
        corner = builder.ptrtoint(emit.step(target, left_), INDEX)
        place = builder.or_(corner, emit.times(y_pitch_, emit.size))
        rest = builder.and_(place, ir.Constant(INDEX, LINE - 1))  # none where rows begin at lines
        lines = builder.icmp_signed("<", rest, past_)

        def add_runs(size: int, begin: Any, end: Any, position: Any, sums: list[Any]) -> None:
            """Emit all runs of `size` taps: each packed row is loaded once for all its results."""
            one = ir.Constant(INDEX, 1)
            with cgutils.for_range_slice(builder, begin, end, one, inc=True) as (run, _):
                start = emit.step(position, builder.load(emit.step(table, run)))
                scalars = builder.load(weight)
                factors = [emit.broadcast(builder.load(emit.step(scalars, i))) for i in range(size)]
                for line in range(height + size - 1):
                    row = emit.load(emit.step(start, emit.times(pitch_, line)))
                    for i in range(max(0, line - height + 1), min(size, line + 1)):
                        emit.multiply_add(factors[i], row, sums[line - i])
                builder.store(emit.step(scalars, size), weight)

        with cgutils.for_range_slice(builder, zero, count_, width, inc=True) as (column, _):
            builder.store(weights, weight)
            for phase in range(across):
                for accumulator in total[phase]:
                    builder.store(emit.zero, accumulator)
                for i, size in enumerate(RUNS):
                    place = phase * len(RUNS) + i
                    begin, end = (builder.load(emit.step(starts, place + j)) for j in (0, 1))
                    add_runs(size, begin, end, emit.step(source, column), total[phase])
            results = [
                [emit.add(builder.load(total[phase][row]), offset) for phase in range(across)]
                for row in range(height)
            ]
            if across == 2:
                results = [_interleave(emit, *row) for row in results]
            first = builder.add(left_, emit.times(column, across))
            write_rows(emit, results, emit.step(target, first), y_pitch_, first, limit_, lines)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def settle(typing: Any) -> tuple[Any, Callable[..., Any]]:
    """Have what was stored past the caches done before any later store.

    A fence of this kind becomes an instruction that waits for such stores, on x86 a locked one.
    """

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic(prefer_literal=True)
def _row_dot(
    typing: Any, taps: Any, dy: Any, dy_at: Any, dy_pitch: Any, x: Any, pitch: Any,
    offsets: Any, offset_at: Any, rows: Any, count: Any, sums: Any, sums_at: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `row_dot` for literal `taps`."""
    signature = types.void(
        taps, dy, dy_at, dy_pitch, x, pitch, offsets, offset_at, rows, count, sums, sums_at
    )
    size = taps.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, dy_, dy_at_, dy_pitch_, x_, pitch_, offsets_, offset_at_, rows_, count_,
         sums_, sums_at_) = values  # fmt: skip
        emit = Emitter(context, builder, x.dtype)
        table, source = emit.pointer(offsets, offsets_, offset_at_), emit.pointer(x, x_, 0)
        starts = [emit.step(source, builder.load(emit.step(table, t))) for t in range(size)]
        gradient, target = emit.pointer(dy, dy_, dy_at_), emit.pointer(sums, sums_, sums_at_)
        total = emit.accumulators(1, size)[0]
        for accumulator in total:
            builder.store(emit.zero, accumulator)
        with cgutils.for_range(builder, rows_) as row:
            line = emit.step(gradient, builder.mul(row.index, dy_pitch_))
            down = builder.mul(row.index, pitch_)

            def body(at: Any, masked: bool) -> None:
                place = builder.add(down, at)
                line_at = emit.step(line, at)
                left = emit.load_before(line_at, at, count_) if masked else emit.load(line_at)
                for start, accumulator in zip(starts, total, strict=True):
                    right = emit.load(emit.step(start, place))
                    if masked:  # zero times what lies behind a row may be a NaN
                        emit.multiply_add_before(left, right, accumulator, at, count_)
                    else:
                        emit.multiply_add(left, right, accumulator)

            vectors(emit, count_, body)
        for t, accumulator in enumerate(total):
            place = emit.step(target, t * emit.width)
            emit.store(emit.add(emit.load(place), builder.load(accumulator)), place)
        return context.get_dummy_value()

    return signature, generate


def _row_tile_python(
    rows: int, phases: int, w: np.ndarray, w_at: int, x: np.ndarray, x_at: int, pitch: int,
    runs: np.ndarray, run_at: np.ndarray, at: int, count: int,
    y: np.ndarray, y_at: int, y_pitch: int, left: int, limit: int, bias: float, past: int,
) -> None:  # fmt: skip
    """Compute `row_tile` in plain Python."""
    result = np.zeros((rows, count, phases), x.dtype)
    for phase in range(phases):
        for i, size in enumerate(RUNS):
            place = at + phase * len(RUNS) + i
            for run in range(run_at[place], run_at[place + 1]):
                for tap in range(size):
                    for row in range(rows):
                        start = x_at + runs[run] + (row + tap) * pitch
                        result[row, :, phase] += w[w_at + tap] * x[start : start + count]
                w_at += size
    begin, end = max(0, left), min(limit, left + phases * count)
    for row in range(rows):
        start = y_at + row * y_pitch
        y[start + begin : start + end] = result[row].ravel()[begin - left : end - left] + bias


def _row_dot_python(
    taps: int, dy: np.ndarray, dy_at: int, dy_pitch: int, x: np.ndarray, pitch: int,
    offsets: np.ndarray, offset_at: int, rows: int, count: int, sums: np.ndarray, sums_at: int,
) -> None:  # fmt: skip
    """Compute `row_dot` in plain Python."""
    width = MACHINE.vector_bytes // x.itemsize
    for t in range(taps):
        for row in range(rows):
            left, right = dy_at + row * dy_pitch, offsets[offset_at + t] + row * pitch
            total = dy[left : left + count] @ x[right : right + count]
            sums[sums_at + t * width] += total


def _settle_python() -> None:
    """Do nothing."""


if config.DISABLE_JIT:
    _row_tile, _row_dot = _row_tile_python, _row_dot_python
    settle = _settle_python

_MANY, _FEW = TAPS


@kernel(inline="always")
def row_tile(
    rows, phases, w, w_at, x, x_at, pitch, runs, run_at, at, count,
    y, y_at, y_pitch, left, limit, bias, past,
):  # fmt: skip
    """Compute `count` columns of some result rows, and write what lies inside of the result.

    ``total[row, q, phase] = sum(w[tap] * x[x_at + runs[run] + (row + i) * pitch + q]) + bias`` over
    the runs of a phase and their taps i; element ``left + phases * q + phase`` of a result row is
    written if it is at least 0 and less than `limit`. With `past` 1, not 0, rows that begin at
    cache lines go past the caches; the caller must `settle` in the end.

    Assumptions: `rows` is 1 or `ROWS`, `phases` 1 or 2; the runs of a phase of ``RUNS[i]`` taps are
    those from ``run_at[at + len(RUNS) * phase + i]`` to the next; `w` has the taps in that order
    from `w_at` on; `x` holds all that whole vectors reach.
    """
    if rows > 1 and phases == 1:
        _row_tile(
            ROWS, 1, w, w_at, x, x_at, pitch, runs, run_at, at, count,
            y, y_at, y_pitch, left, limit, bias, past,
        )  # fmt: skip
    elif rows > 1:
        _row_tile(
            ROWS, 2, w, w_at, x, x_at, pitch, runs, run_at, at, count,
            y, y_at, y_pitch, left, limit, bias, past,
        )  # fmt: skip
    elif phases == 1:
        _row_tile(
            1, 1, w, w_at, x, x_at, pitch, runs, run_at, at, count,
            y, y_at, y_pitch, left, limit, bias, past,
        )  # fmt: skip
    else:
        _row_tile(
            1, 2, w, w_at, x, x_at, pitch, runs, run_at, at, count,
            y, y_at, y_pitch, left, limit, bias, past,
        )  # fmt: skip


@kernel(inline="always")
def row_dot(
    taps, dy, dy_at, dy_pitch, x, pitch, offsets, offset_at, rows, count, sums, sums_at
):  # fmt: skip
    """Add ``dy[dy_at + r * dy_pitch + q] * x[offsets[t] + r * pitch + q]`` to vector t of `sums`.

    Rows r and columns q < count are added up; the sum is that of the vector's elements.
    Assumptions: `taps` is in `TAPS`; the `offsets` begin at `offset_at`.
    """
    if taps == _MANY:
        _row_dot(
            _MANY, dy, dy_at, dy_pitch, x, pitch, offsets, offset_at, rows, count, sums, sums_at
        )
    else:
        _row_dot(
            _FEW, dy, dy_at, dy_pitch, x, pitch, offsets, offset_at, rows, count, sums, sums_at
        )
