"""The register tile of lanes x streams.

Each step multiplies vectors of both operands, and the sums over the vector's elements are taken
once at the end. It serves the weight gradients.
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

from ..config import MACHINE
from ..runtime.jit import kernel
from ..runtime.launch import linked_by_address
from ..vectors.emit import INDEX, Emitter


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


def _dot_python(
    lanes: int, streams: int, a: np.ndarray, a_at: int, a_pitch: int, a_row: int,
    b: np.ndarray, offsets: np.ndarray, offset_at: int, b_row: int, rows: int, count: int,
    y: np.ndarray, y_at: int, far: int,
) -> None:  # fmt: skip
    """Compute `dot` in plain Python."""
    for i, j, row in product(range(lanes), range(streams), range(rows)):
        left, right = a_at + i * a_pitch + row * a_row, offsets[offset_at + j] + row * b_row
        y[y_at + i * streams + j] += a[left : left + count] @ b[right : right + count]


if config.DISABLE_JIT:
    _dot = _dot_python

# The machine's table of tiles as a chain of literal calls: a literal is what makes the tile's loops
# unroll. LLVM removes nothing here at run time: it is one comparison per call.
_TILES = MACHINE.dot + (MACHINE.dot[-1],) * (4 - len(MACHINE.dot))
(_D0, _W0), (_D1, _W1), (_D2, _W2), (_D3, _W3) = _TILES
HALF = _W0 // 2  # streams of a tile of the most lanes, where no more are left


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
