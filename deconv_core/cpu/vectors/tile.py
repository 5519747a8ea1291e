"""The three register tiles that do all the multiply-adds, emitted as LLVM vector instructions.

`spread` computes lanes x positions: each step broadcasts a packed weight per lane and multiplies it
into vectors of consecutive positions. It serves the passes by positions, and with other roles the
products of matrices. `dot` computes lanes x streams: each step multiplies vectors of both
operands, and the sums over the vector's elements are taken once at the end. It serves the weight
gradients. `cross` computes positions x result channels: each step broadcasts one source channel of
each position, whose channels lie side by side, and multiplies it into vectors of weights. It serves
the passes by Winograd's tiles.

They know nothing of padding, strides or edges, and always use whole vectors: the callers pack their
operands so that whole vectors are theirs to read and write. They call for what later steps
multiply: an address that is called for may lie anywhere. Each has a plain Python twin, which runs
when Numba's compiler is disabled.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..config import (
    AHEAD_CROSS,
    AHEAD_STEPS,
    LINE,
    MACHINE,
    REREAD_LANES,
    REREAD_VECTORS,
    ROW,
)
from ..runtime.jit import kernel
from ..runtime.launch import linked_by_address
from .emit import INDEX, Emitter


def _add_products(
    emit: Emitter, scalars: Any, pitch: int, vectors: list[Any], total: list[list[Any]]
) -> None:
    """Add the products of a step's scalars, `pitch` elements apart, and vectors to their sums.

    A scalar is broadcast into a register for all of its multiply-adds. Some of those that lie side
    by side are read from memory by each instead: one instruction fewer, but a load for each vector
    instead of one. So a core runs out of neither, above all one that another thread shares.
    """
    rereading = MACHINE.broadcasting and pitch == 1 < len(vectors) <= REREAD_VECTORS
    places = [scalars]
    if rereading:
        places += [emit.alias(scalars) for _ in vectors[1:]]
    for i, sums in enumerate(total):
        each = rereading and i % REREAD_LANES == REREAD_LANES - 1
        for v, vector in enumerate(vectors):
            if v == 0 or each:
                scalar = emit.broadcast(emit.builder.load(emit.step(places[v], i * pitch)))
            emit.multiply_add(scalar, vector, sums[v])


@intrinsic(prefer_literal=True)
def _spread(
    typing: Any, lanes: Any, vectors: Any, rows: Any, count: Any, w: Any, w_at: Any, w_row: Any,
    x: Any, x_at: Any, x_row: Any, plane: Any, channels: Any, taps: Any, tap_at: Any, tap_end: Any,
    bias: Any, bias_at: Any, y: Any, y_at: Any, y_row: Any, y_pitch: Any, fresh: Any, ahead: Any,
    terms: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `spread` for literal `lanes` and `vectors`."""
    signature = types.void(
        lanes, vectors, rows, count, w, w_at, w_row, x, x_at, x_row, plane, channels, taps,
        tap_at, tap_end, bias, bias_at, y, y_at, y_row, y_pitch, fresh, ahead, terms,
    )  # fmt: skip
    high, wide = lanes.literal_value, vectors.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, _, rows_, count_, w_, w_at_, w_row_, x_, x_at_, x_row_, plane_, channels_, taps_,
         tap_at_, tap_end_, bias_, bias_at_, y_, y_at_, y_row_, y_pitch_, fresh_,
         ahead_, terms_) = values  # fmt: skip
        emit = Emitter(context, builder, x.dtype)
        zero, one, width = (ir.Constant(INDEX, n) for n in (0, 1, emit.width))
        weights, biases = emit.pointer(w, w_, w_at_), emit.pointer(bias, bias_, bias_at_)
        sources, results = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        offsets, tap_count = emit.pointer(taps, taps_, tap_at_), builder.sub(tap_end_, tap_at_)
        weight = cgutils.alloca_once_value(builder, weights)
        source = cgutils.alloca_once_value(builder, sources)
        upcoming = cgutils.alloca_once_value(builder, sources)
        total = emit.accumulators(high, wide)
        # Where there is no tap, as in a phase between those of a kernel, `taps` may end.
        empty = builder.icmp_signed("<=", tap_count, zero)
        single = builder.icmp_signed("==", tap_count, one)
        first_tap = builder.load(
            builder.select(empty, cgutils.alloca_once_value(builder, zero), offsets)
        )
        taken = emit.at_least_one(tap_count)
        wanted = builder.add(terms_, builder.lshr(taken, one))
        chunk = emit.at_least_one(builder.sdiv(wanted, taken))

        def multiply(columns: int, begins: list[Any]) -> None:
            """Multiply steps, whose positions begin there; call for what later ones read."""
            scalars = builder.load(weight)
            for at in range(0, len(begins) * high * emit.size, LINE):
                emit.prefetch(emit.step(scalars, high * AHEAD_STEPS + at // emit.size))
            for i, begin in enumerate(begins):
                far = emit.step(begin, ahead_)
                for v in range(0, columns, LINE // MACHINE.vector_bytes):
                    emit.prefetch(emit.step(far, v * emit.width))
                positions = [emit.load(emit.step(begin, v * emit.width)) for v in range(columns)]
                _add_products(emit, emit.step(scalars, high * i), 1, positions, total)
            builder.store(emit.step(scalars, high * len(begins)), weight)

        def tap(columns: int, after: Any) -> None:
            """Multiply one tap of a channel; the positions of the next step are at `after`.

            That address is known a step early, so that loads need not wait for it. A core that
            another thread shares finds too little else to do meanwhile.
            """
            begin = builder.load(upcoming)
            builder.store(after, upcoming)
            multiply(columns, [begin])

        def all_taps(columns: int, some: Any) -> None:
            """Multiply all taps, of which there are some, of channels."""
            with cgutils.for_range(builder, some):
                here = builder.load(source)
                with cgutils.for_range(builder, builder.sub(tap_count, one)) as number:
                    after = builder.load(emit.step(offsets, builder.add(number.index, one)))
                    tap(columns, emit.step(here, after))
                there = emit.step(here, plane_)
                builder.store(there, source)
                tap(columns, emit.step(there, first_tap))

        def single_taps(columns: int, some: Any) -> None:
            """Multiply channels of one tap each, several in a turn of the loop."""
            several = ir.Constant(INDEX, MACHINE.single_taps)
            turns = builder.udiv(some, several)
            for count, together in (
                (turns, MACHINE.single_taps),
                (builder.sub(some, builder.mul(turns, several)), 1),
            ):
                with cgutils.for_range(builder, count):
                    begins = [builder.load(upcoming)]
                    for _ in range(together):
                        begins.append(emit.step(begins[-1], plane_))
                    builder.store(begins.pop(), upcoming)
                    multiply(columns, begins)

        def write(target: Any, begins: Any, columns: int) -> None:
            """Add the sums to the bias if they begin, or else to the results."""
            with builder.if_else(begins) as ways:
                for number, way in enumerate(ways):
                    with way:
                        for i in range(high):
                            constant = emit.broadcast(builder.load(emit.step(biases, i)))
                            row = emit.step(target, emit.times(y_pitch_, i))
                            for v in range(columns):
                                place = emit.step(row, v * emit.width)
                                before = constant if number == 0 else emit.load(place)
                                emit.store(emit.add(before, builder.load(total[i][v])), place)

        def tile(factors: Any, begin: Any, target: Any, columns: int) -> None:
            """Compute the positions that begin at address `begin`, by the weights at `factors`."""
            builder.store(factors, weight)
            builder.store(begin, source)
            builder.store(emit.step(begin, first_tap), upcoming)
            with cgutils.for_range_slice(builder, zero, channels_, chunk, inc=True) as (first, _):
                for row in total:
                    for accumulator in row:
                        builder.store(emit.zero, accumulator)
                rest = builder.sub(channels_, first)
                more = builder.icmp_signed("<", chunk, rest)
                some = builder.select(more, chunk, rest)
                some = builder.select(empty, zero, some)
                if MACHINE.single_taps > 1 and columns == wide:
                    with builder.if_else(single) as (alone, together):
                        with alone:
                            single_taps(columns, some)
                        with together:
                            all_taps(columns, some)
                else:
                    all_taps(columns, some)
                write(target, builder.icmp_signed("<", first, fresh_), columns)

        step = ir.Constant(INDEX, wide * emit.width)
        with (
            cgutils.for_range(builder, rows_) as row,
            cgutils.for_range_slice(builder, zero, count_, step, inc=True) as (at, _),
        ):
            factors = emit.step(weights, builder.mul(row.index, w_row_))
            begin = emit.step(emit.step(sources, builder.mul(row.index, x_row_)), at)
            target = emit.step(emit.step(results, builder.mul(row.index, y_row_)), at)
            few = builder.icmp_signed("<=", builder.sub(count_, at), width)
            few = builder.and_(few, ir.Constant(few.type, (high, wide) == MACHINE.spread[0]))
            with builder.if_else(few) as (narrow, whole):
                with narrow:
                    tile(factors, begin, target, 1)
                with whole:
                    tile(factors, begin, target, wide)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def _dot(
    typing: Any, lanes: Any, streams: Any, a: Any, a_at: Any, a_pitch: Any, a_row: Any,
    b: Any, offsets: Any, offset_at: Any, b_row: Any, rows: Any, count: Any, y: Any, y_at: Any,
    far: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `dot` for literal `lanes` and `streams`."""
    signature = types.void(
        lanes, streams, a, a_at, a_pitch, a_row, b, offsets, offset_at, b_row, rows, count,
        y, y_at, far,
    )  # fmt: skip
    high, across = lanes.literal_value, streams.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, _, a_, a_at_, a_pitch_, a_row_, b_, offsets_, offset_at_, b_row_, rows_, count_,
         y_, y_at_, far_) = values  # fmt: skip
        emit = Emitter(context, builder, a.dtype)
        table = emit.pointer(offsets, offsets_, offset_at_)
        starts = [emit.pointer(b, b_, builder.load(emit.step(table, j))) for j in range(across)]
        total = emit.accumulators(high, across)
        zero, width = ir.Constant(INDEX, 0), ir.Constant(INDEX, emit.width)
        with cgutils.for_range(builder, rows_) as row:
            first = emit.pointer(a, a_, builder.add(a_at_, builder.mul(row.index, a_row_)))
            lefts = [emit.step(first, emit.times(a_pitch_, i)) for i in range(high)]
            down = builder.mul(row.index, b_row_)
            rights = [emit.step(start, down) for start in starts]
            called = builder.inttoptr(far_, first.type)
            called = emit.step(called, builder.mul(row.index, a_row_))

            with cgutils.for_range_slice(builder, zero, count_, width, inc=True) as (at, _):
                emit.prefetch(emit.step(called, at))
                right = [emit.load(emit.step(pointer, at)) for pointer in rights]
                for i in range(high):
                    left = emit.load(emit.step(lefts[i], at))
                    for j in range(across):
                        emit.multiply_add(left, right[j], total[i][j])
        target = emit.pointer(y, y_, y_at_)
        flat = [builder.load(total[i][j]) for i in range(high) for j in range(across)]
        for at in range(0, len(flat), emit.width):
            place = emit.step(target, at)
            emit.store(emit.add(emit.load(place), emit.sums(flat[at : at + emit.width])), place)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def _cross(
    typing: Any, vectors: Any, count: Any, x: Any, x_at: Any, x_pitch: Any, runs: Any, run_at: Any,
    run_end: Any, channels: Any, w: Any, w_at: Any, y: Any, y_at: Any, fresh: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `cross` for literal `vectors`."""
    signature = types.void(
        vectors, count, x, x_at, x_pitch, runs, run_at, run_end, channels, w, w_at, y, y_at, fresh
    )
    (high, most), wide = MACHINE.spread[0], vectors.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, count_, x_, x_at_, x_pitch_, runs_, run_at_, run_end_, channels_, w_, w_at_, y_, y_at_,
         fresh_) = values  # fmt: skip
        emit = Emitter(context, builder, x.dtype)
        zero, row = ir.Constant(INDEX, 0), ir.Constant(INDEX, ROW)
        sources, results = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        weights, offsets = emit.pointer(w, w_, w_at_), emit.pointer(runs, runs_, run_at_)
        weight = cgutils.alloca_once_value(builder, weights)
        source = cgutils.alloca_once_value(builder, sources)
        begins = cgutils.alloca_once_value(builder, fresh_)
        pending = cgutils.alloca_once_value(builder, zero)
        total = emit.accumulators(high, wide)

        def multiply(channel: Any) -> None:
            """Multiply a channel of all positions by its weights."""
            scalars, vectors = emit.step(builder.load(source), channel), builder.load(weight)
            after = emit.step(builder.load(source), high * ROW)  # the next positions
            emit.prefetch(emit.step(after, emit.times(channel, LINE // emit.size)))
            loaded = []
            for v in range(wide):
                emit.prefetch(emit.step(vectors, (v + wide * AHEAD_CROSS) * emit.width))
                loaded.append(emit.load(emit.step(vectors, v * emit.width)))
            _add_products(emit, scalars, ROW, loaded, total)
            builder.store(emit.step(vectors, wide * emit.width), weight)

        def write(target: Any) -> None:
            """Write the sums, or add them to what there is, and begin anew."""
            with builder.if_else(builder.icmp_signed("!=", builder.load(begins), zero)) as ways:
                for number, way in enumerate(ways):
                    with way:
                        for i in range(high):
                            for v in range(wide):
                                place = emit.step(target, (i * most + v) * emit.width)
                                value = builder.load(total[i][v])
                                if number:
                                    value = emit.add(emit.load(place), value)
                                emit.store(value, place)
            for accumulators in total:
                for accumulator in accumulators:
                    builder.store(emit.zero, accumulator)
            builder.store(zero, begins)
            builder.store(zero, pending)

        taps, step = builder.sub(run_end_, run_at_), ir.Constant(INDEX, high)
        last_tap = builder.sub(taps, ir.Constant(INDEX, 1))
        with cgutils.for_range_slice(builder, zero, count_, step, inc=True) as (at, _):
            builder.store(weights, weight)
            builder.store(fresh_, begins)
            first = emit.step(sources, emit.times(at, ROW))
            target = emit.step(results, emit.times(at, most * emit.width))
            with cgutils.for_range(builder, taps) as tap:
                offset = builder.load(emit.step(offsets, tap.index))
                builder.store(emit.step(first, offset), source)
                with cgutils.for_range_slice(builder, zero, channels_, row, inc=True) as (c, _):
                    rest = builder.sub(channels_, c)
                    ends = builder.icmp_signed("<=", rest, row)
                    some = builder.select(ends, rest, row)
                    with cgutils.for_range(builder, some) as channel:
                        multiply(channel.index)
                    builder.store(emit.step(builder.load(source), x_pitch_), source)
                    terms = builder.add(builder.load(pending), some)
                    builder.store(terms, pending)
                    enough = builder.icmp_signed(">=", terms, row)
                    ends = builder.and_(ends, builder.icmp_signed("==", tap.index, last_tap))
                    with builder.if_then(builder.or_(enough, ends)):
                        write(target)
                builder.store(emit.step(builder.load(weight), LINE // emit.size), weight)
        return context.get_dummy_value()

    return signature, generate


def _spread_python(
    lanes: int, vectors: int, rows: int, count: int, w: np.ndarray, w_at: int, w_row: int,
    x: np.ndarray, x_at: int, x_row: int, plane: int, channels: int,
    taps: np.ndarray, tap_at: int, tap_end: int, bias: np.ndarray, bias_at: int,
    y: np.ndarray, y_at: int, y_row: int, y_pitch: int, fresh: int, ahead: int, terms: int,
) -> None:  # fmt: skip
    """Compute `spread` in plain Python."""
    step = MACHINE.vector_bytes // x.itemsize
    if (lanes, vectors) != MACHINE.spread[0]:
        step *= vectors
    positions, steps = -(-count // step) * step, channels * (tap_end - tap_at)
    taken = max(1, tap_end - tap_at)
    chunk = max(1, (terms + taken // 2) // taken)
    for row in range(rows):
        factors = w[w_at + row * w_row :][: steps * lanes].reshape(channels, -1, lanes)
        for first in range(0, channels, chunk):
            part = np.zeros((lanes, positions), x.dtype)
            for channel in range(first, min(channels, first + chunk)):
                for tap in range(tap_end - tap_at):
                    start = x_at + row * x_row + channel * plane + taps[tap_at + tap]
                    part += factors[channel, tap][:, None] * x[start : start + positions]
            for i in range(lanes):
                start = y_at + row * y_row + i * y_pitch
                before = y[start : start + positions]
                before[:] = part[i] + (bias[bias_at + i] if first < fresh else before)


def _dot_python(
    lanes: int, streams: int, a: np.ndarray, a_at: int, a_pitch: int, a_row: int,
    b: np.ndarray, offsets: np.ndarray, offset_at: int, b_row: int, rows: int, count: int,
    y: np.ndarray, y_at: int, far: int,
) -> None:  # fmt: skip
    """Compute `dot` in plain Python."""
    for i, j, row in product(range(lanes), range(streams), range(rows)):
        left, right = a_at + i * a_pitch + row * a_row, offsets[offset_at + j] + row * b_row
        y[y_at + i * streams + j] += a[left : left + count] @ b[right : right + count]


def _cross_python(
    vectors: int, count: int, x: np.ndarray, x_at: int, x_pitch: int, runs: np.ndarray, run_at: int,
    run_end: int, channels: int, w: np.ndarray, w_at: int, y: np.ndarray, y_at: int, fresh: int,
) -> None:  # fmt: skip
    """Compute `cross` in plain Python."""
    (high, most), width = MACHINE.spread[0], MACHINE.vector_bytes // x.itemsize
    count, wide = -(-count // high) * high, vectors * width
    sums = np.zeros((count, wide), x.dtype)
    for run in runs[run_at:run_end]:
        for first in range(0, channels, ROW):
            some, at = min(ROW, channels - first), x_at + run + first // ROW * x_pitch
            rows = x[at + ROW * np.arange(count)[:, None] + np.arange(some)]
            sums += rows @ w[w_at : w_at + some * wide].reshape(some, wide)
            w_at += some * wide
        w_at += LINE // x.itemsize
    result = y[y_at : y_at + count * most * width].reshape(count, most * width)[:, :wide]
    result[:] = sums if fresh else result + sums


if config.DISABLE_JIT:
    _spread, _dot, _cross = _spread_python, _dot_python, _cross_python

# Each machine's table of tiles as a chain of literal calls: a literal is what makes the tile's
# loops unroll. LLVM removes nothing here at run time: it is one comparison per call.
_SPREAD = MACHINE.spread + (MACHINE.spread[-1],) * (6 - len(MACHINE.spread))
_DOT = MACHINE.dot + (MACHINE.dot[-1],) * (4 - len(MACHINE.dot))
(_S0, _V0), (_S1, _V1), (_S2, _V2), (_S3, _V3), (_S4, _V4), (_S5, _V5) = _SPREAD
(_D0, _W0), (_D1, _W1), (_D2, _W2), (_D3, _W3) = _DOT
HALF = _W0 // 2  # streams of a tile of `dot` of the most lanes, where no more are left


@linked_by_address("iiiaiiaiiiiniiaiaiiiiii")
@kernel
def spread(
    lanes, rows, count, w, w_at, w_row, x, x_at, x_row, plane, channels, taps, tap_at, tap_end,
    bias, bias_at, y, y_at, y_row, y_pitch, fresh, ahead, terms,
):  # fmt: skip
    """Sum products up, for `lanes` and some rows of positions, tile by tile.

    ``y[i * y_pitch + r * y_row + p] = bias[i] + sum(w[r * w_row + (c, t, i)] * x[c * plane +
    taps[t] + r * x_row + p])`` over channels c and taps t, for rows r < rows and positions p <
    count. If `fresh` is 0, not 1, the sums are added to `y` instead. About `terms` products are
    added up in a row, then those sums. What lies `ahead` elements on in `x` is called for.

    Assumptions: `lanes` is in `MACHINE.spread`; `count` is rounded up to whole tiles, of the
    vectors that `lanes` stands with, or for the most lanes to whole vectors; `w` is packed
    (channels, taps, lanes); every array is one-dimensional and holds all that whole vectors reach;
    `taps` are int64 offsets, those from `tap_at` to `tap_end` apply.
    """
    if lanes == _S0:
        _spread(
            _S0, _V0, rows, count, w, w_at, w_row, x, x_at, x_row, plane, channels, taps,
            tap_at, tap_end, bias, bias_at, y, y_at, y_row, y_pitch, fresh, ahead, terms,
        )  # fmt: skip
    elif lanes == _S1:
        _spread(
            _S1, _V1, rows, count, w, w_at, w_row, x, x_at, x_row, plane, channels, taps,
            tap_at, tap_end, bias, bias_at, y, y_at, y_row, y_pitch, fresh, ahead, terms,
        )  # fmt: skip
    elif lanes == _S2:
        _spread(
            _S2, _V2, rows, count, w, w_at, w_row, x, x_at, x_row, plane, channels, taps,
            tap_at, tap_end, bias, bias_at, y, y_at, y_row, y_pitch, fresh, ahead, terms,
        )  # fmt: skip
    elif lanes == _S3:
        _spread(
            _S3, _V3, rows, count, w, w_at, w_row, x, x_at, x_row, plane, channels, taps,
            tap_at, tap_end, bias, bias_at, y, y_at, y_row, y_pitch, fresh, ahead, terms,
        )  # fmt: skip
    elif lanes == _S4:
        _spread(
            _S4, _V4, rows, count, w, w_at, w_row, x, x_at, x_row, plane, channels, taps,
            tap_at, tap_end, bias, bias_at, y, y_at, y_row, y_pitch, fresh, ahead, terms,
        )  # fmt: skip
    else:
        _spread(
            _S5, _V5, rows, count, w, w_at, w_row, x, x_at, x_row, plane, channels, taps,
            tap_at, tap_end, bias, bias_at, y, y_at, y_row, y_pitch, fresh, ahead, terms,
        )  # fmt: skip


@linked_by_address("iiaiiianiiiiaii")
@kernel
def dot(
    lanes, streams, a, a_at, a_pitch, a_row, b, offsets, offset_at, b_row, rows, count,
    y, y_at, far,
):  # fmt: skip
    """Add the products of some rows up, in `lanes` by `streams` sums.

    ``y[i, j] += sum(a[i * a_pitch + r * a_row + p] * b[offsets[j] + r * b_row + p])`` over rows
    r < rows and positions p < count. What lies at address `far`, as far as a lane's rows reach, is
    called for.

    Assumptions: `lanes` is in `MACHINE.dot`, and `streams` are those that it stands with, or for
    the most lanes `HALF`; `count` is a multiple of the vector width; `offsets` are int64, from
    `offset_at` on; `y` has room for ``lanes * streams`` rounded up to whole vectors.
    """
    if lanes == _D0 and streams == HALF:
        _dot(
            _D0, HALF, a, a_at, a_pitch, a_row, b, offsets, offset_at, b_row, rows, count,
            y, y_at, far,
        )  # fmt: skip
    elif lanes == _D0:
        _dot(
            _D0, _W0, a, a_at, a_pitch, a_row, b, offsets, offset_at, b_row, rows, count,
            y, y_at, far,
        )  # fmt: skip
    elif lanes == _D1:
        _dot(
            _D1, _W1, a, a_at, a_pitch, a_row, b, offsets, offset_at, b_row, rows, count,
            y, y_at, far,
        )  # fmt: skip
    elif lanes == _D2:
        _dot(
            _D2, _W2, a, a_at, a_pitch, a_row, b, offsets, offset_at, b_row, rows, count,
            y, y_at, far,
        )  # fmt: skip
    else:
        _dot(
            _D3, _W3, a, a_at, a_pitch, a_row, b, offsets, offset_at, b_row, rows, count,
            y, y_at, far,
        )  # fmt: skip


@linked_by_address("iiaiiniiiaiaii")
@kernel
def cross(
    vectors, count, x, x_at, x_pitch, runs, run_at, run_end, channels, w, w_at, y, y_at, fresh
):  # fmt: skip
    """Sum products up, for some positions and `vectors` of result channels.

    ``y[p * most + j] = sum(x[runs[r] + c // ROW * x_pitch + p * ROW + c % ROW] * w[r, c, j])`` over
    runs from `run_at` to `run_end` and source channels c < channels, for p < count; `most` is what
    the largest tile's vectors have elements. If `fresh` is 0, not 1, the sums are added to `y`.

    Assumptions: `vectors` is 1 or that of ``MACHINE.spread[0]``; `count` is rounded up to the lanes
    of that, and both `x` and `y` have room for so many positions; `w` is packed, with a gap of a
    cache line behind each run: its lines would fight for the same cache sets.
    """
    if vectors == 1:
        _cross(1, count, x, x_at, x_pitch, runs, run_at, run_end, channels, w, w_at, y, y_at, fresh)
    else:
        _cross(
            _V0, count, x, x_at, x_pitch, runs, run_at, run_end, channels, w, w_at, y, y_at, fresh
        )
