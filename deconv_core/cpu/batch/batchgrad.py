"""Weight gradients of small pictures in large batches: sums over images, pixel by pixel.

Source and gradient are transposed to (block of images, pixel, image, channel). Then the products
of a tap are sums over runs of pixels and images, which both lie side by side: the register tile's
lanes are result channels, its vectors run over source channels.
"""

from __future__ import annotations

import numpy as np

from ...memory import empty
from ..config import AHEAD_PLANES, MACHINE, SUM_TERMS
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, linked
from ..runtime.tasks import add_chunks, count_workers, share
from ..tiles.spread import spread
from ..vectors.transpose import evenly, transpose
from .batchgradplan import BatchGradPlan
from .batchplan import LANES, VECTORS

_VECTOR_BYTES = MACHINE.vector_bytes


@kernel
def _squares(y, y_at, places, x, x_at, x_image, size, images, channels, spill):
    """Transpose some channels of some images, a square of vectors of all images at a time."""
    width = _VECTOR_BYTES // x.itemsize
    for first in range(0, size, width):
        for image in range(images):
            for c in range(0, channels, width):
                transpose(
                    y, y_at + c, places[3 * first :], image,
                    x, x_at + image * x_image + c * size + first, size,
                    min(width, channels - c), min(width, size - first), spill,
                )  # fmt: skip


@linked
@kernel
def _pack_source(x, packed, p, places, image, images, group, channel, channels):
    """Transpose some channels of some images."""
    size = p.source_h * p.source_w
    at = ((image * p.groups + group) * p.source_channels + channel) * size
    _squares(
        packed, 0, places, x, at, p.groups * p.source_channels * size, size, images, channels, 0
    )


@linked
@kernel
def _pack_lanes(dy, lanes, p, places, image, images, group, first):
    """Transpose some images' result channels of a tile, from `first` on."""
    size, count = p.result_h * p.result_w, min(LANES, p.result_channels - first)
    at = ((image * p.groups + group) * p.result_channels + first) * size
    _squares(
        lanes, 0, places, dy, at, p.groups * p.result_channels * size, size, images, count,
        1 if LANES <= _VECTOR_BYTES // dy.itemsize else 0,
    )  # fmt: skip


@linked
@kernel
def _add(packed, lanes, p, runs, taps, none, images, sums, at):
    """Add the products of one block of images up, for a tile of lanes: (tap, lane, channel).

    A run is a single sum, but where images are missing one for each pixel.
    """
    block = VECTORS * (_VECTOR_BYTES // sums.itemsize)
    for run in range(runs.shape[0]):
        pixels = runs[run, 3] if images == p.images else 1
        for pixel in range(0, runs[run, 3], pixels):
            spread(
                LANES, 1, block, lanes, runs[run, 1] + pixel * p.images * LANES, 0,
                packed, runs[run, 2] + pixel * p.images * block, 0, block, pixels * images,
                taps, 0, 1, none, 0, sums, at + runs[run, 0] * LANES * block, 0, block, 0,
                AHEAD_PLANES * block, SUM_TERMS,
            )  # fmt: skip


@kernel(_nrt=True)  # it allocates
def _worker(worker, workers, x, dy, partial, plan, source_at, grad_at, runs, scratch):
    """Run the worker's tasks, those of one chunk and some source channels together."""
    p = plan[0]
    packed, lanes = scratch[worker, : p.packed_size], scratch[worker, p.packed_size :]
    none, taps = np.zeros(LANES, x.dtype), np.zeros(1, np.int64)
    block, units = VECTORS * (_VECTOR_BYTES // x.itemsize), p.weight_size // p.panel_size
    scratch[worker, :] = 0  # packing leaves some as it is: subnormal numbers would take long
    task, end = share(worker, workers, p.chunks * units)
    while task < end:
        chunk, unit = divmod(task, units)
        source, first = divmod(unit, p.tiles)
        last = min(p.tiles, first + end - task)
        group, channel = divmod(source, units // (p.tiles * p.groups))
        channel *= block
        channels, sums = min(block, p.source_channels - channel), partial[chunk]
        sums[unit * p.panel_size : (unit + last - first) * p.panel_size] = 0
        for b in range(chunk * p.blocks // p.chunks, (chunk + 1) * p.blocks // p.chunks):
            image, images = b * p.images, min(p.images, p.batch - b * p.images)
            _pack_source(x, packed, p, source_at, image, images, group, channel, channels)
            for tile in range(first, last):
                _pack_lanes(dy, lanes, p, grad_at, image, images, group, tile * LANES)
                _add(
                    packed, lanes, p, runs, taps, none, images,
                    sums, (unit + tile - first) * p.panel_size,
                )  # fmt: skip
        task += last - first


@kernel(_nrt=True)  # it allocates
def _finish_units(worker, workers, partial, dw, plan):
    """Add up the chunks of the worker's units in their order, and write them."""
    p, width = plan[0], _VECTOR_BYTES // dw.itemsize
    block, units, size = VECTORS * width, p.weight_size // p.panel_size, p.panel_size
    begin, end = share(worker, workers, units)
    for unit in range(begin, end):
        at = unit * size
        add_chunks(partial, at, at + size)
        source, first = divmod(unit, p.tiles)
        group, channel = divmod(source, units // (p.tiles * p.groups))
        channel *= block
        first *= LANES
        channels = min(block, p.source_channels - channel)
        places = evenly(channels, p.kernel)
        for lane in range(min(LANES, p.result_channels - first)):
            of = (group * p.result_channels + first + lane) * p.source_channels + channel
            for tap in range(0, p.kernel, width):
                transpose(
                    dw, of * p.kernel + tap, places, 0,
                    partial[0], at + (tap * LANES + lane) * block, LANES * block,
                    min(width, p.kernel - tap), channels, 1 if p.kernel <= width else 0,
                )  # fmt: skip


@entry
def _launch(x, dy, dw, plan, source_at, grad_at, runs, partial, scratch):
    """Run all tasks, then finish all units."""
    workers = scratch.shape[0]
    launch(_worker, workers, x, dy, partial, plan, source_at, grad_at, runs, scratch)
    launch(_finish_units, workers, partial, dw, plan)


def run_batch_grad(x: np.ndarray, dy: np.ndarray, plan: BatchGradPlan) -> np.ndarray:
    """Launch a weight gradient and return its result."""
    dw = empty(plan.shape, x.dtype)
    p, workers = plan.numbers[0], count_workers(plan.workers)
    _launch(
        flat(x), flat(dy), dw.ravel(), plan.numbers,
        plan.source_at, plan.grad_at, plan.runs,
        empty((int(p["chunks"]), int(p["weight_size"])), x.dtype),
        empty((workers, int(p["scratch_size"])), x.dtype),
    )  # fmt: skip
    return dw
