"""A matrix product in tiles: the loop that the three convolution kernels share.

    result[m, n] = sum over k of a[k, m] * b[k, n]

A block of threads computes one tile of `result`. In each stage it copies `depth` rows of `a` and of
`b` to shared memory, from where every element is used many times: a tile of 128 x 128 multiplies
64 times for each element that it reads. While one stage is multiplied, the next ones arrive. Each
thread keeps a grid of sums in registers and, for each k, loads a few elements of `a` and of `b` and
adds their outer product. (On tensor cores a warp does that together: tensor.py.)

What `a` and `b` are is the business of `fetch`, which the kernels give: a convolution's `b` is
never built in memory (spread.py, splitk.py). What they need to know of each column lies in shared
memory too: four integers, of which the last says where the column's results go, or -1: nowhere.

In shared memory a stage is `depth` rows of `a`, then `depth` rows of `b`. The lanes of a warp form
a grid. Lane (g, t) has four neighbouring rows from ``4 * g`` on and four neighbouring columns from
``4 * t`` on; if it has more, the next four lie beyond those of all other lanes. So it reads 16
bytes at once, and no two lanes read different words of one bank in the same turn.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import numpy as np

from .config import Tile
from .driver import SIMULATED, cuda
from .mma import commit, waiting
from .registers import (
    SIZE,
    address,
    divided,
    gathered,
    in_turn,
    load1,
    load_at,
    load_chunks,
    outer,
    repeated,
    store_at,
    store_chunks,
    within,
)
from .tensor import tensor_step

ALIGN = None if SIMULATED else 16  # bytes; the simulator aligns nothing and is told nothing
HAS_BIAS, HAS_RELU, HAS_MASK = 1, 2, 4  # what the end of a kernel does: any of these, added up

i32, u32 = np.int32, np.uint32
ZERO, ONE, LOWEST = np.float32(0), np.float32(1), np.float32(-np.inf)


def lane_places(tile: Tile) -> Callable[..., Any]:
    """Return the device function for where a thread's rows and columns begin.

    It gives four places: in a stage, of the thread's first element of `a` and of `b`; and among the
    results on their way out (see `ending`), the row and the column of its first sum. On tensor
    cores lane (g, t) reads rows and columns of g, for k = t and t + 4, and gets the sums of rows of
    g and columns of t (mma.py).
    """
    lanes, lane_columns, lane_rows = tile.lanes, tile.lane_columns, tile.lane_rows
    across = tile.columns // tile.warp_columns
    warp_rows, warp_columns = tile.warp_rows, tile.warp_columns
    a_pitch, b_pitch, b_first = tile.row_pitch, tile.column_pitch, tile.depth * tile.row_pitch
    tensor = tile.tensor

    @cuda.jit(device=True)
    def places(thread):
        warp, lane = thread // lanes, thread % lanes
        top, left = warp // across, warp % across * warp_columns
        g, t = lane // lane_columns, lane % lane_columns
        a, b = top * warp_rows + 4 * g, b_first + left
        if tensor:
            return a + t * a_pitch, b + 4 * g + t * b_pitch, top * lane_rows + g, left + 8 * t
        return a, b + 4 * t, top * lane_rows + g, left + 4 * t

    return places


def step(tile: Tile) -> Callable[..., Any]:
    """Return the device function that adds the product of one k to a thread's sums."""
    a_pitch, b_pitch = tile.row_pitch, tile.column_pitch
    load_a = load_chunks(tile.thread_rows // 4, 4 * tile.lane_rows)
    load_b = load_chunks(tile.thread_columns // 4, 4 * tile.lane_columns)

    @cuda.jit(device=True)
    def multiply(sums, buffer, a, b, k):
        return outer(sums, load_a(buffer, a + k * a_pitch), load_b(buffer, b + k * b_pitch))

    return multiply


def multiplier(tile: Tile, precision: str) -> Callable[..., Any]:
    """Return what `main_loop` repeats: `step`, or on tensor cores `tensor_step`."""
    return tensor_step(tile, precision) if tile.tensor else step(tile)


def main_loop(tile: Tile, step: Callable[..., Any], fetch: Callable[..., Any], waits: bool) -> Any:
    """Return the device function that adds up a tile.

    Parameters
    ----------
    step : adds the products of one k, or on tensor cores of eight, to a thread's sums
    fetch : ``fetch(buffer, at, columns, operands, state) -> state`` copies one stage to
        ``buffer[at:]``; `state` says which, and is returned for the next one
    waits : whether the copies of `fetch` are asynchronous
    """
    at_once = 8 if tile.tensor else 1
    multiply = repeated(step, tile.depth // at_once, at_once)
    places = lane_places(tile)
    ahead, wait = tile.stages - 1, waiting(tile.stages - 2)
    size, ring = tile.stage_size, tile.stages * tile.stage_size

    @cuda.jit(device=True)
    def run(sums, buffer, columns, operands, state, stages):
        a, b, _, _ = places(i32(cuda.threadIdx.x))
        for stage in range(ahead):
            if stage < stages:
                state = fetch(buffer, stage * size, columns, operands, state)
            if waits:
                commit()
        now, later = i32(0), i32(ahead * size)
        for left in range(stages, 0, -1):
            if waits:
                wait()
            cuda.syncthreads()  # this stage has arrived, and the one before it has been used
            if left > ahead:
                state = fetch(buffer, later, columns, operands, state)
            if waits:
                commit()
            sums = multiply(sums, buffer, now + a, now + b, 0)
            now = i32(0) if now + size == ring else i32(now + size)
            later = i32(0) if later + size == ring else i32(later + size)
        return sums

    return run


def beginning(tile: Tile) -> Callable[..., Any]:
    """Return the device function for the sums that a tile starts from: each row's bias, or zeros.

    It takes the biases, which of them is that of the tile's first row, and how many rows have one.
    """
    places, lane_rows, warp_rows = lane_places(tile), tile.lane_rows, tile.warp_rows
    row_step = 4 * lane_rows
    ones = (ONE,) * tile.thread_columns
    nothing = ((-ZERO,) * tile.thread_columns,) * tile.thread_rows  # x * 1 + -0 is x, at no cost

    def of_row(r: int) -> Callable[..., Any]:
        """Return the device function for the bias of row `r` of a thread."""
        below = r // 4 * row_step + r % 4

        @cuda.jit(device=True)
        def read(bias, at, rows):
            return load1(bias, at + below) if within(below, rows) else ZERO

        return read

    biases = gathered([of_row(r) for r in range(tile.thread_rows)])

    @cuda.jit(device=True)
    def begin(bias, at, rows):
        _, _, row, _ = places(i32(cuda.threadIdx.x))
        m = row // lane_rows * warp_rows + row % lane_rows * 4
        return outer(nothing, biases(bias, at + m, max(0, rows - m)), ones)

    return begin


def ending(tile: Tile) -> Callable[..., Any]:
    """Return the device function that writes a tile: ReLU and ReLU's mask on the way.

    Row by row of the threads' sums, the results go through shared memory, so that neighbouring
    threads write neighbouring columns, wherever these lie. Each thread has a column (or a few, or
    every so many rows of one), so where that lies is looked up once.
    """
    places = lane_places(tile)
    chunk = 8 if tile.tensor else 4
    offsets = [
        q * 4 // chunk * chunk * tile.lane_columns + q * 4 % chunk
        for q in range(tile.thread_columns // 4)
    ]
    put = store_chunks(offsets)
    pitch, across = tile.column_pitch, gcd(tile.columns, tile.threads)
    runs, step = tile.columns // across, tile.threads // across
    lane_rows, warp_rows, row_step = tile.lane_rows, tile.warp_rows, 4 * tile.lane_rows

    def element(s: int, masked: bool) -> Callable[..., Any]:
        """Return the device function that writes what lies `s` rows below in shared memory."""
        below, offset = s // lane_rows * warp_rows + s % lane_rows * 4, s * pitch

        @cuda.jit(device=True)
        def write(buffer, start, result, mask, rows, row_bytes, least):
            if within(below, rows):
                down, value = below * row_bytes, load1(buffer, start + offset)
                if value < least or (masked and load_at(mask + down) <= ZERO):  # which NaN is not
                    value = ZERO
                store_at(result + down, value)

        return write

    def column(masked: bool) -> Callable[..., Any]:
        """Return the device function that writes every `step`th row of a column."""
        return in_turn([element(s, masked) for s in range(0, tile.rows // tile.thread_rows, step)])

    plain, masked = column(False), column(True)

    def writer(r: int) -> Callable[..., Any]:
        """Return the device function that writes row `r` of every thread's sums."""
        below = r // 4 * row_step + r % 4

        @cuda.jit(device=True)
        def write(sums, buffer, columns, result, mask, first, rows, row_pitch, flags):
            thread = i32(cuda.threadIdx.x)
            _, _, row, column = places(thread)
            cuda.syncthreads()
            put(buffer, row * pitch + column, sums[r])
            cuda.syncthreads()
            s, column = divided(thread, across)
            m, row_bytes = first + below + 4 * s, SIZE * row_pitch
            left, least = max(0, rows - m), ZERO if flags & HAS_RELU else LOWEST
            for _ in range(runs):
                place = load1(columns, 4 * column + 3)
                if place >= 0:
                    start, at = s * pitch + column, place + m * row_pitch
                    to = address(result, at)
                    if flags & HAS_MASK:
                        masked(buffer, start, to, address(mask, at), left, row_bytes, least)
                    else:
                        plain(buffer, start, to, to, left, row_bytes, least)
                column = i32(column + across)

        return write

    return in_turn([writer(r) for r in range(tile.thread_rows)])
