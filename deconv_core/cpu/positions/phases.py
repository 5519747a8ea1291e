"""Moving rows to phases and back: dealt out and woven together in whole vectors, edges masked.

A strided pass reads, or writes, every second element of a row, or every third: a row is dealt out
to as many parts, each part of the row that it becomes dense. Each mover has a plain Python twin for
when Numba's compiler is disabled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from ..runtime.jit import kernel
from ..runtime.launch import linked_by_address
from ..vectors.emit import INDEX, Emitter
from ..vectors.rows import whole_vectors

# Parts that rows are dealt to, and woven from, in whole vectors.
WAYS = (2, 3, 4, 8, 16, 32)


def _dealt(emit: Emitter, row: list[Any]) -> list[Any]:
    """Return the parts of a row of as many vectors: part k has the elements parts * i + k.

    An even number of parts is dealt out by pairs, in fewer shuffles than part by part.
    """
    ways = len(row)
    if ways % 2 or ways == 2:
        return [emit.pick(row, [ways * i + k for i in range(emit.width)]) for k in range(ways)]
    pairs = [_dealt(emit, row[i : i + 2]) for i in range(0, ways, 2)]
    halves = [_dealt(emit, list(half)) for half in zip(*pairs, strict=True)]
    return [part for both in zip(*halves, strict=True) for part in both]


def _woven(emit: Emitter, parts: list[Any]) -> list[Any]:
    """Return the row of vectors that has such parts: the reverse of `_dealt`."""
    ways, width = len(parts), emit.width
    if ways % 2 or ways == 2:
        places = [width * (i % ways) + i // ways for i in range(ways * width)]
        return [emit.pick(parts, places[i : i + width]) for i in range(0, ways * width, width)]
    halves = [_woven(emit, parts[k::2]) for k in (0, 1)]
    return [vector for both in zip(*halves, strict=True) for vector in _woven(emit, list(both))]


@intrinsic(prefer_literal=True)
def _deal(
    typing: Any, parts: Any, y: Any, y_at: Any, pitch: Any,
    x: Any, x_at: Any, first: Any, count: Any, limit: Any, ahead: Any,
) -> Any:  # fmt: skip
    """Emit `deal` for literal `parts`."""
    signature = types.void(parts, y, y_at, pitch, x, x_at, first, count, limit, ahead)
    ways = parts.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        _, y_, y_at_, pitch_, x_, x_at_, first_, count_, limit_, ahead_ = values
        emit = Emitter(context, builder, x.dtype)
        source, target, width = emit.pointer(x, x_, x_at_), emit.pointer(y, y_, y_at_), emit.width

        def body(at: Any) -> None:
            low = builder.add(first_, emit.times(at, ways))
            starts = [builder.add(low, ir.Constant(INDEX, i * width)) for i in range(ways)]
            reads = [emit.load_inside(emit.step(source, at), at, limit_) for at in starts]
            for start in starts:
                emit.prefetch(emit.step(emit.step(source, start), ahead_))
            for k, part in enumerate(_dealt(emit, reads)):
                emit.store(part, emit.step(emit.step(target, emit.times(pitch_, k)), at))

        whole_vectors(emit, count_, body)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def _weave(
    typing: Any, parts: Any, y: Any, y_at: Any, x: Any, x_at: Any, pitch: Any,
    first: Any, count: Any, limit: Any, bias: Any, ahead: Any,
) -> Any:  # fmt: skip
    """Emit `weave` for literal `parts`."""
    signature = types.void(parts, y, y_at, x, x_at, pitch, first, count, limit, bias, ahead)
    ways = parts.literal_value

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        _, y_, y_at_, x_, x_at_, pitch_, first_, count_, limit_, bias_, ahead_ = values
        emit = Emitter(context, builder, x.dtype)
        target, source, width = emit.pointer(y, y_, y_at_), emit.pointer(x, x_, x_at_), emit.width
        rows = [emit.step(source, emit.times(pitch_, i)) for i in range(ways)]
        offset = emit.broadcast(bias_)
        last = builder.add(first_, emit.times(count_, ways))
        end = builder.select(builder.icmp_signed("<", last, limit_), last, limit_)

        def body(at: Any) -> None:
            parts = [emit.add(emit.load(emit.step(row, at)), offset) for row in rows]
            low = builder.add(first_, emit.times(at, ways))
            for i, woven in enumerate(_woven(emit, parts)):
                start = builder.add(low, ir.Constant(INDEX, i * width))
                emit.prefetch(emit.step(emit.step(target, start), ahead_))
                after = builder.add(start, ir.Constant(INDEX, width))
                inside = builder.and_(
                    builder.icmp_signed(">=", start, ir.Constant(INDEX, 0)),
                    builder.icmp_signed("<=", after, end),
                )
                # Masked stores take much longer, empty ones as well.
                with builder.if_else(inside) as (whole, partly):
                    with whole:
                        emit.store(woven, emit.step(target, start))
                    with partly, builder.if_then(builder.icmp_signed("<", start, end)):
                        emit.store_inside(woven, emit.step(target, start), start, end)

        whole_vectors(emit, count_, body)
        return context.get_dummy_value()

    return signature, generate


def _deal_python(
    parts: int, y: np.ndarray, y_at: int, pitch: int,
    x: np.ndarray, x_at: int, first: int, count: int, limit: int, ahead: int,
) -> None:  # fmt: skip
    """Compute `deal` in plain Python."""
    row = np.zeros(parts * count, x.dtype)
    begin, end = max(0, first), min(limit, first + parts * count)
    if begin < end:
        row[begin - first : end - first] = x[x_at + begin : x_at + end]
    for part in range(parts):
        y[y_at + part * pitch : y_at + part * pitch + count] = row[part::parts]


def _weave_python(
    parts: int, y: np.ndarray, y_at: int, x: np.ndarray, x_at: int, pitch: int,
    first: int, count: int, limit: int, bias: float, ahead: int,
) -> None:  # fmt: skip
    """Compute `weave` in plain Python."""
    for i in range(max(0, -first), min(parts * count, limit - first)):
        index, part = divmod(i, parts)
        y[y_at + first + i] = x[x_at + part * pitch + index] + bias


if config.DISABLE_JIT:
    _deal, _weave = _deal_python, _weave_python


@kernel(inline="always")
def _row(r, top, step, height, limit):
    """Return where row ``top + r * step`` of a picture begins, and its elements: 0 outside."""
    h = top + r * step
    inside = 0 <= h < height
    return (h * limit, limit) if inside else (0, 0)


@linked_by_address("iaiiiaiiiiiiiii")
@kernel
def deal_rows(
    parts, y, y_at, y_row, pitch, x, x_at, height, limit, top, step, left, rows, count, ahead
):  # fmt: skip
    """Deal rows of a picture out: ``y[y_at + r * y_row + k * pitch + i] = row[parts * i + k]``.

    For i < count and r < rows; row is that of the picture of height x limit elements at
    ``x[x_at]`` from row ``top + r * step`` and column `left` on, with zeros around the picture.
    Whole vectors of `y` are written, and what lies `ahead` elements on is called for. `parts` is
    one of `WAYS`: a literal makes the vectors' loops unroll.
    """
    if parts == 2:
        for r in range(rows):
            start, size = _row(r, top, step, height, limit)
            _deal(2, y, y_at + r * y_row, pitch, x, x_at + start, left, count, size, ahead)
    elif parts == 3:
        for r in range(rows):
            start, size = _row(r, top, step, height, limit)
            _deal(3, y, y_at + r * y_row, pitch, x, x_at + start, left, count, size, ahead)
    elif parts == 4:
        for r in range(rows):
            start, size = _row(r, top, step, height, limit)
            _deal(4, y, y_at + r * y_row, pitch, x, x_at + start, left, count, size, ahead)
    elif parts == 8:
        for r in range(rows):
            start, size = _row(r, top, step, height, limit)
            _deal(8, y, y_at + r * y_row, pitch, x, x_at + start, left, count, size, ahead)
    elif parts == 16:
        for r in range(rows):
            start, size = _row(r, top, step, height, limit)
            _deal(16, y, y_at + r * y_row, pitch, x, x_at + start, left, count, size, ahead)
    else:
        for r in range(rows):
            start, size = _row(r, top, step, height, limit)
            _deal(32, y, y_at + r * y_row, pitch, x, x_at + start, left, count, size, ahead)


@linked_by_address("iaiiiiiiaiiiiiei")
@kernel
def weave_rows(
    parts, y, y_at, height, limit, top, step, left, x, x_at, x_row, pitch, rows, count, bias,
    ahead,
):  # fmt: skip
    """Weave parts into rows: ``row[parts * i + k] = x[x_at + r * x_row + k * pitch + i] + bias``.

    The reverse of `deal_rows`: what falls outside of the picture is dropped, and whole vectors of
    `x` are read. What lies `ahead` elements on in `y` is called for.
    """
    if parts == 2:
        for r in range(rows):
            if 0 <= top + r * step < height:
                to = y_at + (top + r * step) * limit
                _weave(2, y, to, x, x_at + r * x_row, pitch, left, count, limit, bias, ahead)
    elif parts == 3:
        for r in range(rows):
            if 0 <= top + r * step < height:
                to = y_at + (top + r * step) * limit
                _weave(3, y, to, x, x_at + r * x_row, pitch, left, count, limit, bias, ahead)
    elif parts == 4:
        for r in range(rows):
            if 0 <= top + r * step < height:
                to = y_at + (top + r * step) * limit
                _weave(4, y, to, x, x_at + r * x_row, pitch, left, count, limit, bias, ahead)
    elif parts == 8:
        for r in range(rows):
            if 0 <= top + r * step < height:
                to = y_at + (top + r * step) * limit
                _weave(8, y, to, x, x_at + r * x_row, pitch, left, count, limit, bias, ahead)
    elif parts == 16:
        for r in range(rows):
            if 0 <= top + r * step < height:
                to = y_at + (top + r * step) * limit
                _weave(16, y, to, x, x_at + r * x_row, pitch, left, count, limit, bias, ahead)
    else:
        for r in range(rows):
            if 0 <= top + r * step < height:
                to = y_at + (top + r * step) * limit
                _weave(32, y, to, x, x_at + r * x_row, pitch, left, count, limit, bias, ahead)
