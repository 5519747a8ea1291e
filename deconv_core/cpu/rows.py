"""Moving rows: copy, split into two phases, merge two phases, in whole vectors with a masked end.

Rows are short (32 floats, say), where compilers' own vector loops spend most of their time in
scalar remainders. Each mover has a plain Python twin for when Numba's compiler is disabled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from .emit import INDEX, Emitter


def vectors(emit: Emitter, count: Any, body: Callable[[Any, bool], None]) -> None:
    """Emit `body` for every vector of `count` > 0 elements; the last, masked one may be whole."""
    builder, width = emit.builder, ir.Constant(INDEX, emit.width)
    one = ir.Constant(INDEX, 1)
    whole = builder.mul(builder.sdiv(builder.sub(count, one), width), width)
    with cgutils.for_range_slice(builder, ir.Constant(INDEX, 0), whole, width, inc=True) as (at, _):
        body(at, False)
    with builder.if_then(builder.icmp_signed(">", count, ir.Constant(INDEX, 0))):
        body(whole, True)


@intrinsic
def copy(typing: Any, y: Any, y_at: Any, x: Any, x_at: Any, count: Any, bias: Any) -> Any:
    """``y[y_at + i] = x[x_at + i] + bias`` for i < count."""
    signature = types.void(y, y_at, x, x_at, count, bias)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, x_, x_at_, count_, bias_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        offset = emit.broadcast(bias_)

        def body(at: Any, masked: bool) -> None:
            read, write = emit.step(source, at), emit.step(target, at)
            if masked:
                row = emit.add(emit.load_before(read, at, count_), offset)
                emit.store_before(row, write, at, count_)
            else:
                emit.store(emit.add(emit.load(read), offset), write)

        vectors(emit, count_, body)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def split(typing: Any, y: Any, y_at: Any, x: Any, x_at: Any, count: Any) -> Any:
    """``y[y_at + i] = x[x_at + 2 * i]`` for i < count."""
    signature = types.void(y, y_at, x, x_at, count)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, x_, x_at_, count_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        two, one = ir.Constant(INDEX, 2), ir.Constant(INDEX, 1)
        end = builder.sub(builder.mul(count_, two), one)
        even = [2 * i for i in range(emit.width)]

        def body(at: Any, masked: bool) -> None:
            first = builder.mul(at, two)
            second = builder.add(first, ir.Constant(INDEX, emit.width))
            reads = [emit.step(source, first), emit.step(source, second)]
            if masked:
                low = emit.load_before(reads[0], first, end)
                high = emit.load_before(reads[1], second, end)
                emit.store_before(emit.shuffle(low, high, even), emit.step(target, at), at, count_)
            else:
                low, high = emit.load(reads[0]), emit.load(reads[1])
                emit.store(emit.shuffle(low, high, even), emit.step(target, at))

        vectors(emit, count_, body)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def window(
    typing: Any, y: Any, y_at: Any, x: Any, x_at: Any, first: Any, count: Any, limit: Any
) -> Any:
    """``y[y_at + i] = row[first + i]`` for i < count.

    Row is ``x[x_at : x_at + limit]`` with zeros before and after it. Whole vectors of `y` are
    written.
    """
    signature = types.void(y, y_at, x, x_at, first, count, limit)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, x_, x_at_, first_, count_, limit_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)

        def body(at: Any, masked: bool) -> None:
            start = builder.add(first_, at)
            row = emit.load_inside(emit.step(source, start), start, limit_)
            emit.store(row, emit.step(target, at))

        vectors(emit, count_, body)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def halve(
    typing: Any, y: Any, y_at: Any, odd: Any, x: Any, x_at: Any, first: Any, count: Any, limit: Any
) -> Any:
    """``y[y_at + r * odd + i] = row[first + 2 * i + r]`` for i < count and r in (0, 1).

    Row is ``x[x_at : x_at + limit]`` with zeros before and after it. Whole vectors of `y` are
    written.
    """
    signature = types.void(y, y_at, odd, x, x_at, first, count, limit)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, odd_, x_, x_at_, first_, count_, limit_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
        two, width = ir.Constant(INDEX, 2), ir.Constant(INDEX, emit.width)

        def body(at: Any, masked: bool) -> None:
            low = builder.add(first_, builder.mul(at, two))
            reads = [
                emit.load_inside(emit.step(source, start), start, limit_)
                for start in (low, builder.add(low, width))
            ]
            for half in (0, 1):
                order = [2 * i + half for i in range(emit.width)]
                write = emit.step(target, emit.times(odd_, half))
                emit.store(emit.shuffle(reads[0], reads[1], order), emit.step(write, at))

        vectors(emit, count_, body)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def prefetch(typing: Any, x: Any, x_at: Any, count: Any) -> Any:
    """Ask for ``x[x_at : x_at + count]`` to be brought near; it may lie outside of the array."""
    signature = types.void(x, x_at, count)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        x_, x_at_, count_ = values
        emit = Emitter(context, builder, x.dtype)
        start = emit.pointer(x, x_, x_at_)
        line = ir.Constant(INDEX, 64 // emit.size)
        with cgutils.for_range_slice(builder, ir.Constant(INDEX, 0), count_, line, inc=True) as (
            at,
            _,
        ):
            emit.prefetch(emit.step(start, at))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def merge(
    typing: Any, y: Any, y_at: Any, x: Any, even_at: Any, odd_at: Any, count: Any, bias: Any
) -> Any:
    """``y[y_at + 2 * i + r] = x[(even_at, odd_at)[r] + i] + bias`` up to `count` elements of y.

    Whole vectors of both rows of `x` are read.
    """
    signature = types.void(y, y_at, x, even_at, odd_at, count, bias)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, x_, even_at_, odd_at_, count_, bias_ = values
        emit = Emitter(context, builder, x.dtype)
        even, odd = emit.pointer(x, x_, even_at_), emit.pointer(x, x_, odd_at_)
        target, offset, width = emit.pointer(y, y_, y_at_), emit.broadcast(bias_), emit.width
        one, two = ir.Constant(INDEX, 1), ir.Constant(INDEX, 2)
        pairs = builder.sdiv(builder.add(count_, one), two)

        def body(at: Any, masked: bool) -> None:
            rows = [emit.add(emit.load(emit.step(row, at)), offset) for row in (even, odd)]
            first = builder.mul(at, two)
            for half in (0, 1):
                start = builder.add(first, ir.Constant(INDEX, half * width))
                order = [half * width // 2 + i // 2 + width * (i % 2) for i in range(width)]
                merged, write = emit.shuffle(rows[0], rows[1], order), emit.step(target, start)
                if masked:
                    emit.store_before(merged, write, start, count_)
                else:
                    emit.store(merged, write)

        vectors(emit, pairs, body)
        return context.get_dummy_value()

    return signature, generate


def _copy(y: np.ndarray, y_at: int, x: np.ndarray, x_at: int, count: int, bias: float) -> None:
    """Compute `copy` in plain Python."""
    y[y_at : y_at + count] = x[x_at : x_at + count] + bias


def _split(y: np.ndarray, y_at: int, x: np.ndarray, x_at: int, count: int) -> None:
    """Compute `split` in plain Python."""
    y[y_at : y_at + count] = x[x_at : x_at + 2 * count - 1 : 2]


def _window(
    y: np.ndarray, y_at: int, x: np.ndarray, x_at: int, first: int, count: int, limit: int
) -> None:
    """Compute `window` in plain Python."""
    row = np.zeros(count, x.dtype)
    begin, end = max(0, first), min(limit, first + count)
    if begin < end:
        row[begin - first : end - first] = x[x_at + begin : x_at + end]
    y[y_at : y_at + count] = row


def _halve(
    y: np.ndarray, y_at: int, odd: int,
    x: np.ndarray, x_at: int, first: int, count: int, limit: int,
) -> None:  # fmt: skip
    """Compute `halve` in plain Python."""
    row = np.zeros(2 * count, x.dtype)
    begin, end = max(0, first), min(limit, first + 2 * count)
    if begin < end:
        row[begin - first : end - first] = x[x_at + begin : x_at + end]
    y[y_at : y_at + count] = row[::2]
    y[y_at + odd : y_at + odd + count] = row[1::2]


def _prefetch(x: np.ndarray, x_at: int, count: int) -> None:
    """Do nothing."""


def _merge(
    y: np.ndarray, y_at: int, x: np.ndarray, even_at: int, odd_at: int, count: int, bias: float
) -> None:
    """Compute `merge` in plain Python."""
    y[y_at : y_at + count : 2] = x[even_at : even_at + (count + 1) // 2] + bias
    y[y_at + 1 : y_at + count : 2] = x[odd_at : odd_at + count // 2] + bias


if config.DISABLE_JIT:
    copy, split, window, halve, merge = _copy, _split, _window, _halve, _merge
    prefetch = _prefetch
