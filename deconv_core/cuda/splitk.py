"""The weight gradient: an implicit matrix product with a very long sum, cut into chunks.

For one group, with n over all positions (image, row, column) of the output gradient,

    dw[m, (channel, tap)] = sum over n of dy[m, n] * x[channel, n moved by the tap]

The result is small and the sum is long, so blocks share the sum: each adds up one chunk of it, and
a second kernel adds the chunks, always in the same order. The same bits come out of every run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from .config import Tile
from .driver import SIMULATED, cuda
from .gemm import ALIGN, ending, i32, main_loop, multiplier, u32
from .mma import copies
from .registers import SIZE, address, divided, load4, store4, within, zeros
from .spread import FAR, FLOAT, INT

THREADS = 32 if SIMULATED else 128


def fetcher(tile: Tile, waits: bool) -> Callable[..., Any]:
    """Return the device function that copies a stage: `depth` positions.

    A thread copies one of the positions, so it knows the image, the row and the column, and of each
    of its columns the table in shared memory says how far the tap moves them.
    """
    depth, rows, width = tile.depth, tile.rows, tile.columns
    a_pitch, b_pitch, b_first = tile.row_pitch, tile.column_pitch, tile.depth * tile.row_pitch
    step = tile.threads // depth
    copy_rows, copy = copies(rows // step, 1, step, waits), copies(1, 1, 0, waits)
    column_turns = width // step

    @cuda.jit(device=True)
    def fetch(buffer, at, columns, operands, state):
        source, dy, group, first, end, p = operands
        n, image, row, column = state
        thread = i32(cuda.threadIdx.x)
        k, other = thread % depth, thread // depth
        live = n < end
        left = i32((p.results - first - other + step - 1) // step) if live else i32(0)
        picture, plane = i32(image * p.groups + group), i32(p.rows * p.columns)
        start = (picture * p.results + first + other) * plane + row * p.columns + column
        to = i32(at + k * a_pitch + other)
        copy_rows(buffer, to, address(dy, start), SIZE * step * plane, left)
        h, w = i32(row * p.stride_height), i32(column * p.stride_width)
        start = (picture * p.channels * p.source_height + h) * p.source_width + w
        start = address(source, start)
        h = h if live else i32(FAR)
        to = i32(at + b_first + k * b_pitch + other)
        for turn in range(column_turns):
            offset, down, right, _ = load4(columns, 4 * (other + turn * step))
            inside = within(h + down, p.source_height) and within(w + right, p.source_width)
            copy(buffer, to + turn * step, start + SIZE * offset, 0, i32(inside))
        column = i32(column + depth)
        while column >= p.columns:
            column, row = i32(column - p.columns), i32(row + 1)
            if row == p.rows:
                row, image = i32(0), i32(image + 1)
        return i32(n + depth), image, row, column

    return fetch


@cache
def dot_kernel(tile: Tile, precision: str, waits: bool) -> Callable[..., None]:
    """Return the kernel of the chunks, as a plain function; `waits`: with asynchronous copies."""
    run = main_loop(tile, multiplier(tile, precision), fetcher(tile, waits), waits)
    write, start = ending(tile), zeros(tile.thread_rows, tile.thread_columns)
    size, width, height = tile.stages * tile.stage_size, tile.columns, tile.rows
    integers, threads, depth = 4 * tile.columns, tile.threads, tile.depth

    def dot(source, dy, taps, partial, p):
        buffer = cuda.shared.array(size, FLOAT, ALIGN)
        columns = cuda.shared.array(integers, INT, ALIGN)
        block, thread = i32(cuda.blockIdx.x), i32(cuda.threadIdx.x)
        block, across = divided(block, divided(p.terms + width - 1, width)[0])
        block, down = divided(block, divided(p.results + height - 1, height)[0])
        chunk, group = divided(block, p.groups)
        first, left = i32(down * height), i32(across * width)
        part = (chunk * p.groups + group) * p.results * p.terms
        for column in range(thread, width, threads):
            term = left + column
            place = (i32(0), i32(FAR), i32(FAR), i32(-1))
            if term < p.terms:
                channel, tap = divided(term, p.taps)
                down, right = taps[u32(2 * tap)], taps[u32(2 * tap + 1)]
                offset = (channel * p.source_height + down) * p.source_width + right
                place = (i32(offset), down, right, i32(part + term))
            store4(columns, 4 * column, place)
        cuda.syncthreads()
        n = i32(chunk * p.chunk + thread % depth)
        end = i32(min(p.positions, (chunk + 1) * p.chunk))
        rest, column = divided(n, p.columns)
        image, row = divided(rest, p.rows)
        operands = (source, dy, group, first, end, p)
        stages = i32((end - chunk * p.chunk + depth - 1) // depth)
        sums = run(start, buffer, columns, operands, (n, image, row, column), stages)
        write(sums, buffer, columns, partial, dy, first, p.results, p.terms, 0)

    return dot


def add_chunks(partial, chunks, bias, outputs, result):
    """Add the chunks in their order, and for each of `outputs` columns (if any) its bias."""
    i = u32(cuda.grid(1))
    if i >= result.size:
        return
    total = FLOAT(0)
    for chunk in range(chunks):
        total += partial[u32(i + chunk * result.size)]
    if outputs:
        total += bias[u32(divided(i, outputs)[1])]
    result[i] = total
