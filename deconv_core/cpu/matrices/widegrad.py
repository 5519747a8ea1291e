"""Weight gradients of wide kernels: vectors run along the kernel's rows.

A kernel of 64 columns that moves by 32 meets, at each position, 64 elements of a source row, side
by side: the register tile of the products of matrices (gemmgrad.py) reads them as they lie, and no
phase is dealt out. Its lanes are result channels, transposed in advance. A task is the rows of one
phase of a source channel: they are packed once, with zeros around, and multiplied by all lanes for
each of the kernel's rows that meets them.
"""

from __future__ import annotations

import numpy as np

from ...memory import empty
from ..config import SUM_TERMS
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, linked
from ..runtime.tasks import count_workers, share
from ..tiles.spread import spread
from ..vectors.rows import copy, window
from .gemmgrad import pack_grad_lanes
from .gemmplan import LANES
from .wideplan import WidePlan


@linked
@kernel
def _pack_rows(x, packed, p, image, group, channel, phase):
    """Pack the rows of one phase of a channel, zero outside the picture."""
    of = (image * p.groups + group) * p.source_channels + channel
    for row in range(p.rows + p.reach_h):
        h = row * p.read_stride_h + phase + p.read_base_h
        limit = p.source_w if 0 <= h < p.source_h else 0
        start = (of * p.source_h + max(0, min(h, p.source_h - 1))) * p.source_w
        window(
            packed, row * p.pitch, x, start, p.read_base_w, p.region, limit, p.source_w
        )  # the next task's rows lie below these


@linked
@kernel
def _multiply(lanes, packed, panel, p, taps, places, none, group, image, begin, end, fresh):
    """Add up the positions [begin, end) of a picture for all lanes and the rows in `taps`."""
    size, block = p.rows * p.columns, p.panel_pitch
    for tile in range(p.tiles):
        at = ((group * p.tiles + tile) * p.positions + image * size + begin) * LANES
        for tap in range(taps.size):
            to = (tap * p.tiles + tile) * p.panel_plane
            for first in range(0, p.streams, block):
                spread(
                    LANES, 1, min(block, p.streams - first), lanes, at, 0,
                    packed, taps[tap] + first, 0, 0, 1, places, begin, end, none, 0,
                    panel, to + first * LANES, 0, block, fresh, 0, SUM_TERMS,
                )  # fmt: skip


@linked
@kernel
def _write(panel, dw, p, kernel, group, channel):
    """Write the rows of `kernel`, places in the kernel, of all result channels' gradients."""
    block, zero = p.panel_pitch, dw.dtype.type(0)
    for lane in range(p.result_channels):
        tile, within = divmod(lane, LANES)
        to = ((group * p.result_channels + lane) * p.source_channels + channel) * p.kernel
        for tap in range(kernel.size):
            at = (tap * p.tiles + tile) * p.panel_plane + within * block
            for first in range(0, p.streams, block):
                count = min(block, p.streams - first)
                copy(dw, to + kernel[tap] + first, panel, at + first * LANES, count, zero)


@kernel(_nrt=True)  # it allocates
def _worker(
    worker, workers, x, lanes, dw, plan, read_h, tap_rows, tap_kernel, phase_at, places, units,
    scratch,
):  # fmt: skip
    """Run the worker's tasks in its row of `scratch`."""
    p = plan[0]
    panel, packed = scratch[worker, : p.panel_size], scratch[worker, p.panel_size :]
    none, size = np.zeros(LANES, x.dtype), p.rows * p.columns
    begin, end = share(worker, workers, units.shape[0])
    for u in range(begin, end):
        group, channel, phase = units[u, 0], units[u, 1], units[u, 2]
        taps = slice(phase_at[phase], phase_at[phase + 1])
        for image in range(p.batch):
            _pack_rows(x, packed, p, image, group, channel, read_h[phase])
            for start in range(0, size, p.chunk):
                _multiply(
                    lanes, packed, panel, p, tap_rows[taps], places, none, group, image,
                    start, min(size, start + p.chunk), 1 if image == start == 0 else 0,
                )  # fmt: skip
        _write(panel, dw, p, tap_kernel[taps], group, channel)


@entry
def _launch(
    x, dy, dw, lanes, plan, read_h, tap_rows, tap_kernel, phase_at, places, units, scratch
):  # fmt: skip
    """Pack the gradient, then run all tasks."""
    workers = scratch.shape[0]
    launch(pack_grad_lanes, workers, dy, lanes, plan)
    launch(
        _worker, workers, x, lanes, dw, plan, read_h, tap_rows, tap_kernel, phase_at,
        places, units, scratch,
    )  # fmt: skip


def run_wide_grad(x: np.ndarray, dy: np.ndarray, plan: WidePlan) -> np.ndarray:
    """Launch a weight gradient and return its result."""
    dw = empty(plan.shape, x.dtype)
    p, workers = plan.numbers[0], count_workers(plan.workers)
    _launch(
        flat(x), flat(dy), dw.ravel(),
        empty((int(p["groups"] * p["lanes_size"]),), x.dtype), plan.numbers, plan.read_h,
        plan.tap_rows, plan.tap_kernel, plan.phase_at, plan.places, plan.units,
        empty((workers, int(p["scratch_size"])), x.dtype),
    )  # fmt: skip
    return dw
