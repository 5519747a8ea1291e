"""Depthwise convolutions of pictures narrower than a vector: whole pictures, read in place.

By bands of rows (bands.py) half a vector would be empty at the end of each row. Here the
positions of a picture are one run, and masks (planetile.py) stand for its edges. Tasks are pictures
of one channel, or for a weight gradient some channels and a chunk of the images; every element of
the result has one writer, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...geometry import Axis, ConvGeometry, ceil_div
from ...memory import empty
from ..config import (
    CHANNEL_RUN,
    MACHINE,
    MAX_CHUNKS,
    MIN_BLOCKS,
    PLANE_POSITIONS,
    PREFETCH_AHEAD,
)
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, launched
from ..runtime.tasks import count_workers, share
from ..vectors.rows import prefetch
from .bands import sum_vectors, write_sums
from .planetile import VECTORS, plane_dot, plane_tile
from .rowtile import TAPS

_VECTOR_BYTES = MACHINE.vector_bytes


@dataclass(frozen=True)
class PlanesPlan:
    """Everything that a pass needs besides the arrays.

    Attributes
    ----------
    shape : of the result
    sizes : elements of one picture of the source and of the pass's positions
    groups, kernel : channels, and taps of one
    offsets : (taps,), int64, from a position to what a tap finds
    masks : uint16, bit i for element i of a vector of positions; tap by tap, of a weight gradient
        vector by vector
    run, chunks : of a weight gradient the channels of a task, and the parts of the images
    tasks : how many there are to share among threads
    """

    shape: tuple[int, ...]
    sizes: tuple[int, int]
    groups: int
    kernel: int
    offsets: np.ndarray
    masks: np.ndarray
    run: int
    chunks: int
    tasks: int


def is_narrow(geometry: ConvGeometry, itemsize: int) -> bool:
    """Tell whether pictures are narrower than a vector, not tall, and read without strides."""
    rows, columns = geometry.rows, geometry.cols
    narrow = columns.size == columns.out < MACHINE.vector_bytes // itemsize
    low = max(rows.size, rows.out) * columns.size <= PLANE_POSITIONS  # there are masks for each
    return MACHINE.masked and narrow and low and (rows.step, columns.step) == (1, 1)


def _shifts(axis: Axis, adjoint: bool) -> list[int]:
    """Return how far from a position each tap of one axis finds its element."""
    forward = [k * axis.dilation - axis.pad_lo for k in range(axis.kernel)]
    return [-shift for shift in forward] if adjoint else forward


def _taps(
    geometry: ConvGeometry, adjoint: bool, itemsize: int, padded: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets and masks of all taps, and of as many empty ones as make `padded`."""
    rows, columns, width = geometry.rows, geometry.cols, MACHINE.vector_bytes // itemsize
    source, count = (rows.out, rows.size) if adjoint else (rows.size, rows.out)
    size = count * columns.size
    row, column = np.divmod(np.arange(ceil_div(size, width) * width), columns.size)
    offsets, masks = np.zeros(padded, np.int64), np.zeros((padded, row.size), bool)
    shifts = [(i, j) for i in _shifts(rows, adjoint) for j in _shifts(columns, adjoint)]
    for tap, (down, right) in enumerate(shifts):
        offsets[tap] = down * columns.size + right
        inside = (0 <= row + down) & (row + down < source) & (row < count)
        masks[tap] = inside & (0 <= column + right) & (column + right < columns.size)
    bits = masks.reshape(padded, -1, width) @ (1 << np.arange(width))
    return offsets, bits.astype(np.uint16)


