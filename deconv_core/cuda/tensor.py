"""The step of the main loop on tensor cores: eight terms of the sum at once, by a whole warp.

TF32 keeps 10 of a float32's 23 bits of mantissa, so one product of TF32 numbers loses half of the
digits. "3xtf32" gets them back: but for an error of 2**-22 of x, ``x = big + small``, two TF32
numbers, and of the four products only small * small is too little to matter. The small products
are added first.

Error of one product against float64, relative to it: up to 2**-10 in "tf32", which rounds both
factors; up to 2**-21 in "3xtf32", half of it from small * small; none in "float32". To it comes up
to 2**-24 of the sum for each rounding as that grows, in "float32" and "3xtf32" to nearest. In
"tf32" tensor cores add up the whole sum, and round it towards zero, which adds up too: in a sum of
some hundred terms to more than all else. For that reason "3xtf32" lets them add eight terms at
most (mma.py). In "3xtf32" an infinity comes out as NaN, for its small part is infinity minus
infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .config import Tile
from .driver import cuda
from .mma import mma, mma3, split, to_tf32
from .registers import load_chunks


def tensor_step(tile: Tile, precision: str) -> Callable[..., Any]:
    """Return the device function that adds the products of eight k to a warp's sums.

    The rows and columns of the fragments are dealt out so that what a lane loads lies side by side,
    in chunks of four: which row of the tile a fragment's row is, is ours to choose.
    """
    a_pitch, b_pitch = tile.row_pitch, tile.column_pitch
    load_a = load_chunks(tile.thread_rows // 4, 4 * tile.lane_rows)
    load_b = load_chunks(tile.thread_columns // 8, 4 * tile.lane_rows)

    @cuda.jit(device=True)
    def once(sums, buffer, a, b, k):
        at, low = a + k * a_pitch, b + k * b_pitch
        x = load_a(buffer, at) + load_a(buffer, at + 4 * a_pitch)
        y = load_b(buffer, low) + load_b(buffer, low + 4 * b_pitch)
        return mma(sums, to_tf32(x), to_tf32(y))

    @cuda.jit(device=True)
    def thrice(sums, buffer, a, b, k):
        at, low = a + k * a_pitch, b + k * b_pitch
        x = load_a(buffer, at) + load_a(buffer, at + 4 * a_pitch)
        y = load_b(buffer, low) + load_b(buffer, low + 4 * b_pitch)
        (big_x, small_x), (big_y, small_y) = split(x), split(y)
        return mma3(sums, big_x, small_x, big_y, small_y)

    return once if precision == "tf32" else thrice
