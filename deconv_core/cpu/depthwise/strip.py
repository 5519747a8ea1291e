"""The tile of depthwise convolutions that read rows where they lie: a strip of result rows.

For each tap a vector of positions needs a vector of a source row or, with a stride of two, every
second element of two of them, where a tap one column further needs the others. Columns outside of
the picture are masked, so nothing is packed; the caller sees to rows outside. The tile has a plain
Python twin for when Numba's compiler is disabled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..config import LINE
from ..runtime.jit import kernel
from ..vectors.emit import INDEX, Emitter
from ..vectors.rows import whole_vectors
from .rowtile import store_past, write_rows

HEIGHTS = (7, 4)  # result rows of a strip, for a stride of columns of one, and of two
# What is loaded together: taps in so many rows, which share source rows, and in so many columns.
RUNS = tuple((down, across) for down in (5, 3, 2, 1) for across in (2, 1))
AHEAD = 4096  # elements between what is read and what is called for


@intrinsic(prefer_literal=True)
def _strip(
    typing: Any, ways: Any, w: Any, x: Any, x_at: Any, width: Any, pitch: Any,
    runs: Any, run_at: Any, y: Any, y_at: Any, columns: Any, bias: Any, past: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `strip` for literal `ways`."""
    signature = types.void(
        ways, w, x, x_at, width, pitch, runs, run_at, y, y_at, columns, bias, past
    )
    stride = ways.literal_value
    height = HEIGHTS[stride - 1]

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, w_, x_, x_at_, width_, pitch_, runs_, run_at_, y_, y_at_, columns_, bias_,
         past_) = values  # fmt: skip
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        weights, offset = emit.pointer(w, w_, 0), emit.broadcast(bias_)
        weight = cgutils.alloca_once_value(builder, weights)
        table, starts = emit.pointer(runs, runs_, 0), emit.pointer(run_at, run_at_, 0)
        zero, one, step = (ir.Constant(INDEX, n) for n in (0, 1, emit.width))
        total = emit.accumulators(2, height)  # in turn, since each addition takes its time
        place = builder.or_(builder.ptrtoint(target, INDEX), emit.times(columns_, emit.size))
        rest = builder.and_(place, ir.Constant(INDEX, LINE - 1))  # none where rows begin at lines
        lines = builder.icmp_signed("<", rest, past_)

        def read(row: Any, start: Any, across: int) -> list[Any]:
            """Emit the vectors that taps in `across` columns need of a row."""
            places = [builder.add(start, ir.Constant(INDEX, i * emit.width)) for i in range(stride)]
            found = [emit.load_inside(emit.step(row, at), at, width_) for at in places]
            if stride == 1:
                return found
            return [emit.pick(found, [2 * i + k for i in range(emit.width)]) for k in range(across)]

        def add_runs(down: int, across: int, begin: Any, end: Any, column: Any) -> None:
            """Emit all runs of a size: each source row is loaded once for all its results."""
            with cgutils.for_range_slice(builder, begin, end, one, inc=True) as (run, _):
                entry = emit.step(table, emit.times(run, 2))
                row = emit.step(source, builder.load(entry))
                start = builder.add(emit.times(column, stride), builder.load(emit.step(entry, 1)))
                scalars = builder.load(weight)
                factors = [
                    [emit.broadcast(builder.load(emit.step(scalars, i * across + j)))
                     for j in range(across)]
                    for i in range(down)
                ]  # fmt: skip
                for line in range(height + down - 1):
                    found = read(row, start, across)
                    for i in range(max(0, line - height + 1), min(down, line + 1)):
                        for j in range(across):
                            sums = total[(i + j) % 2]
                            emit.multiply_add(factors[i][j], found[j], sums[line - i])
                    row = emit.step(row, pitch_)
                builder.store(emit.step(scalars, down * across), weight)

        with cgutils.for_range_slice(builder, zero, columns_, step, inc=True) as (column, _):
            builder.store(weights, weight)
            share = height * stride * stride  # vectors of the strip's source
            called = emit.step(emit.step(source, emit.times(column, share)), AHEAD)
            for i in range(share):
                emit.prefetch(emit.step(called, i * emit.width))
            for accumulator in total[0] + total[1]:
                builder.store(emit.zero, accumulator)
            for i, (down, across) in enumerate(RUNS):
                if across <= stride:
                    begin, end = (builder.load(emit.step(starts, i + j)) for j in (0, 1))
                    add_runs(down, across, begin, end, column)
            results = [
                [emit.add(emit.add(builder.load(even), builder.load(odd)), offset)]
                for even, odd in zip(*total, strict=True)
            ]
            start = emit.step(target, column)
            write_rows(emit, results, start, columns_, column, columns_, lines)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def copy_past(typing: Any, y: Any, y_at: Any, x: Any, count: Any) -> tuple[Any, Callable[..., Any]]:
    """``y[y_at + i] = x[i]`` for i < count, past the caches; they are whole cache lines of `y`."""
    signature = types.void(y, y_at, x, count)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, x_, count_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, 0), emit.pointer(y, y_, y_at_)

        def body(at: Any) -> None:
            store_past(emit, emit.load(emit.step(source, at)), emit.step(target, at))

        whole_vectors(emit, count_, body)
        return context.get_dummy_value()

    return signature, generate