def planes_plan(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> PlanesPlan:
    """Plan a forward pass or, with `adjoint`, an input gradient."""
    shapes = geometry.input_shape, geometry.output_shape
    result, source = shapes if adjoint else shapes[::-1]
    kernel = geometry.rows.kernel * geometry.cols.kernel
    offsets, masks = _taps(geometry, adjoint, itemsize, kernel)
    sizes, planes = (source[2] * source[3], result[2] * result[3]), result[0] * result[1]
    return PlanesPlan(result, sizes, result[1], kernel, offsets, masks.ravel(), 0, 0, planes)


def planes_grad_plan(geometry: ConvGeometry, itemsize: int) -> PlanesPlan:
    """Plan a weight gradient."""
    batch, channels, *size = geometry.output_shape
    kernel = geometry.rows.kernel * geometry.cols.kernel
    streams = TAPS[0] if kernel > TAPS[1] else TAPS[1]
    padded = ceil_div(kernel, streams) * streams
    offsets, masks = _taps(geometry, False, itemsize, padded)
    sizes = geometry.rows.size * geometry.cols.size, size[0] * size[1]
    run = min(CHANNEL_RUN, ceil_div(channels, MIN_BLOCKS))
    parts = ceil_div(channels, run)
    chunks = min(batch, MAX_CHUNKS, ceil_div(MIN_BLOCKS, parts))
    return PlanesPlan(
        geometry.weight_shape, sizes, channels, kernel, offsets, masks.T.ravel(), run, chunks,
        chunks * parts,
    )  # fmt: skip


@kernel(inline="always")
def _call(x, plane, size):
    """Call for what a later picture finds at its place."""
    prefetch(x, plane * size + max(size, PREFETCH_AHEAD), size)


@launched
def _pass(worker, workers, x, w, bias, y, source, size, groups, kernel, offsets, masks):
    """Compute the worker's pictures, of one channel each."""
    width = _VECTOR_BYTES // x.itemsize
    vectors = (size + width - 1) // width
    step = VECTORS[0] if vectors >= VECTORS[0] else VECTORS[1] if vectors >= VECTORS[1] else 1
    begin, end = share(worker, workers, y.size // size)
    for plane in range(begin, end):
        channel = plane % groups
        _call(x, plane, source)
        _call(y, plane, size)
        for vector in range(0, vectors, step):
            first = min(vector, vectors - step)  # the last tile may compute some vectors again
            at = first * width
            plane_tile(
                step, x, plane * source + at, w, channel * kernel, offsets, masks, first, vectors,
                kernel, y, plane * size + at, size - at,
                bias[channel] if bias.size else x.dtype.type(0),
            )  # fmt: skip


@kernel
def _sums(
    worker, workers, x, dy, partial, source, size, groups, kernel, offsets, masks, run, tasks,
    scratch,
):  # fmt: skip
    """Run the worker's tasks, each the sums of a few channels over a chunk of the images.

    Row i of `scratch` is worker i's.
    """
    sums = scratch[worker]
    width, chunks, taps = _VECTOR_BYTES // x.itemsize, partial.shape[0], offsets.size
    batch, streams = dy.size // (groups * size), TAPS[0] if kernel > TAPS[1] else TAPS[1]
    begin, end = share(worker, workers, tasks)
    for task in range(begin, end):
        first, chunk = task // chunks * run, task % chunks
        last = min(first + run, groups)
        sums[:] = 0
        for image in range(chunk * batch // chunks, (chunk + 1) * batch // chunks):
            for channel in range(first, last):
                plane = image * groups + channel
                _call(x, plane, source)
                _call(dy, plane, size)
                for tap in range(0, taps, streams):
                    plane_dot(
                        streams, dy, plane * size, size, x, plane * source, offsets, masks,
                        taps, tap, sums, ((channel - first) * taps + tap) * width,
                    )  # fmt: skip
        for channel in range(first, last):
            at = (channel - first) * taps * width
            sum_vectors(sums, at, partial[chunk], channel * kernel, kernel, width)


@entry
def _grad(x, dy, dw, source, size, groups, kernel, offsets, masks, run, tasks, partial, scratch):
    """Run all tasks, then add the chunks up in their order."""
    launch(
        _sums, scratch.shape[0], x, dy, partial, source, size, groups, kernel, offsets, masks, run,
        tasks, scratch,
    )  # fmt: skip
    write_sums(partial, dw)


def run_planes(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, plan: PlanesPlan
) -> np.ndarray:
    """Launch a forward pass or an input gradient and return its result."""
    y = empty(plan.shape, x.dtype)
    if y.size:
        _pass(
            count_workers(plan.tasks), flat(x), flat(w),
            np.empty(0, x.dtype) if bias is None else flat(bias), y.reshape(-1), *plan.sizes,
            plan.groups, plan.kernel, plan.offsets, plan.masks,
        )  # fmt: skip
    return y


def run_planes_grad(x: np.ndarray, dy: np.ndarray, plan: PlanesPlan) -> np.ndarray:
    """Launch a weight gradient and return its result."""
    dw = empty(plan.shape, x.dtype)
    width, workers = _VECTOR_BYTES // x.itemsize, count_workers(plan.tasks)
    _grad(
        flat(x), flat(dy), dw.reshape(-1), *plan.sizes, plan.groups, plan.kernel, plan.offsets,
        plan.masks, plan.run, plan.tasks, empty((plan.chunks, dw.size), x.dtype),
        empty((workers, plan.run * plan.offsets.size * width), x.dtype),
    )  # fmt: skip
    return dw
