"""Convolutions as products of matrices: the columns of im2col by the weights, for small pictures.

The same register tile as in spread.py, with its operands' roles changed: its lanes are positions,
its vectors run over result channels. The tasks of one block pack its columns (columns.py); each
packs its unit's weights, chunk by chunk of channels, multiplies, turns the sums from (position,
channel) into (channel, position), and writes them.
"""

from __future__ import annotations

import numpy as np

from ...memory import empty
from ..config import AHEAD_PLANES, MACHINE
from ..positions.pack import pack_weights, scatter, weight_places
from ..positions.phases import WAYS, weave_rows
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, linked
from ..runtime.tasks import count_workers, share
from ..tiles.spread import spread
from ..vectors.rows import copy, prefetch
from ..vectors.transpose import evenly, transpose
from .columns import pack_columns
from .gemmplan import LANES, VECTORS, GemmPlan

_VECTOR_BYTES = MACHINE.vector_bytes


@linked
@kernel(_nrt=True)  # it allocates
def _multiply(
    w, columns, weights, panel, p, weight_at, tap_kernel, phase_at, group, channel, lanes, tiles
):  # fmt: skip
    """Multiply packed tiles by the weights of some result channels: (phase, position, channel).

    Where a lane's weights of a chunk lie together, the next chunk's are called for, lane by lane.
    """
    width = _VECTOR_BYTES // panel.itemsize
    block, none = VECTORS * width, np.zeros(LANES, w.dtype)
    places = weight_places(p, tap_kernel, phase_at, p.chunk, block)
    base = (group * p.result_channels + channel) * p.w_lane
    ahead = p.w_channel == p.kernel and tiles > 1
    for chunk in range(p.chunks):
        first = chunk * p.chunk
        after = base + (first + p.chunk) * p.kernel
        channels = min(p.chunk, p.source_channels - first)
        pack_weights(w, weights, 0, places, p, group, first, channels, channel, lanes)
        for phase in range(phase_at.size - 1):
            before, taps = p.chunk * phase_at[phase], phase_at[phase + 1] - phase_at[phase]
            at = chunk * tiles * p.region + before * LANES + phase * width
            if ahead and phase == 0:
                for lane in range(lanes):
                    prefetch(w, after + lane * p.w_lane, p.chunk * p.kernel)
            spread(
                LANES, tiles, block, columns, at, p.region,
                weights, before * block, 0, taps * block, channels, weight_at, 0, taps, none, 0,
                panel, phase * tiles * LANES * block, LANES * block, block,
                1 if chunk == 0 else 0, AHEAD_PLANES * taps * block, p.terms,
            )  # fmt: skip


@kernel
def _write(lines, y, p, channel, lanes, phase_h, first, end, bias):
    """Write the positions from `first` to `end` of row phase `phase_h`, for `lanes` channels."""
    channels, size, stride = p.groups * p.result_channels, p.rows * p.columns, p.write_stride_w
    dense, area = p.write_stride_h * stride == 1, p.panel_plane
    for lane in range(lanes):
        at, offset = first, bias[channel + lane]
        while at < end:
            image, rest = divmod(at, size)
            picture = (image * channels + channel + lane) * p.result_h * p.result_w
            source = lane * p.panel_pitch + at - first
            if dense:
                count = min(end - at, size - rest)
                copy(y, picture + rest, lines, source, count, offset)
                at += count
                continue
            row, column = divmod(rest, p.columns)
            count = min(end - at, p.columns - column)
            h = p.write_stride_h * row + phase_h + p.write_base_h
            left = stride * column + p.write_base_w
            if stride in WAYS:
                weave_rows(
                    stride, y, picture, p.result_h, p.result_w, h, 1, left,
                    lines, source, 0, area, 1, count, offset, 0,
                )  # fmt: skip
            elif 0 <= h < p.result_h:
                scatter(
                    y, picture + h * p.result_w, left, count, p.result_w, lines, source, area,
                    stride, offset,
                )  # fmt: skip
            at += count


@linked
@kernel
def _unpack(panel, lines, places, y, p, channel, lanes, first, end, tiles, bias):
    """Turn the sums of `tiles` tiles to (channel, position), and write them."""
    width, count = _VECTOR_BYTES // y.itemsize, end - first
    block = VECTORS * width
    for phase_h in range(p.write_stride_h):
        for phase_w in range(p.write_stride_w):
            source = (phase_h * p.write_stride_w + phase_w) * tiles * LANES
            target = phase_w * p.panel_plane
            for at in range(0, count, width):
                transpose(
                    lines, target + at, places, 0, panel, (source + at) * block, block,
                    min(width, count - at), lanes, 1,
                )  # fmt: skip
        _write(lines, y, p, channel, lanes, phase_h, first, end, bias)


@kernel(_nrt=True)  # it allocates
def _worker(
    worker, workers, x, w, bias, y, plan, read_h, read_w, sources, tap_kernel, phase_at, weight_at,
    parts, part_at, units, scratch,
):  # fmt: skip
    """Run the worker's tasks, those of one block together, in its row of `scratch`."""
    p = plan[0]
    columns, rest = scratch[worker, : p.columns_size], scratch[worker, p.columns_size :]
    weights, rest = rest[: p.weight_size], rest[p.weight_size :]
    panel, rest = rest[: p.panel_size], rest[p.panel_size :]
    lines, packed = rest[: p.lines_size], rest[p.lines_size :]
    block, count = VECTORS * (_VECTOR_BYTES // y.itemsize), units.shape[0]
    places = evenly(block, p.panel_pitch)  # each has room for whole vectors of positions
    begin, end = share(worker, workers, p.blocks * count)
    packed_block, packed_group = -1, -1
    for task in range(begin, end):
        run, u = divmod(task, count)
        first, last = run * p.unit_run, min(p.tiles, (run + 1) * p.unit_run)
        group, channel, lanes = units[u, 0], units[u, 1], units[u, 2]
        if run != packed_block or group != packed_group:
            pack_columns(
                x, columns, packed, p, read_h, read_w, sources, phase_at, parts, part_at,
                group, first, last,
            )  # fmt: skip
            packed_block, packed_group = run, group
        _multiply(
            w, columns, weights, panel, p, weight_at, tap_kernel, phase_at, group, channel, lanes,
            last - first,
        )  # fmt: skip
        _unpack(
            panel, lines, places, y, p, group * p.result_channels + channel, lanes,
            first * LANES, min(p.positions, last * LANES), last - first, bias,
        )  # fmt: skip


@entry
def _launch(
    x, w, bias, y, plan, read_h, read_w, sources, tap_kernel, phase_at, weight_at, parts, part_at,
    units, scratch,
):  # fmt: skip
    """Run all tasks."""
    workers = scratch.shape[0]
    launch(
        _worker, workers, x, w, bias, y, plan, read_h, read_w, sources, tap_kernel,
        phase_at, weight_at, parts, part_at, units, scratch,
    )  # fmt: skip


def run_gemm(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, plan: GemmPlan) -> np.ndarray:
    """Launch a forward pass or an input gradient and return its result."""
    y = empty(plan.shape, x.dtype)
    p, workers = plan.numbers[0], count_workers(plan.workers)
    _launch(
        flat(x), flat(w), np.zeros(y.shape[1], x.dtype) if bias is None else flat(bias), y.ravel(),
        plan.numbers, plan.read_h, plan.read_w, plan.sources, plan.tap_kernel,
        plan.phase_at, plan.weight_at, plan.parts, plan.part_at, plan.units,
        empty((workers, int(p["scratch_size"])), x.dtype),
    )  # fmt: skip
    return y
