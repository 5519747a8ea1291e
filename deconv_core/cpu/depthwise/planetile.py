"""The two tiles of depthwise convolutions of narrow pictures, read in place: masks stand for edges.

Where rows are as long in a picture as in its result, tap (i, j) finds what position p needs at
``p + i * row + j``; only at the edges is something else there, the end of the row before or another
picture. Masks leave that out, one for each tap and vector of positions: nothing is packed, rows run
on into each other, and whole vectors are stored but for the last. Each tile has a plain Python twin
for when Numba's compiler is disabled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..config import MACHINE
from ..runtime.jit import kernel
from ..vectors.emit import INDEX, Emitter
from ..vectors.rows import vectors
from .rowtile import TAPS

VECTORS = (7, 4, 1)  # of positions that one `plane_tile` computes


@intrinsic(prefer_literal=True)
def _plane_tile(
    typing: Any, size: Any, x: Any, x_at: Any, w: Any, w_at: Any, offsets: Any, masks: Any,
    mask_at: Any, mask_pitch: Any, taps: Any, y: Any, y_at: Any, rest: Any, bias: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `plane_tile` for literal `size`."""
    signature = types.void(
        size, x, x_at, w, w_at, offsets, masks, mask_at, mask_pitch, taps, y, y_at, rest, bias
    )
    count = size.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, x_, x_at_, w_, w_at_, offsets_, masks_, mask_at_, mask_pitch_, taps_,
         y_, y_at_, rest_, bias_) = values  # fmt: skip
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        weights, table = emit.pointer(w, w_, w_at_), emit.pointer(offsets, offsets_, 0)
        bits = emit.pointer(masks, masks_, mask_at_)
        total = emit.accumulators(1, count)[0]
        for accumulator in total:
            builder.store(emit.broadcast(bias_), accumulator)
        with cgutils.for_range(builder, taps_) as tap:
            start = emit.step(source, builder.load(emit.step(table, tap.index)))
            scalar = emit.broadcast(builder.load(emit.step(weights, tap.index)))
            line = emit.step(bits, builder.mul(tap.index, mask_pitch_))
            for v in range(count):
                mask = builder.load(emit.step(line, v))
                inside = emit.load_where(emit.step(start, v * emit.width), mask)
                emit.multiply_add(scalar, inside, total[v])
        for v, accumulator in enumerate(total[:-1]):
            emit.store(builder.load(accumulator), emit.step(target, v * emit.width))
        last, place = builder.load(total[-1]), emit.step(target, (count - 1) * emit.width)
        left = builder.sub(rest_, ir.Constant(INDEX, (count - 1) * emit.width))
        whole = builder.icmp_signed(">=", left, ir.Constant(INDEX, emit.width))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                emit.store(last, place)
            with otherwise:
                emit.store_before(last, place, ir.Constant(INDEX, 0), left)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def _plane_dot(
    typing: Any, taps: Any, dy: Any, dy_at: Any, count: Any, x: Any, x_at: Any, offsets: Any,
    masks: Any, mask_pitch: Any, tap: Any, sums: Any, sums_at: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Emit `plane_dot` for literal `taps`."""
    signature = types.void(
        taps, dy, dy_at, count, x, x_at, offsets, masks, mask_pitch, tap, sums, sums_at
    )
    size = taps.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        (_, dy_, dy_at_, count_, x_, x_at_, offsets_, masks_, mask_pitch_, tap_,
         sums_, sums_at_) = values  # fmt: skip
        emit = Emitter(context, builder, x.dtype)
        source, gradient = emit.pointer(x, x_, x_at_), emit.pointer(dy, dy_, dy_at_)
        table = emit.pointer(offsets, offsets_, tap_)
        starts = [emit.step(source, builder.load(emit.step(table, t))) for t in range(size)]
        bits = emit.pointer(masks, masks_, tap_)
        total = emit.accumulators(1, size)[0]
        for accumulator in total:
            builder.store(emit.zero, accumulator)

        def body(at: Any, masked: bool) -> None:
            place = emit.step(gradient, at)
            left = emit.load_before(place, at, count_) if masked else emit.load(place)
            vector = builder.sdiv(at, ir.Constant(INDEX, emit.width))
            line = emit.step(bits, builder.mul(vector, mask_pitch_))
            for t in range(size):
                mask = builder.load(emit.step(line, t))
                emit.multiply_add(left, emit.load_where(emit.step(starts[t], at), mask), total[t])

        vectors(emit, count_, body)
        target = emit.pointer(sums, sums_, sums_at_)
        for t, accumulator in enumerate(total):
            place = emit.step(target, t * emit.width)
            emit.store(emit.add(emit.load(place), builder.load(accumulator)), place)
        return context.get_dummy_value()

    return signature, generate


def _read(x: np.ndarray, at: int, mask: int, width: int) -> np.ndarray:
    """Return the elements of a vector at ``x[at]`` that the bits of `mask` name; zeros else."""
    return np.array([x[at + i] if mask >> i & 1 else 0 for i in range(width)], x.dtype)


def _plane_tile_python(
    size: int, x: np.ndarray, x_at: int, w: np.ndarray, w_at: int, offsets: np.ndarray,
    masks: np.ndarray, mask_at: int, mask_pitch: int, taps: int,
    y: np.ndarray, y_at: int, rest: int, bias: float,
) -> None:  # fmt: skip
    """Compute `plane_tile` in plain Python."""
    width = MACHINE.vector_bytes // x.itemsize
    for v in range(size):
        total = np.full(width, bias, x.dtype)
        for tap in range(taps):
            mask = int(masks[mask_at + tap * mask_pitch + v])
            total += w[w_at + tap] * _read(x, x_at + offsets[tap] + v * width, mask, width)
        begin, end = v * width, min(rest, (v + 1) * width)
        y[y_at + begin : y_at + end] = total[: end - begin]


def _plane_dot_python(
    taps: int, dy: np.ndarray, dy_at: int, count: int, x: np.ndarray, x_at: int,
    offsets: np.ndarray, masks: np.ndarray, mask_pitch: int, tap: int,
    sums: np.ndarray, sums_at: int,
) -> None:  # fmt: skip
    """Compute `plane_dot` in plain Python."""
    width = MACHINE.vector_bytes // x.itemsize
    for t in range(taps):
        for at in range(0, count, width):
            mask, n = int(masks[at // width * mask_pitch + tap + t]), min(width, count - at)
            right = _read(x, x_at + offsets[tap + t] + at, mask, width)
            sums[sums_at + t * width] += dy[dy_at + at : dy_at + at + n] @ right[:n]


if config.DISABLE_JIT:
    _plane_tile, _plane_dot = _plane_tile_python, _plane_dot_python

_MOST, _SOME, _ONE = VECTORS
_MANY, _FEW = TAPS


@kernel(inline="always")
def plane_tile(
    size, x, x_at, w, w_at, offsets, masks, mask_at, mask_pitch, taps, y, y_at, rest, bias
):  # fmt: skip
    """``y[p] = bias + sum(w[t] * x[offsets[t] + p])`` over the taps t whose mask has position p.

    The positions are those of `size` vectors, from `x_at` and `y_at` on; only the first `rest`
    of them are written. The masks of tap t are those from ``mask_at + t * mask_pitch`` on.
    Assumptions: `size` is in `VECTORS`; `rest` reaches into the last vector; the masks name
    elements of `x` only.
    """
    if size == _MOST:
        _plane_tile(
            _MOST, x, x_at, w, w_at, offsets, masks, mask_at, mask_pitch, taps, y, y_at, rest, bias
        )
    elif size == _SOME:
        _plane_tile(
            _SOME, x, x_at, w, w_at, offsets, masks, mask_at, mask_pitch, taps, y, y_at, rest, bias
        )
    else:
        _plane_tile(
            _ONE, x, x_at, w, w_at, offsets, masks, mask_at, mask_pitch, taps, y, y_at, rest, bias
        )


@kernel(inline="always")
def plane_dot(
    taps, dy, dy_at, count, x, x_at, offsets, masks, mask_pitch, tap, sums, sums_at
):  # fmt: skip
    """Add ``dy[p] * x[offsets[tap + t] + p]`` to vector t of `sums`, for the positions p < count.

    Only those count that are in the mask of their tap, for vector v ``masks[v * mask_pitch + tap +
    t]``; the sum is that of the vector's elements.
    Assumptions: `taps` is in `TAPS`; the masks name elements of `x` only.
    """
    if taps == _MANY:
        _plane_dot(_MANY, dy, dy_at, count, x, x_at, offsets, masks, mask_pitch, tap, sums, sums_at)
    else:
        _plane_dot(_FEW, dy, dy_at, count, x, x_at, offsets, masks, mask_pitch, tap, sums, sums_at)
