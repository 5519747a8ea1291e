"""Convolutions as products of matrices: the columns of im2col by the weights, for small pictures.

The same register tile as in spread.py, with its operands' roles changed: its lanes are positions,
its vectors run over result channels. The tasks of one block pack its columns (columns.py); each
packs its unit's weights, chunk by chunk of channels, multiplies, turns the sums from (position,
channel) into (channel, position), and writes them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import prange, types

from ..memory import empty
from .arrays import flat
from .columns import pack_columns
from .config import MACHINE
from .gemmplan import LANES, VECTORS, GemmPlan
from .jit import kernel
from .launch import address, array, call
from .pack import pack_weights, weight_places
from .plan import PLAN
from .rows import copy
from .tasks import share
from .tile import spread
from .transpose import transpose

_VECTOR_BYTES = MACHINE.vector_bytes


@kernel(_nrt=True)  # it allocates
def _multiply(w, columns, weights, panel, p, rows, group, channel, lanes, tiles):
    """Multiply the packed tiles by the weights of some result channels: (position, channel)."""
    block = VECTORS * (_VECTOR_BYTES // panel.itemsize)
    none, natural, ends = np.zeros(LANES, w.dtype), np.arange(p.kernel), np.array([0, p.kernel])
    places = weight_places(p, natural, ends, p.chunk, block)
    for chunk in range(p.chunks):
        first = chunk * p.chunk
        channels = min(p.chunk, p.source_channels - first)
        pack_weights(w, weights, 0, places, p, group, first, channels, channel, lanes)
        for tile in range(tiles):
            spread(
                LANES, columns, (chunk * tiles + tile) * p.region,
                weights, 0, p.kernel * block, channels, rows, 0, p.kernel, none, 0,
                panel, tile * LANES * block, block, 1 if chunk == 0 else 0,
            )  # fmt: skip


@kernel
def _write(panel, lines, places, y, p, channel, lanes, first, end, bias):
    """Write the positions from `first` to `end` for `lanes` channels, from `channel` on."""
    channels, size = p.groups * p.result_channels, p.rows * p.columns
    width = _VECTOR_BYTES // y.itemsize
    block = VECTORS * width
    for at in range(0, end - first, width):
        transpose(
            lines, at, places, 0, panel, at * block, block, min(width, end - first - at), lanes, 1
        )
    for lane in range(lanes):
        at = first
        while at < end:
            image, rest = divmod(at, size)
            count = min(end - at, size - rest)
            copy(
                y, (image * channels + channel + lane) * size + rest,
                lines, lane * p.panel_pitch + at - first, count, bias[channel + lane],
            )  # fmt: skip
            at += count


@kernel(_nrt=True)  # it allocates
def _worker(
    worker, workers, x, w, bias, y, plan, read_h, read_w, sources, rows, parts, part_at, units,
    scratch,
):  # fmt: skip
    """Run the worker's tasks, those of one block together, in its row of `scratch`."""
    p = plan[0]
    columns, rest = scratch[worker, : p.columns_size], scratch[worker, p.columns_size :]
    weights, rest = rest[: p.weight_size], rest[p.weight_size :]
    panel, rest = rest[: p.panel_size], rest[p.panel_size :]
    lines, packed = rest[: p.lines_size], rest[p.lines_size :]
    block, count = VECTORS * (_VECTOR_BYTES // y.itemsize), units.shape[0]
    places = np.zeros(3 * block, np.int64)
    for k in range(block):
        places[3 * k], places[3 * k + 2] = k * p.panel_pitch, (k + 1) * p.panel_pitch
    begin, end = share(worker, workers, p.blocks * count)
    packed_block, packed_group = -1, -1
    for task in range(begin, end):
        run, u = divmod(task, count)
        first, last = run * p.unit_run, min(p.tiles, (run + 1) * p.unit_run)
        group, channel, lanes = units[u, 0], units[u, 1], units[u, 2]
        if run != packed_block or group != packed_group:
            pack_columns(
                x, columns, packed, p, read_h, read_w, sources, parts, part_at, group, first, last
            )
            packed_block, packed_group = run, group
        _multiply(w, columns, weights, panel, p, rows, group, channel, lanes, last - first)
        _write(
            panel, lines, places, y, p, group * p.result_channels + channel, lanes,
            first * LANES, min(p.positions, last * LANES), bias,
        )  # fmt: skip


@kernel(parallel=True)
def _launch(
    run, x, w, bias, y, plan, read_h, read_w, sources, rows, parts, part_at, units, scratch
):  # fmt: skip
    """Run all tasks with the kernel at the address `run`."""
    workers = scratch.shape[0]
    for worker in prange(workers):
        call(
            run, worker, workers, x, w, bias, y, plan, read_h, read_w, sources, rows, parts,
            part_at, units, scratch,
        )  # fmt: skip


@lru_cache(maxsize=2)
def _address(dtype: np.dtype) -> Any:
    """Return the address of `_worker` for arrays of `dtype`."""
    data, table, integer = array(dtype), array(np.int64), types.int64
    return address(
        _worker, integer, integer, *[data] * 4, array(PLAN), *[table] * 6, array(np.int64, 2),
        array(dtype, 2),
    )  # fmt: skip


def run_gemm(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, plan: GemmPlan
) -> np.ndarray:
    """Launch a forward pass or an input gradient into `y`."""
    p = plan.numbers[0]
    workers = min(numba.get_num_threads(), int(p["blocks"]) * len(plan.units))
    _launch(
        _address(x.dtype), flat(x), flat(w),
        np.zeros(y.shape[1], x.dtype) if bias is None else flat(bias), y.ravel(),
        plan.numbers, plan.read_h, plan.read_w, plan.sources, plan.rows, plan.parts,
        plan.part_at, plan.units, empty((workers, int(p["scratch_size"])), x.dtype),
    )  # fmt: skip
    return y
