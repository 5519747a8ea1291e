"""Depthwise convolutions, whose groups have a channel or two: no matrix product, but sums by hand.

A tile of a matrix product would be padding for the most part, so each thread of these kernels reads
what it needs where it lies: neighbouring threads have neighbouring columns, and the cache hands to
all taps what one of them has read. The passes are those of the tiled kernels (spread.py, splitk.py)
with the same plans: every element has one writer, and sums are added in a fixed order. Products are
float32's at any precision, for there are too few to be worth a tensor core.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from .config import Tile
from .driver import cuda
from .gemm import ALIGN, HAS_BIAS, HAS_MASK, HAS_RELU, ZERO, i32, u32
from .registers import divided, gathered, in_turn, load4, outer, store4, within, zeros
from .spread import FAR, FLOAT, INT

STRIP = 4  # rows of one thread, each with the same column


@cuda.jit(device=True)
def _read(source, at, row, height):
    """Return an element of a row, or zero where there is no such row."""
    return source[u32(at)] if within(row, height) else ZERO


@cuda.jit(device=True)
def _read_strip(source, at, pitch, row, step, height):
    """Return an element of each of four rows, `step` rows and `pitch` elements apart."""
    return (
        _read(source, at, row, height),
        _read(source, at + pitch, row + step, height),
        _read(source, at + 2 * pitch, row + 2 * step, height),
        _read(source, at + 3 * pitch, row + 3 * step, height),
    )


def _writer(r: int) -> Callable[..., None]:
    """Return the device function that writes result `r` of a strip, at its place.

    Rows beyond the last one of a pass are none of the result's.
    """

    @cuda.jit(device=True)
    def write(sums, result, at, pitch, row, step, height, added, mask, flags):
        at = u32(at + r * pitch)
        if within(row + r * step, height):
            value = sums[0][r]
            if flags & HAS_BIAS:
                value += added
            if flags & HAS_RELU and value <= ZERO:  # which NaN is not
                value = ZERO
            if flags & HAS_MASK and mask[at] <= ZERO:
                value = ZERO
            result[at] = value

    return write


@cache
def depthwise_spread(tile: Tile, precision: str, waits: bool) -> Callable[..., None]:
    """Return the kernel of the forward pass and of the input gradient, as a plain function.

    A thread has a strip of four positions below each other. Rows and channels of the weights have
    these strides, and `kernel` elements for each pair of them; `pictures` are images times groups.
    """
    write, start = in_turn([_writer(r) for r in range(STRIP)]), zeros(1, STRIP)

    def spread(
        source, weights, bias, mask, table, result, row_stride, channel_stride, kernel, pictures,
        flags, p,
    ):  # fmt: skip
        rest, column = divided(i32(cuda.grid(1)), p.columns)
        rest, strip = divided(rest, (p.rows + STRIP - 1) // STRIP)
        rest, m = divided(rest, p.results)
        phase, picture = divided(rest, pictures)
        if phase >= p.phases:
            return
        group, row = divided(picture, p.groups)[1], i32(strip * STRIP)
        row_phase, column_phase, first, last = load4(table, 4 * phase)
        h, w = i32(row * p.read_height), i32(column * p.read_width)
        plane, pitch = i32(p.source_height * p.source_width), i32(p.read_height * p.source_width)
        at = i32(picture * p.channels * plane + h * p.source_width + w)
        weight_at = i32(group * p.results * p.channels * kernel + m * row_stride)
        sums = start
        for _ in range(p.channels):
            for tap in range(first, last):
                down, right, place, _ = load4(table, 4 * (p.phases + tap))
                height = p.source_height if within(w + right, p.source_width) else i32(0)
                values = _read_strip(
                    source, i32(at + down * p.source_width + right), pitch, i32(h + down),
                    p.read_height, height,
                )  # fmt: skip
                sums = outer(sums, (weights[u32(weight_at + place)],), values)
            at, weight_at = i32(at + plane), i32(weight_at + channel_stride)
        row_to = i32(row * p.write_height + row_phase + p.base_height)
        column = i32(column * p.write_width + column_phase + p.base_width)
        if within(column, p.result_width):
            at = ((picture * p.results + m) * p.result_height + row_to) * p.result_width + column
            added = bias[u32(group * p.results + m)] if flags & HAS_BIAS else ZERO
            write(
                sums, result, i32(at), i32(p.write_height * p.result_width), row_to,
                p.write_height, p.result_height, added, mask, flags,
            )  # fmt: skip

    return spread


def _reader(k: int) -> Callable[..., Any]:
    """Return the device function that reads what term `k` needs of the source."""

    @cuda.jit(device=True)
    def read(source, columns, start, h, w, height, width):
        offset, down, right, _ = load4(columns, 4 * k)
        inside = within(h + down, height) and within(w + right, width)
        return source[u32(start + offset)] if inside else ZERO

    return read


def _keeper(k: int, threads: int) -> Callable[..., None]:
    """Return the device function that leaves sum `k` of a thread in shared memory."""

    @cuda.jit(device=True)
    def keep(totals, thread, sums):
        totals[u32(k * threads + thread)] = sums[0][k]

    return keep


@cache
def depthwise_dot(tile: Tile, precision: str, waits: bool) -> Callable[..., None]:
    """Return the kernel of a weight gradient's chunks, as a plain function.

    A block has a chunk of the positions, one result and a few of its terms (channel, tap); each
    thread adds up every so many of the positions, and the threads' sums are added pairwise.
    """
    width, threads = tile.columns, tile.threads
    read, start = gathered([_reader(k) for k in range(width)]), zeros(1, width)
    keep = in_turn([_keeper(k, threads) for k in range(width)])
    integers, size = 4 * width, width * threads

    def dot(source, dy, taps, partial, p):
        columns = cuda.shared.array(integers, INT, ALIGN)
        totals = cuda.shared.array(size, FLOAT, ALIGN)
        block, thread = i32(cuda.blockIdx.x), i32(cuda.threadIdx.x)
        block, across = divided(block, divided(p.terms + width - 1, width)[0])
        block, m = divided(block, p.results)
        chunk, group = divided(block, p.groups)
        term = across * width + thread
        if thread < width:
            place = (i32(0), i32(FAR), i32(FAR), i32(0))
            if term < p.terms:
                channel, tap = divided(term, p.taps)
                down, right = taps[u32(2 * tap)], taps[u32(2 * tap + 1)]
                offset = (channel * p.source_height + down) * p.source_width + right
                place = (i32(offset), down, right, i32(0))
            store4(columns, 4 * thread, place)
        cuda.syncthreads()
        sums = start
        end = i32(min(p.positions, (chunk + 1) * p.chunk))
        for n in range(i32(chunk * p.chunk + thread), end, threads):
            rest, column = divided(n, p.columns)
            image, row = divided(rest, p.rows)
            picture = i32(image * p.groups + group)
            grad = dy[u32(((picture * p.results + m) * p.rows + row) * p.columns + column)]
            h, w = i32(row * p.stride_height), i32(column * p.stride_width)
            at = i32((picture * p.channels * p.source_height + h) * p.source_width + w)
            values = read(source, columns, at, h, w, p.source_height, p.source_width)
            sums = outer(sums, (grad,), values)
        keep(totals, thread, sums)
        half = threads // 2
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                for k in range(width):
                    totals[u32(k * threads + thread)] += totals[u32(k * threads + thread + half)]
            half //= 2
        cuda.syncthreads()
        if thread < width and term < p.terms:
            part = (chunk * p.groups + group) * p.results + m
            partial[u32(part * p.terms + term)] = totals[u32(thread * threads)]

    return dot
