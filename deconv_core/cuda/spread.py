"""The kernel of the forward pass and of the input gradient: an implicit matrix product.

Both are dense passes over phases (sweep.py). For one group and one phase of the result,

    result[m, n] = sum over taps and channels of weights[(tap, channel), m] * source[channel, n']

where n runs over positions (image, row, column), and n' is n moved by the tap. The matrix of the
right is never built: `fetch` copies its elements from where they lie in `source`, and zeros for
what lies outside. Each element of the result has one writer, so there are no atomics.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .config import Tile
from .driver import cuda
from .gemm import ALIGN, HAS_BIAS, beginning, ending, i32, main_loop, multiplier
from .mma import copies
from .registers import SIZE, address, divided, load4, store4, within

FAR = -(1 << 30)  # a row that no tap moves into the source
FLOAT, INT = np.float32, np.int32


@cuda.jit(device=True)
def position(n, group, row_phase, column_phase, p):
    """Return where position n begins in the source, its row and column, and its result's place."""
    if n >= p.positions:
        return i32(0), i32(FAR), i32(FAR), i32(-1)
    rest, column = divided(n, p.columns)
    image, row = divided(rest, p.rows)
    image = image * p.groups + group
    h, w = row * p.read_height, column * p.read_width
    at = (image * p.channels * p.source_height + h) * p.source_width + w
    row = row * p.write_height + row_phase + p.base_height
    column = column * p.write_width + column_phase + p.base_width
    to = (image * p.results * p.result_height + row) * p.result_width + column
    if not (within(row, p.result_height) and within(column, p.result_width)):
        to = -1
    return i32(at), i32(h), i32(w), i32(to)


def fetcher(tile: Tile, waits: bool) -> Callable[..., Any]:
    """Return the device function that copies a stage: the next channels of a tap.

    All elements of a stage share the tap, and those that one thread copies share the position (or
    a few of them, or four side by side), so what is inside the source is decided once, not for each
    element.
    """
    depth, threads, b_first = tile.depth, tile.threads, tile.depth * tile.row_pitch
    a_pitch, b_pitch, quads = tile.row_pitch, tile.column_pitch, tile.rows // 4
    each = 4 if tile.wide else 1  # elements of a copy
    across = tile.columns // each
    runs, step = max(1, across // threads), max(1, threads // across)
    copy = copies(depth // step, each, step * b_pitch, waits)
    rows = min(depth, threads // quads)  # of the weights, that are copied at once
    copy_weights = copies(depth // rows, 4, rows * a_pitch, waits)

    @cuda.jit(device=True)
    def fetch(buffer, at, columns, operands, state):
        source, weights, table, p = operands
        tap, channel, weight_at = state
        thread = i32(cuda.threadIdx.x)
        k, quad = thread // quads, thread % quads
        if k < rows:
            start = weight_at + k * p.padded_rows + 4 * quad
            to = at + k * a_pitch + 4 * quad
            step_bytes = SIZE * rows * p.padded_rows
            copy_weights(buffer, to, address(weights, start), step_bytes, depth)
        down, right, _, _ = load4(table, 4 * (p.phases + tap))
        plane = p.source_height * p.source_width
        k = thread // across if step > 1 else 0
        for run in range(runs):
            column = (thread % across + run * threads) * each
            start, h, w, _ = load4(columns, 4 * column)
            inside = within(h + down, p.source_height) and within(w + right, p.source_width)
            left = i32((p.channels - channel - k + step - 1) // step) if inside else i32(0)
            start = start + down * p.source_width + right + (channel + k) * plane
            to = at + b_first + k * b_pitch + column
            copy(buffer, to, address(source, start), SIZE * step * plane, left)
        channel += depth
        if channel >= p.padded:
            channel, tap = 0, tap + 1
        return i32(tap), i32(channel), i32(weight_at + depth * p.padded_rows)

    return fetch


@cache
def spread_kernel(tile: Tile, precision: str, waits: bool) -> Callable[..., None]:
    """Return the kernel, as a plain function; `waits`: with asynchronous copies."""
    run = main_loop(tile, multiplier(tile, precision), fetcher(tile, waits), waits)
    begin, write = beginning(tile), ending(tile)
    size, width, height = tile.stages * tile.stage_size, tile.columns, tile.rows
    integers, threads, depth = 4 * tile.columns, tile.threads, tile.depth

    def spread(source, weights, bias, mask, table, result, flags, p):
        buffer = cuda.shared.array(size, FLOAT, ALIGN)
        columns = cuda.shared.array(integers, INT, ALIGN)
        block, thread = i32(cuda.blockIdx.x), i32(cuda.threadIdx.x)
        block, across = divided(block, p.padded_rows // height)
        block, phase = divided(block, p.phases)
        block, group = divided(block, p.groups)
        first, left = i32(across * height), i32(block * width)
        row_phase, column_phase, tap, last = load4(table, 4 * phase)
        for column in range(thread, width, threads):
            place = position(i32(left + column), group, row_phase, column_phase, p)
            store4(columns, 4 * column, place)
        cuda.syncthreads()
        weight_at = i32((group * p.taps + tap) * p.padded * p.padded_rows + first)
        stages = i32((last - tap) * (p.padded // depth))
        biased = i32(p.results - first) if flags & HAS_BIAS else i32(0)
        sums = begin(bias, i32(group * p.results + first), biased)
        sums = run(
            sums, buffer, columns, (source, weights, table, p), (tap, i32(0), weight_at), stages
        )  # fmt: skip
        plane = i32(p.result_height * p.result_width)
        write(sums, buffer, columns, result, mask, first, p.results, plane, flags)

    return spread
