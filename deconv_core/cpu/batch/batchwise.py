"""Forward passes and input gradients with images innermost, for many small pictures.

The source is transposed to (block of images, channel, pixel, image). Each task, one unit of one
part of a block's rows, packs its weights, runs the register tile (tiles/spread.py) over its runs
of pixels class by class (batchplan.py), and transposes the sums into the result.
"""

from __future__ import annotations

import numpy as np

from ...memory import empty
from ..config import AHEAD_PLANES, MACHINE, SUM_TERMS
from ..positions.pack import pack_weights, weight_places
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, linked
from ..runtime.tasks import count_workers, share
from ..tiles.spread import spread
from ..vectors.rows import move
from ..vectors.transpose import gather, transpose
from .batchplan import BatchPlan

_VECTOR_BYTES = MACHINE.vector_bytes


@kernel
def pack_images(worker, workers, x, packed, plan, source_at):
    """Transpose the worker's blocks of images, some channels at a time.

    What is not written but multiplied, in vain, becomes zero: it might be a subnormal number.
    """
    p = plan[0]
    channels, size = p.groups * p.source_channels, p.source_h * p.source_w
    width = _VECTOR_BYTES // x.itemsize
    groups = (channels + p.packed_together - 1) // p.packed_together
    begin, end = share(worker, workers, p.blocks * groups)
    for task in range(begin, end):
        block, first = divmod(task, groups)
        first *= p.packed_together
        image, count = block * p.images, min(p.packed_together, channels - first) * size
        images = min(p.images, p.batch - image)
        last = min(channels, first + p.packed_together)
        for channel in range(first, last):
            at = block * p.packed_size + channel * p.plane
            packed[at + (size * p.images if images == p.images else 0) : at + p.plane] = 0
        if last == channels:
            packed[block * p.packed_size + last * p.plane : (block + 1) * p.packed_size] = 0
        for i in range(0, images, width):
            transpose(
                packed, block * p.packed_size + i, source_at, first,
                x, ((image + i) * channels + first) * size, channels * size, min(width, images - i),
                count, 0,
            )  # fmt: skip


@kernel
def _class_weights(weights, at, target, picks, begin, end, taps, channels, lanes):
    """Copy the weights of a class's taps, of a write phase of `taps`, side by side.

    Whole vectors are written in the order of their addresses.
    """
    width = _VECTOR_BYTES // weights.itemsize
    for channel in range(channels):
        for tap in range(begin, end):
            source = at + (channel * taps + picks[tap]) * lanes
            for lane in range(0, lanes, width):
                move(weights, target + lane, weights, source + lane)
            target += lanes


@linked
@kernel
def _multiply(
    packed, block_at, panel, weights, bias, bias_at, p, phase_at, taps, picks, classes, first, last,
    runs, channel, channels, lanes,
):  # fmt: skip
    """Add the products of some channels up, for the classes from `first` to `last`."""
    for c in range(first, last):
        phase, begin, end = classes[c, 0], classes[c, 1], classes[c, 2]
        own = phase_at[phase + 1] - phase_at[phase]
        at = p.chunk * phase_at[phase] * lanes
        if end - begin < own:
            _class_weights(weights, at, p.weight_size, picks, begin, end, own, channels, lanes)
            at = p.weight_size
        for run in range(classes[c, 3], classes[c, 4]):
            spread(
                lanes, 1, runs[run, 2], weights, at, 0,
                packed, block_at + channel * p.plane + runs[run, 0], 0, p.plane, channels,
                taps, begin, end, bias, bias_at,
                panel, runs[run, 1], 0, p.panel_pitch, 1 if channel == 0 else 0,
                AHEAD_PLANES * p.plane, SUM_TERMS,
            )  # fmt: skip


@linked
@kernel
def _write(panel, y, p, result_at, image, channel, lanes, first, end):
    """Transpose a panel's pixels from `first` to `end` into the result."""
    channels, size = p.groups * p.result_channels, p.result_h * p.result_w
    images, width = min(p.images, p.batch - image), _VECTOR_BYTES // y.itemsize
    for i in range(0, images, width):
        for lane in range(0, lanes, p.written_together):
            count = min(p.written_together, lanes - lane) * (end - first)
            gather(
                y, ((image + i) * channels + channel + lane) * size + first, channels * size,
                panel, lane * p.panel_pitch + i, result_at, first, min(width, images - i), count,
            )  # fmt: skip


@kernel(_nrt=True)  # it allocates
def _worker(
    worker, workers, packed, w, bias, y, plan, result_at, tap_kernel, phase_at, taps, picks,
    classes, class_at, runs, units, scratch,
):  # fmt: skip
    """Run the worker's tasks, in its row of `scratch`."""
    p = plan[0]
    panel, weights = scratch[worker, : p.panel_size], scratch[worker, p.panel_size :]
    count = units.shape[0]
    begin, end = share(worker, workers, p.blocks * p.row_blocks * count)
    packed_unit, places, placed = -1, np.empty(0, np.int64), 0
    for task in range(begin, end):
        rest, part = divmod(task, p.row_blocks)
        block, u = divmod(rest, count)
        group, lane, lanes = units[u, 0], units[u, 1], units[u, 2]
        if placed != lanes:
            places, placed = weight_places(p, tap_kernel, phase_at, p.chunk, lanes), lanes
        for channel in range(0, p.source_channels, p.chunk):
            channels = min(p.chunk, p.source_channels - channel)
            if u != packed_unit or p.chunk < p.source_channels:
                pack_weights(w, weights, 0, places, p, group, channel, channels, lane, lanes)
                packed_unit = u
            _multiply(
                packed, block * p.packed_size + group * p.source_channels * p.plane, panel,
                weights, bias, group * p.result_channels + lane, p, phase_at, taps, picks, classes,
                class_at[part], class_at[part + 1], runs, channel, channels, lanes,
            )  # fmt: skip
        first = part * p.block_rows * p.result_w
        last = min(p.result_h, (part + 1) * p.block_rows) * p.result_w
        _write(
            panel, y, p, result_at, block * p.images, group * p.result_channels + lane, lanes,
            first, last,
        )  # fmt: skip


@entry
def _launch(
    x, w, bias, y, plan, packed, source_at, result_at, tap_kernel, phase_at, taps, picks, classes,
    class_at, runs, units, scratch,
):  # fmt: skip
    """Transpose the source, then run all tasks."""
    workers = scratch.shape[0]
    launch(pack_images, workers, x, packed, plan, source_at)
    launch(
        _worker, workers, packed, w, bias, y, plan, result_at, tap_kernel, phase_at, taps,
        picks, classes, class_at, runs, units, scratch,
    )  # fmt: skip


def run_batchwise(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, plan: BatchPlan
) -> np.ndarray:
    """Launch a forward pass or an input gradient and return its result."""
    y = empty(plan.shape, x.dtype)
    p, workers = plan.numbers[0], count_workers(plan.workers)
    _launch(
        flat(x), flat(w), np.zeros(y.shape[1], x.dtype) if bias is None else flat(bias), y.ravel(),
        plan.numbers,
        empty((int(p["blocks"] * p["packed_size"]),), x.dtype),
        plan.source_at, plan.result_at, plan.tap_kernel, plan.phase_at, plan.taps, plan.picks,
        plan.classes, plan.class_at, plan.runs, plan.units,
        empty((workers, int(p["scratch_size"])), x.dtype),
    )  # fmt: skip
    return y
