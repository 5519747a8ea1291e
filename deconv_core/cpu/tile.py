"""The two register tiles that do all the multiply-adds, emitted as LLVM vector instructions.

`spread` computes lanes x positions: each step broadcasts a packed weight per lane and multiplies it
into vectors of consecutive positions. It serves every convolution pass and the matrix products.
`dot` computes lanes x streams: each step multiplies vectors of both operands, and the sums over
the vector's elements are taken once at the end. It serves the weight gradients.

Both are branch-free, know nothing of padding, strides or edges, and always use whole vectors: the
callers pack their operands so that whole vectors are theirs to read and write. `spread` calls for
what its next steps multiply: an address that is called for may lie anywhere. Each has a plain
Python twin, which runs when Numba's compiler is disabled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from .config import AHEAD_PLANES, AHEAD_STEPS, MACHINE, SUM_TERMS
from .emit import INDEX, Emitter
from .jit import kernel
from .launch import linked


@intrinsic(prefer_literal=True)
def _spread(
    typing: Any, lanes: Any, vectors: Any, w: Any, w_at: Any, x: Any, x_at: Any, plane: Any,
    channels: Any, taps: Any, tap_at: Any, tap_end: Any, bias: Any, bias_at: Any,
    y: Any, y_at: Any, y_pitch: Any, fresh: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `spread` for literal `lanes` and `vectors`."""
    signature = types.void(
        lanes, vectors, w, w_at, x, x_at, plane, channels, taps, tap_at, tap_end, bias, bias_at,
        y, y_at, y_pitch, fresh,
    )  # fmt: skip
    rows, columns = lanes.literal_value, vectors.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, _, w_, w_at_, x_, x_at_, plane_, channels_, taps_, tap_at_, tap_end_,
         bias_, bias_at_, y_, y_at_, y_pitch_, fresh_) = values  # fmt: skip
        emit = Emitter(context, builder, x.dtype)
        weight = cgutils.alloca_once_value(builder, emit.pointer(w, w_, w_at_))
        source = cgutils.alloca_once_value(builder, emit.pointer(x, x_, x_at_))
        offsets = emit.pointer(taps, taps_, tap_at_)
        tap_count = builder.sub(tap_end_, tap_at_)
        target, zero = emit.pointer(y, y_, y_at_), ir.Constant(INDEX, 0)
        total = emit.accumulators(rows, columns)
        chunk = emit.at_least_one(
            builder.sdiv(ir.Constant(INDEX, SUM_TERMS), emit.at_least_one(tap_count))
        )
        with cgutils.for_range_slice(builder, zero, channels_, chunk, inc=True) as (first, _):
            for row in total:
                for accumulator in row:
                    builder.store(emit.zero, accumulator)
            rest = builder.sub(channels_, first)
            more = builder.icmp_signed("<", chunk, rest)
            with cgutils.for_range(builder, builder.select(more, chunk, rest)):
                channel = builder.load(source)
                with cgutils.for_range(builder, tap_count) as tap:
                    offset = builder.load(emit.step(offsets, tap.index))
                    start = emit.step(channel, offset)
                    scalars = builder.load(weight)
                    emit.prefetch(emit.step(scalars, rows * AHEAD_STEPS))
                    far = emit.step(start, emit.times(plane_, AHEAD_PLANES))
                    for v in range(columns):
                        emit.prefetch(emit.step(far, v * emit.width))
                    positions = [
                        emit.load(emit.step(start, v * emit.width)) for v in range(columns)
                    ]
                    for i in range(rows):
                        scalar = emit.broadcast(builder.load(emit.step(scalars, i)))
                        for v in range(columns):
                            emit.multiply_add(scalar, positions[v], total[i][v])
                    builder.store(emit.step(scalars, rows), weight)
                builder.store(emit.step(channel, plane_), source)
            begins = builder.icmp_signed("<", first, fresh_)
            starts = emit.pointer(bias, bias_, bias_at_)
            for i in range(rows):
                start = emit.broadcast(builder.load(emit.step(starts, i)))
                row = emit.step(target, builder.mul(y_pitch_, ir.Constant(INDEX, i)))
                for v in range(columns):
                    place = emit.step(row, v * emit.width)
                    before = builder.select(begins, start, emit.load(place))
                    emit.store(emit.add(before, builder.load(total[i][v])), place)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def _dot(
    typing: Any, lanes: Any, streams: Any, a: Any, a_at: Any, a_pitch: Any, b: Any,
    offsets: Any, offset_at: Any, length: Any, lines: Any, line_pitch: Any, y: Any, y_at: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `dot` for literal `lanes` and `streams`."""
    signature = types.void(
        lanes, streams, a, a_at, a_pitch, b, offsets, offset_at, length, lines, line_pitch, y, y_at
    )  # fmt: skip
    rows, columns = lanes.literal_value, streams.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, _, a_, a_at_, a_pitch_, b_, offsets_, offset_at_, length_, lines_, line_pitch_,
         y_, y_at_) = values  # fmt: skip
        emit = Emitter(context, builder, a.dtype)
        first = emit.pointer(a, a_, a_at_)
        lefts = [
            emit.step(first, builder.mul(a_pitch_, ir.Constant(INDEX, i))) for i in range(rows)
        ]
        table = emit.pointer(offsets, offsets_, offset_at_)
        rights = [emit.pointer(b, b_, builder.load(emit.step(table, j))) for j in range(columns)]
        total = emit.accumulators(rows, columns)
        zero, width = ir.Constant(INDEX, 0), ir.Constant(INDEX, emit.width)
        with cgutils.for_range(builder, lines_) as line:
            left_at = builder.mul(line.index, length_)
            right_at = builder.mul(line.index, line_pitch_)
            with cgutils.for_range_slice(builder, zero, length_, width, inc=True) as (at, _):
                left_place, right_place = builder.add(left_at, at), builder.add(right_at, at)
                right = [emit.load(emit.step(pointer, right_place)) for pointer in rights]
                for i in range(rows):
                    left = emit.load(emit.step(lefts[i], left_place))
                    for j in range(columns):
                        emit.multiply_add(left, right[j], total[i][j])
        target = emit.pointer(y, y_, y_at_)
        flat = [builder.load(total[i][j]) for i in range(rows) for j in range(columns)]
        for at in range(0, len(flat), emit.width):
            place = emit.step(target, at)
            emit.store(emit.add(emit.load(place), emit.sums(flat[at : at + emit.width])), place)
        return context.get_dummy_value()

    return signature, generate


def _spread_python(
    lanes: int, vectors: int, w: np.ndarray, w_at: int, x: np.ndarray, x_at: int, plane: int,
    channels: int, taps: np.ndarray, tap_at: int, tap_end: int, bias: np.ndarray, bias_at: int,
    y: np.ndarray, y_at: int, y_pitch: int, fresh: int,
) -> None:  # fmt: skip
    """Compute `spread` in plain Python."""
    positions = vectors * (MACHINE.vector_bytes // x.itemsize)
    rows = [
        slice(start, start + positions) for start in range(y_at, y_at + lanes * y_pitch, y_pitch)
    ]
    total = np.repeat(bias[bias_at : bias_at + lanes, None], positions, axis=1)
    if not fresh:
        total = np.array([y[row] for row in rows])
    chunk = max(1, SUM_TERMS // max(1, tap_end - tap_at))
    for first in range(0, channels, chunk):
        part = np.zeros_like(total)
        for channel in range(first, min(channels, first + chunk)):
            for tap in range(tap_at, tap_end):
                start = x_at + channel * plane + taps[tap]
                part += w[w_at : w_at + lanes, None] * x[start : start + positions]
                w_at += lanes
        total += part
    for row, result in zip(rows, total, strict=True):
        y[row] = result


def _dot_python(
    lanes: int, streams: int, a: np.ndarray, a_at: int, a_pitch: int, b: np.ndarray,
    offsets: np.ndarray, offset_at: int, length: int, lines: int, line_pitch: int,
    y: np.ndarray, y_at: int,
) -> None:  # fmt: skip
    """Compute `dot` in plain Python."""
    for i, j, line in np.ndindex(lanes, streams, lines):
        left = a_at + i * a_pitch + line * length
        right = offsets[offset_at + j] + line * line_pitch
        y[y_at + i * streams + j] += a[left : left + length] @ b[right : right + length]


if config.DISABLE_JIT:
    _spread, _dot = _spread_python, _dot_python

# Each machine's table of tiles as a chain of literal calls: a literal is what makes the tile's
# loops unroll. LLVM removes nothing here at run time: it is one comparison per tile.
_WIDTH = MACHINE.vector_bytes
_SPREAD = MACHINE.spread + (MACHINE.spread[-1],) * (6 - len(MACHINE.spread))
_DOT = MACHINE.dot + (MACHINE.dot[-1],) * (4 - len(MACHINE.dot))
(_S0, _V0), (_S1, _V1), (_S2, _V2), (_S3, _V3), (_S4, _V4), (_S5, _V5) = _SPREAD
(_D0, _W0), (_D1, _W1), (_D2, _W2), (_D3, _W3) = _DOT


@linked("iiaiaiiiniiaiaiii")
@kernel
def spread(
    lanes, count, w, w_at, x, x_at, plane, channels, taps, tap_at, tap_end, bias, bias_at,
    y, y_at, y_pitch, fresh,
):  # fmt: skip
    """``y[i, p] = bias[i] + sum(w[c, t, i] * x[c * plane + taps[t] + p])`` over channels, taps t.

    If `fresh` is 0, not 1, the sums are added to `y` instead.

    Assumptions: `lanes` is in `MACHINE.spread`; ``p`` runs over the whole vectors that it stands
    with, or for the most lanes over a single one if that holds `count` positions; `w` is packed
    (channels, taps, lanes); every array is one-dimensional and holds all that whole vectors reach;
    `taps` are int64 offsets, those from `tap_at` to `tap_end` apply.
    """
    if lanes == _S0 and count <= _WIDTH // x.itemsize:
        _spread(
            _S0, 1, w, w_at, x, x_at, plane, channels, taps, tap_at, tap_end, bias, bias_at,
            y, y_at, y_pitch, fresh,
        )  # fmt: skip
    elif lanes == _S0:
        _spread(
            _S0, _V0, w, w_at, x, x_at, plane, channels, taps, tap_at, tap_end, bias, bias_at,
            y, y_at, y_pitch, fresh,
        )  # fmt: skip
    elif lanes == _S1:
        _spread(
            _S1, _V1, w, w_at, x, x_at, plane, channels, taps, tap_at, tap_end, bias, bias_at,
            y, y_at, y_pitch, fresh,
        )  # fmt: skip
    elif lanes == _S2:
        _spread(
            _S2, _V2, w, w_at, x, x_at, plane, channels, taps, tap_at, tap_end, bias, bias_at,
            y, y_at, y_pitch, fresh,
        )  # fmt: skip
    elif lanes == _S3:
        _spread(
            _S3, _V3, w, w_at, x, x_at, plane, channels, taps, tap_at, tap_end, bias, bias_at,
            y, y_at, y_pitch, fresh,
        )  # fmt: skip
    elif lanes == _S4:
        _spread(
            _S4, _V4, w, w_at, x, x_at, plane, channels, taps, tap_at, tap_end, bias, bias_at,
            y, y_at, y_pitch, fresh,
        )  # fmt: skip
    else:
        _spread(
            _S5, _V5, w, w_at, x, x_at, plane, channels, taps, tap_at, tap_end, bias, bias_at,
            y, y_at, y_pitch, fresh,
        )  # fmt: skip


@kernel
def dot(lanes, a, a_at, a_pitch, b, offsets, offset_at, length, lines, line_pitch, y, y_at):
    """``y[i, j] += sum(a[i * a_pitch + p] * b[offsets[j] + p])`` over positions p < length.

    Over `lines` of so many, which lie one after the other in `a`, `line_pitch` apart in `b`.

    Assumptions: `lanes` is in `MACHINE.dot`, and ``j`` runs over the streams that it stands with;
    `length` is a multiple of the vector width; `offsets` are int64, from `offset_at` on; `y` has
    room for ``lanes * streams`` rounded up to whole vectors.
    """
    if lanes == _D0:
        _dot(_D0, _W0, a, a_at, a_pitch, b, offsets, offset_at, length, lines, line_pitch, y, y_at)
    elif lanes == _D1:
        _dot(_D1, _W1, a, a_at, a_pitch, b, offsets, offset_at, length, lines, line_pitch, y, y_at)
    elif lanes == _D2:
        _dot(_D2, _W2, a, a_at, a_pitch, b, offsets, offset_at, length, lines, line_pitch, y, y_at)
    else:
        _dot(_D3, _W3, a, a_at, a_pitch, b, offsets, offset_at, length, lines, line_pitch, y, y_at)
