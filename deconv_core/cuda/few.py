"""A forward pass or an input gradient with few result channels: products with no tile between.

There is little to multiply for each element of the source, so little is gained by copying it to
shared memory first: each thread of this kernel reads what it needs where it lies, and the cache
hands to all taps what one of them has read. It has a few positions, next to those of the threads
beside it, and for each a sum in every result channel. Products are float32's at any precision:
tensor cores would be idle most of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from .config import Tile
from .driver import cuda
from .gemm import HAS_BIAS, HAS_MASK, HAS_RELU, LOWEST, ZERO, beginning, i32
from .registers import (
    SIZE,
    address,
    divided,
    gathered,
    in_turn,
    load1,
    load4,
    load4_at,
    load_at,
    outer,
    store_at,
    within,
)
from .spread import position


@cache
def few_kernel(tile: Tile, precision: str, waits: bool) -> Callable[..., None]:
    """Return the kernel, as a plain function; it takes what that of spread.py takes."""
    begin, height, width, threads = beginning(tile), tile.rows, tile.columns, tile.threads
    each = range(tile.thread_columns)
    find = gathered([_place(i * threads) for i in each])
    move, read = gathered(list(map(_start, each))), gathered(list(map(_element, each)))
    write = in_turn([_writer(m, i) for m in range(tile.rows) for i in each])

    def few(source, weights, bias, mask, table, result, flags, p):
        block, phase = divided(i32(cuda.blockIdx.x), p.phases)
        block, group = divided(block, p.groups)
        row_phase, column_phase, first, last = load4(table, 4 * phase)
        n = i32(block * width + cuda.threadIdx.x)
        places = find(n, group, row_phase, column_phase, p)
        biased = p.results if flags & HAS_BIAS else i32(0)
        sums = begin(bias, group * p.results, biased)
        plane = p.source_height * p.source_width
        for tap in range(first, last):
            down, right, _, _ = load4(table, 4 * (p.phases + tap))
            starts = move(source, places, down, right, p)
            factors = address(weights, (group * p.taps + tap) * p.padded * height)
            after = 0
            for _ in range(p.channels):
                sums = outer(sums, load4_at(factors), read(starts, after))
                factors, after = factors + SIZE * height, after + SIZE * plane
        least = ZERO if flags & HAS_RELU else LOWEST
        plane = p.result_height * p.result_width
        write(sums, places, result, mask, plane, least, flags & HAS_MASK, p.results)

    return few


def _place(after: int) -> Callable[..., Any]:
    """Return the device function for the place of a position so many after a thread's first."""

    @cuda.jit(device=True)
    def place(n, group, row_phase, column_phase, p):
        return position(i32(n + after), group, row_phase, column_phase, p)

    return place


def _start(i: int) -> Callable[..., Any]:
    """Return the device function for where a tap of position `i` begins in the source, or 0."""

    @cuda.jit(device=True)
    def start(source, places, down, right, p):
        at, h, w, _ = places[i]
        inside = within(h + down, p.source_height) and within(w + right, p.source_width)
        start = i32(at + down * p.source_width + right) if inside else i32(0)
        return address(source, start), inside

    return start


def _element(i: int) -> Callable[..., Any]:
    """Return the device function that reads an element at position `i`, zero where none is."""

    @cuda.jit(device=True)
    def element(starts, after):
        start, inside = starts[i]
        value = load_at(start + after)
        return value if inside else ZERO

    return element


def _writer(m: int, i: int) -> Callable[..., None]:
    """Return the device function that writes result `m` of position `i`."""

    @cuda.jit(device=True)
    def write(sums, places, result, mask, plane, least, masked, rows):
        place = places[i][3]
        if place >= 0 and m < rows:
            value = sums[m][i]
            to = place + m * plane
            if value < least or (masked and load1(mask, to) <= ZERO):  # which NaN is not
                value = ZERO
            store_at(address(result, to), value)

    return write
