"""Weight gradients with images innermost, where source channels are too few to be vectors.

As dot.py's, but that positions are pixels of a vector of images: a line of them is whole vectors,
so nothing of a halo is multiplied.
"""

from __future__ import annotations

import numpy as np

from ...memory import empty
from ..positions.dot import multiply, stream_offsets, write_unit
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, linked
from ..runtime.tasks import add_chunks, count_workers, share
from ..vectors.transpose import transpose
from .batchgradplan import BatchDotPlan


@linked
@kernel
def _pack_source(x, packed, p, places, image, images, group):
    """Transpose all channels of a group of some images."""
    size, channels = p.source_h * p.source_w, p.groups * p.source_channels
    for channel in range(p.source_channels):
        at = (image * channels + group * p.source_channels + channel) * size
        transpose(
            packed, channel * p.plane, places, 0, x, at, channels * size, images, size, 0
        )  # fmt: skip


@linked
@kernel
def _add(dy, panel, packed, offsets, p, places, image, images, units, u, sums):
    """Transpose the lanes of unit `u` of some images, and add their products up."""
    group, first, lanes = units[u, 0], units[u, 1], units[u, 2]
    size, channels = p.result_h * p.result_w, p.groups * p.result_channels
    source = (image * channels + group * p.result_channels + first) * size
    transpose(panel, 0, places, 0, dy, source, channels * size, images, lanes * size, 0)
    multiply(
        panel, 0, p.panel_pitch, p.positions, packed, offsets, p.pitch, p.rows, p.positions,
        sums, p, units, u, u + 1, dy.ctypes.data + (source + lanes * size) * dy.itemsize,
        channels * size * dy.itemsize,
    )  # fmt: skip


@kernel(_nrt=True)  # it allocates
def _worker(worker, workers, x, dy, partial, plan, source_at, grad_at, taps, units, scratch):
    """Run the worker's tasks, those of one chunk together, in its row of `scratch`."""
    p, memory = plan[0], scratch[worker]
    packed, panel = memory[: p.packed_size], memory[p.packed_size :]
    offsets, count = stream_offsets(p, taps), units.shape[0]
    memory[:] = 0  # the halo
    task, end = share(worker, workers, p.chunks * count)
    while task < end:
        chunk, first = divmod(task, count)
        last = min(count, first + end - task)
        sums = partial[chunk]
        sums[units[first, 3] : units[last - 1, 3] + units[last - 1, 5]] = 0
        for block in range(chunk * p.blocks // p.chunks, (chunk + 1) * p.blocks // p.chunks):
            image, packed_group = block * p.images, -1
            images = min(p.images, p.batch - image)
            if images < p.images:
                memory[:] = 0
            for u in range(first, last):
                if units[u, 0] != packed_group:
                    packed_group = units[u, 0]
                    _pack_source(x, packed, p, source_at, image, images, packed_group)
                _add(dy, panel, packed, offsets, p, grad_at, image, images, units, u, sums)
        task += last - first


@kernel
def _finish_units(worker, workers, partial, dw, plan, tap_kernel, units):
    """Add up the chunks of the worker's units in their order, and write them."""
    begin, end = share(worker, workers, units.shape[0])
    for u in range(begin, end):
        add_chunks(partial, units[u, 3], units[u, 3] + units[u, 5])
        write_unit(dw, partial[0], plan[0], tap_kernel, units, u)


@entry
def _launch(x, dy, dw, plan, source_at, grad_at, taps, tap_kernel, units, partial, scratch):
    """Run all tasks, then finish all units."""
    workers = scratch.shape[0]
    launch(_worker, workers, x, dy, partial, plan, source_at, grad_at, taps, units, scratch)
    launch(_finish_units, workers, partial, dw, plan, tap_kernel, units)


def run_batch_dot(x: np.ndarray, dy: np.ndarray, plan: BatchDotPlan) -> np.ndarray:
    """Launch a weight gradient and return its result."""
    dw = empty(plan.shape, x.dtype)
    p, workers = plan.numbers[0], count_workers(plan.workers)
    _launch(
        flat(x), flat(dy), dw.ravel(), plan.numbers,
        plan.source_at, plan.grad_at, plan.taps, plan.tap_kernel, plan.units,
        empty((int(p["chunks"]), int(p["weight_size"])), x.dtype),
        empty((workers, int(p["scratch_size"])), x.dtype),
    )  # fmt: skip
    return dw
