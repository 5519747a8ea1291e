"""The register tile of lanes x positions.

Each step broadcasts a packed weight per lane and multiplies it into vectors of consecutive
positions. It serves the passes by positions, and with other roles the products of matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..config import AHEAD_STEPS, LINE, MACHINE
from ..runtime.jit import kernel
from ..runtime.launch import linked_by_address
from ..vectors.emit import INDEX, Emitter
from .products import add_products


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
        first_tap = builder.load(
            builder.select(empty, cgutils.alloca_once_value(builder, zero), offsets)
        )
        taken = emit.at_least_one(tap_count)
        wanted = builder.add(terms_, builder.lshr(taken, one))
        chunk = emit.at_least_one(builder.sdiv(wanted, taken))

        def multiply(columns: int, begins: list[Any], crossing: bool) -> None:
            """Multiply steps, whose positions begin there; call for what later ones read.

            These are the cache lines of vectors that begin one, and with `crossing` the line that
            the last one ends in as well.
            """
            count, scalars = columns * emit.width, builder.load(weight)
            emit.prefetch_lines(emit.step(scalars, high * AHEAD_STEPS), len(begins) * high)
            for i, begin in enumerate(begins):
                far = emit.step(begin, ahead_)
                emit.prefetch_lines(far, count)
                if crossing:
                    emit.prefetch(emit.step(far, count - 1))
                positions = [emit.load(emit.step(begin, v * emit.width)) for v in range(columns)]
                add_products(emit, emit.step(scalars, high * i), 1, positions, total)
            builder.store(emit.step(scalars, high * len(begins)), weight)

        def tap(columns: int, after: Any) -> None:
            """Multiply one tap of a channel; the positions of the next step are at `after`.

            That address is known a step early, so that loads need not wait for it. A core that
            another thread shares finds too little else to do meanwhile.
            """
            begin = builder.load(upcoming)
            builder.store(after, upcoming)
            multiply(columns, [begin], False)

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

        def turns(columns: int, some: Any, taps: int, channels: int) -> None:
            """Multiply channels of so many taps, so many channels in a turn of the loop."""
            places = [builder.load(emit.step(offsets, i)) for i in range(taps)]
            loops = [(builder.udiv(some, ir.Constant(INDEX, channels)), channels)]
            if channels > 1:
                loops.append((builder.urem(some, ir.Constant(INDEX, channels)), 1))
            for count, together in loops:
                with cgutils.for_range(builder, count):
                    here, begins = builder.load(source), []
                    for _ in range(together):
                        begins += [emit.step(here, place) for place in places]
                        here = emit.step(here, plane_)
                    builder.store(here, source)
                    multiply(columns, begins, MACHINE.crossing and taps > 1)

        def multiply_all(columns: int, some: Any, ways: tuple[tuple[int, int], ...]) -> None:
            """Multiply all taps of some channels, by turns of the loop where they fit."""
            if not ways:
                all_taps(columns, some)
                return
            (taps, channels), *others = ways
            here = builder.icmp_signed("==", tap_count, ir.Constant(INDEX, taps))
            with builder.if_else(here) as (these, other):
                with these:
                    turns(columns, some, taps, channels)
                with other:
                    multiply_all(columns, some, tuple(others))

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

        def call_for_next(target: Any, columns: int) -> None:
            """Call for the next tile's results where this one begins within a cache line.

            Lines that are written in parts are read before that.
            """
            within = builder.and_(builder.ptrtoint(target, INDEX), ir.Constant(INDEX, LINE - 1))
            with builder.if_then(builder.icmp_signed("!=", within, zero)):
                after = emit.step(target, columns * emit.width)
                for i in range(high):
                    lane = emit.step(after, emit.times(y_pitch_, i))
                    emit.prefetch_lines(lane, columns * emit.width)

        def tile(factors: Any, begin: Any, target: Any, columns: int) -> None:
            """Compute the positions that begin at address `begin`, by the weights at `factors`."""
            call_for_next(target, columns)
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
                multiply_all(columns, some, MACHINE.turns if columns == wide else ())
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


if config.DISABLE_JIT:
    _spread = _spread_python

# The machine's table of tiles as a chain of literal calls: a literal is what makes the tile's loops
# unroll. LLVM removes nothing here at run time: it is one comparison per call.
_TILES = MACHINE.spread + (MACHINE.spread[-1],) * (6 - len(MACHINE.spread))
(_S0, _V0), (_S1, _V1), (_S2, _V2), (_S3, _V3), (_S4, _V4), (_S5, _V5) = _TILES


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
