"""The register tile of positions x result channels.

Each step broadcasts one source channel of each position, whose channels lie side by side, and
multiplies it into vectors of weights. It serves the passes by Winograd's tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..config import AHEAD_CROSS, LINE, MACHINE, ROW
from ..runtime.jit import kernel
from ..runtime.launch import linked_by_address
from ..vectors.emit import INDEX, Emitter
from .products import add_products


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
            ahead = emit.step(vectors, wide * AHEAD_CROSS * emit.width)
            emit.prefetch_lines(ahead, wide * emit.width)
            loaded = [emit.load(emit.step(vectors, v * emit.width)) for v in range(wide)]
            add_products(emit, scalars, ROW, loaded, total)
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
    _cross = _cross_python

_MOST = MACHINE.spread[0][1]  # a literal, which is what makes the tile's loops unroll


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
            _MOST, count, x, x_at, x_pitch, runs, run_at, run_end, channels, w, w_at, y, y_at, fresh
        )