def _strip_python(
    ways: int, w: np.ndarray, x: np.ndarray, x_at: int, width: int, pitch: int,
    runs: np.ndarray, run_at: np.ndarray, y: np.ndarray, y_at: int, columns: int,
    bias: float, past: int,
) -> None:  # fmt: skip
    """Compute `strip` in plain Python."""
    height, tap = HEIGHTS[ways - 1], 0
    result = np.full((height, columns), bias, x.dtype)
    for i, (down, across) in enumerate(RUNS):
        for run in range(run_at[i], run_at[i + 1]):
            for line in range(down):
                row = x_at + runs[2 * run] + line * pitch
                for left in range(runs[2 * run + 1], runs[2 * run + 1] + across):
                    first, last = max(0, -(left // ways)), min(columns, -((left - width) // ways))
                    for r in range(height if first < last else 0):
                        start = row + r * pitch + left + ways * first
                        found = x[start : start + ways * (last - first - 1) + 1 : ways]
                        result[r, first:last] += w[tap] * found
                    tap += 1
    y[y_at : y_at + result.size] = result.ravel()


def _copy_past_python(y: np.ndarray, y_at: int, x: np.ndarray, count: int) -> None:
    """Compute `copy_past` in plain Python."""
    y[y_at : y_at + count] = x[:count]


if config.DISABLE_JIT:
    _strip, copy_past = _strip_python, _copy_past_python


@kernel(inline="always")
def strip(ways, w, x, x_at, width, pitch, runs, run_at, y, y_at, columns, bias, past):
    """Compute ``HEIGHTS[ways - 1]`` neighbouring rows of a result of `columns` columns.

    Row r, column q is ``bias + sum(w[t] * x[x_at + down + i * pitch + r * pitch + right + j + ways
    * q])`` over the runs (down, right), their rows i and columns j, as long as ``right + j + ways *
    q`` is at least 0 and less than `width`. What lies `AHEAD` elements on is called for. With
    `past` 1, not 0, rows that begin at cache lines go past the caches; the caller must `settle`.

    Assumptions: `ways` is 1 or 2; the runs of size ``RUNS[i]`` are those from ``run_at[i]`` to the
    next, of no more than `ways` columns; `w` has the taps in that order, run by run, row by row.
    """
    if ways == 1:
        _strip(1, w, x, x_at, width, pitch, runs, run_at, y, y_at, columns, bias, past)
    else:
        _strip(2, w, x, x_at, width, pitch, runs, run_at, y, y_at, columns, bias, past)
