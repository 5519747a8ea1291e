"""Moving rows in whole vectors, edges masked: copies, windows with zeros around, prefetches.

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

from ..config import LINE, MACHINE
from .emit import INDEX, Emitter


def vectors(emit: Emitter, count: Any, body: Callable[[Any, bool], None]) -> None:
    """Emit `body` for every vector of `count` elements; only a last, partial one is masked."""
    builder, width = emit.builder, ir.Constant(INDEX, emit.width)
    zero = ir.Constant(INDEX, 0)
    whole = builder.mul(builder.sdiv(count, width), width)
    with cgutils.for_range_slice(builder, zero, whole, width, inc=True) as (at, _):
        body(at, False)
    with builder.if_then(builder.icmp_signed(">", count, whole)):
        body(whole, True)


def whole_vectors(emit: Emitter, count: Any, body: Callable[[Any], None]) -> None:
    """Emit `body` for every vector of `count` elements; the last one may run over."""
    zero, width = ir.Constant(INDEX, 0), ir.Constant(INDEX, emit.width)
    with cgutils.for_range_slice(emit.builder, zero, count, width, inc=True) as (at, _):
        body(at)


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
def move(typing: Any, y: Any, y_at: Any, x: Any, x_at: Any) -> Any:
    """``y[y_at + i] = x[x_at + i]`` for the elements i of one vector."""
    signature = types.void(y, y_at, x, x_at)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        y_, y_at_, x_, x_at_ = values
        emit = Emitter(context, builder, x.dtype)
        emit.store(emit.load(emit.pointer(x, x_, x_at_)), emit.pointer(y, y_, y_at_))
        return context.get_dummy_value()

    return signature, generate


def _window(stride: int) -> Any:
    """Return an intrinsic for ``y[y_at + i] = row[first + stride * i]`` for i < count.

    Row is ``x[x_at : x_at + limit]`` with zeros before and after it. Whole vectors of `y` are
    written, and what lies `ahead` elements on in `x` is called for.
    """

    def typed(
        typing: Any, y: Any, y_at: Any, x: Any, x_at: Any, first: Any, count: Any, limit: Any,
        ahead: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(y, y_at, x, x_at, first, count, limit, ahead)

        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            y_, y_at_, x_, x_at_, first_, count_, limit_, ahead_ = values
            emit = Emitter(context, builder, x.dtype)
            source, target = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_)
            wanted = [stride * i for i in range(emit.width)]

            def body(at: Any) -> None:
                low = builder.add(first_, emit.times(at, stride))
                starts = [
                    builder.add(low, ir.Constant(INDEX, i * emit.width)) for i in range(stride)
                ]
                reads = [emit.load_inside(emit.step(source, at), at, limit_) for at in starts]
                for start in starts:
                    emit.prefetch(emit.step(emit.step(source, start), ahead_))
                emit.store(emit.pick(reads, wanted), emit.step(target, at))

            whole_vectors(emit, count_, body)
            return context.get_dummy_value()

        return signature, generate

    def plain(
        y: np.ndarray, y_at: int, x: np.ndarray, x_at: int, first: int, count: int, limit: int,
        ahead: int,
    ) -> None:  # fmt: skip
        row = np.zeros(stride * count, x.dtype)
        begin, end = max(0, first), min(limit, first + row.size)
        if begin < end:
            row[begin - first : end - first] = x[x_at + begin : x_at + end]
        y[y_at : y_at + count] = row[::stride]

    return plain if config.DISABLE_JIT else intrinsic(typed)


window, window_by_two = _window(1), _window(2)


@intrinsic
def prefetch(typing: Any, x: Any, x_at: Any, count: Any) -> Any:
    """Ask for ``x[x_at : x_at + count]`` to be brought near; it may lie outside of the array."""
    signature = types.void(x, x_at, count)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        x_, x_at_, count_ = values
        emit = Emitter(context, builder, x.dtype)
        start = emit.pointer(x, x_, x_at_)
        line = ir.Constant(INDEX, LINE // emit.size)
        with cgutils.for_range_slice(builder, ir.Constant(INDEX, 0), count_, line, inc=True) as (
            at,
            _,
        ):
            emit.prefetch(emit.step(start, at))
        return context.get_dummy_value()

    return signature, generate


def _copy(y: np.ndarray, y_at: int, x: np.ndarray, x_at: int, count: int, bias: float) -> None:
    """Compute `copy` in plain Python."""
    y[y_at : y_at + count] = x[x_at : x_at + count] + bias


def _move(y: np.ndarray, y_at: int, x: np.ndarray, x_at: int) -> None:
    """Compute `move` in plain Python."""
    width = MACHINE.vector_bytes // x.itemsize
    y[y_at : y_at + width] = x[x_at : x_at + width]


def _prefetch(x: np.ndarray, x_at: int, count: int) -> None:
    """Do nothing."""


if config.DISABLE_JIT:
    copy, move, prefetch = _copy, _move, _prefetch
