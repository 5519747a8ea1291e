"""Weight gradients as products of matrices, for small pictures.

The transpose of the result's gradient, packed first, by the columns of im2col: the register tile's
lanes are result channels, its vectors run over columns, which are the weights of one lane as they
lie. Each task packs one block of columns, multiplies it by all lanes, and writes its part of each
channel's gradient.
"""

from __future__ import annotations

import numpy as np

from ...memory import empty
from ..config import AHEAD_PLANES, MACHINE
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch
from ..runtime.tasks import count_workers, share
from ..tiles.spread import spread
from ..vectors.rows import copy
from ..vectors.transpose import evenly, transpose
from .columns import pack_streams
from .gemmplan import LANES, VECTORS, GemmPlan

_VECTOR_BYTES = MACHINE.vector_bytes


@kernel(_nrt=True)  # it allocates
def pack_grad_lanes(worker, workers, dy, lanes, plan):
    """Pack the worker's tiles of the gradient's channels as (position, lane)."""
    p = plan[0]
    size, width = p.rows * p.columns, _VECTOR_BYTES // dy.itemsize
    places = evenly(size, LANES)
    begin, end = share(worker, workers, p.groups * p.tiles)
    for tile in range(begin, end):
        group, first = divmod(tile, p.tiles)
        first *= LANES
        count = min(LANES, p.result_channels - first)
        for image in range(p.batch):
            source = (image * p.groups + group) * p.result_channels + first
            for lane in range(0, count, width):
                transpose(
                    lanes, (tile * p.positions + image * size) * LANES + lane, places, 0,
                    dy, (source + lane) * size, size, min(width, count - lane), size,
                    1 if LANES <= width else 0,
                )  # fmt: skip


@kernel
def _write(panel, dw, p, group, first, count):
    """Write `count` columns, from `first` on, of all result channels' gradients."""
    block, streams = p.panel_size // (p.tiles * LANES), p.source_channels * p.kernel
    for lane in range(p.result_channels):
        to = (group * p.result_channels + lane) * streams + first
        copy(dw, to, panel, lane * block, count, dw.dtype.type(0))


@kernel(_nrt=True)  # it allocates
def _worker(
    worker, workers, x, lanes, dw, plan, read_h, read_w, sources, taps, parts, units, scratch
):  # fmt: skip
    """Run the worker's tasks, each one block of columns, in its row of `scratch`."""
    p = plan[0]
    block = VECTORS * (_VECTOR_BYTES // x.itemsize)
    columns, rest = scratch[worker, : p.columns_size], scratch[worker, p.columns_size :]
    panel, rest = rest[: p.panel_size], rest[p.panel_size :]
    rows, packed = rest[: p.lines_size], rest[p.lines_size :]
    none, places = np.zeros(LANES, x.dtype), evenly(p.positions, block)
    begin, end = share(worker, workers, units.shape[0])
    for u in range(begin, end):
        group, first, count = units[u, 0], units[u, 1], units[u, 2]
        pack_streams(
            x, columns, rows, packed, p, read_h, read_w, sources, parts, places,
            group, first, first + count,
        )  # fmt: skip
        for start in range(0, p.positions, p.chunk):
            spread(
                LANES, p.tiles, block,
                lanes, (group * p.tiles * p.positions + start) * LANES, p.positions * LANES,
                columns, start * block, 0, block, min(p.chunk, p.positions - start),
                taps, 0, 1, none, 0,
                panel, 0, LANES * block, block, 1 if start == 0 else 0,
                AHEAD_PLANES * block, p.terms,
            )  # fmt: skip
        _write(panel, dw, p, group, first, count)


@entry
def _launch(x, dy, dw, lanes, plan, read_h, read_w, sources, taps, parts, units, scratch):
    """Pack the gradient, then run all tasks."""
    workers = scratch.shape[0]
    launch(pack_grad_lanes, workers, dy, lanes, plan)
    launch(
        _worker, workers, x, lanes, dw, plan, read_h, read_w, sources, taps, parts, units,
        scratch,
    )  # fmt: skip


def run_gemm_grad(x: np.ndarray, dy: np.ndarray, plan: GemmPlan) -> np.ndarray:
    """Launch a weight gradient and return its result."""
    dw = empty(plan.shape, x.dtype)
    p, workers = plan.numbers[0], count_workers(plan.workers)
    _launch(
        flat(x), flat(dy), dw.ravel(),
        empty((int(p["groups"] * p["lanes_size"]),), x.dtype), plan.numbers, plan.read_h,
        plan.read_w, plan.sources, plan.weight_at, plan.parts, plan.units,
        empty((workers, int(p["scratch_size"])), x.dtype),
    )  # fmt: skip
    return dw
