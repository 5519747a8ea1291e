"""Packing and unpacking: where passes by positions deal with padding, phases, strides and edges.

`pack_source` lays the rows that a block reads out as phase planes with a zero halo, so that the
register tiles need no edge cases. `unpack` writes a tile's dense panel of positions into the
result, interleaving write phases and adding the bias. Both touch the caller's arrays at exactly
the elements that belong to the block.
"""

from __future__ import annotations

import numpy as np

from ..config import MACHINE
from ..runtime.jit import kernel
from ..runtime.launch import linked
from ..runtime.tasks import positions_of
from ..vectors.rows import copy, prefetch, window, window_by_two
from ..vectors.transpose import transpose
from .phases import WAYS, deal_rows, weave_rows

_VECTOR_BYTES = MACHINE.vector_bytes
_RUN = 128  # weights of a lane that are packed together, about


@kernel
def channels_together(p):
    """Return how many of a lane's channels are packed together, where they lie side by side."""
    return max(1, min(p.source_channels, _RUN // p.kernel)) if p.w_channel == p.kernel else 1


@kernel(_nrt=True)  # it allocates
def weight_places(p, tap_kernel, phase_at, channels, pitch):
    """Return where the weights of a lane's first channels go: place, step of channels, the end.

    They are packed as (write phase, channel, tap, lane), with `pitch` elements for a tap's lanes.
    A whole vector also writes behind a tap's lanes. Within a phase that is overwritten: taps are in
    the kernel's order, so those behind are moved later. The next phase's of the source may have
    been moved before: a vector that would reach these is masked.
    """
    kernel, together = p.kernel, channels_together(p)
    each = kernel // p.alike if p.alike > 1 else 1  # taps of a phase of the source
    places = np.empty(3 * kernel * together, np.int64)
    for phase in range(phase_at.size - 1):
        begin, end = phase_at[phase], phase_at[phase + 1]
        for tap in range(begin, end):
            at, step = (channels * begin + tap - begin) * pitch, (end - begin) * pitch
            for channel in range(together):
                k = 3 * (tap_kernel[tap] + channel * kernel)
                places[k], places[k + 1] = at + channel * step, step
                masked = each > 1 and (each - tap % each) * pitch < _VECTOR_BYTES // 4
                places[k + 2] = 0 if masked else channels * end * pitch
    return places


@kernel
def _pack_few(w, base, packed, at, places, p, channels, lanes):
    """Pack the weights of one channel after the other, for kernels of a few taps."""
    for channel in range(channels):
        for tap in range(p.kernel):
            source = w[base + channel * p.w_channel + tap :]
            start = at + places[3 * tap] + channel * places[3 * tap + 1]
            target = packed[start : start + lanes]
            fours = lanes // 4 * 4
            for lane in range(0, fours, 4):  # four by four: the loop itself would cost as much
                for i in range(4):
                    target[lane + i] = source[(lane + i) * p.w_lane]
            for lane in range(fours, lanes):
                target[lane] = source[lane * p.w_lane]


@linked
@kernel
def pack_weights(w, packed, at, places, p, group, channel, channels, first, lanes):
    """Pack the weights of some source channels, from `channel` on, for the lanes from `first` on.

    `places` are those of `weight_places` for so many channels.
    """
    kernel, width, together = p.kernel, _VECTOR_BYTES // w.itemsize, channels_together(p)
    base = group * p.result_channels * p.source_channels * kernel
    base += channel * p.w_channel + first * p.w_lane
    if together * kernel < width // 2:
        _pack_few(w, base, packed, at, places, p, channels, lanes)
        return
    spill = 1 if lanes <= width else 0
    for c in range(0, channels, together):
        count = min(together, channels - c) * kernel
        if p.w_lane == kernel:  # a channel's weights lie together, the next one's far away
            prefetch(w, base + (c + 3) * p.w_channel, lanes * kernel)
        for lane in range(0, lanes, width):
            transpose(
                packed, at + lane, places, c, w, base + c * p.w_channel + lane * p.w_lane,
                p.w_lane, min(width, lanes - lane), count, spill,
            )  # fmt: skip


@linked
@kernel
def pack_joint_weights(w, packed, at, p, tap_kernel, phase_at, group):
    """Pack all weights of a group whose joint phases are lanes (joint.py): zero for no tap."""
    base = group * p.result_channels * p.source_channels * p.kernel
    for phase in range(phase_at.size - 1):
        begin, end = p.joint * phase_at[phase], p.joint * phase_at[phase + 1]
        for channel in range(p.source_channels):
            for place in range(begin, end):
                tap, source = tap_kernel[place], base + channel * p.w_channel
                for lane in range(p.result_channels):
                    packed[at] = w[source + lane * p.w_lane + tap] if tap >= 0 else 0
                    at += 1


@kernel
def _gather(y, y_at, x, x_at, first, count, limit, stride):
    """``y[y_at + i] = row[first + stride * i]`` for i < count, as rows.py's `window`."""
    begin = min(count, max(0, (-first + stride - 1) // stride))
    end = max(begin, min(count, (limit - first + stride - 1) // stride))
    y[y_at : y_at + begin] = 0
    y[y_at + end : y_at + count] = 0
    for i in range(begin, end):
        y[y_at + i] = x[x_at + first + stride * i]


@kernel(inline="always")
def pack_rows(
    x, x_at, height, limit, top, left, stride_h, stride_w, read_w,
    packed, at, rows, width, pitch, phase_plane, ahead,
):  # fmt: skip
    """Pack `rows` rows, from row `top` and column `left` of the picture that begins at `x_at`.

    The picture has height x limit elements. All are plain numbers, not fields of a plan: those
    would be read again for each row, since for all the compiler knows it is they that are written.
    """
    if read_w.size == stride_w and stride_w in WAYS:
        deal_rows(
            stride_w, packed, at, pitch, phase_plane, x, x_at, height, limit, top, stride_h, left,
            rows, width, ahead,
        )  # fmt: skip
        return
    for q in range(rows):
        h = top + q * stride_h
        inside = 0 <= h < height
        start, size = (x_at + h * limit, limit) if inside else (x_at, 0)
        to = at + q * pitch
        if stride_w == 1:
            window(packed, to, x, start, left, width, size, ahead)
        elif stride_w == 2:  # and a single phase
            window_by_two(packed, to, x, start, left + read_w[0], width, size, ahead)
        else:
            for b in range(read_w.size):
                _gather(
                    packed, to + b * phase_plane, x, start, left + read_w[b], width, size, stride_w
                )


@linked
@kernel
def pack_source(x, packed, p, read_h, read_w, image, row, column, group, first, channels):
    """Pack some channels of `group` that the block at (`image`, `row`, `column`) reads.

    They are `channels` of them, from `first` on. `packed` becomes (channel, phase, image and row,
    column), with zeros for whatever lies outside the source. Rows are written in the order of their
    addresses, so each may run over into the next. Room for images beyond the last, and behind the
    planes, is left as it is. While a channel is packed, the next one's rows are called for.
    """
    size = p.source_h * p.source_w
    left = p.read_stride_w * column + p.read_base_w
    for channel in range(first, first + channels):
        ahead = size if channel + 1 < p.source_channels else 0
        for a in range(read_h.size):
            top = p.read_stride_h * row + read_h[a] + p.read_base_h
            plane = (channel - first) * p.plane + a * read_w.size * p.phase_plane
            for i in range(min(p.images, p.batch - image)):
                of = ((image + i) * p.groups + group) * p.source_channels + channel
                pack_rows(
                    x, of * size, p.source_h, p.source_w, top, left,
                    p.read_stride_h, p.read_stride_w, read_w,
                    packed, plane + i * p.image_rows * p.pitch, p.block_rows + p.reach_h,
                    p.block_columns + p.reach_w, p.pitch, p.phase_plane, ahead,
                )  # fmt: skip


@linked
@kernel
def pack_lanes(dy, panel, p, image, row, column, group, first, lanes):
    """Pack the result channels of a unit at the packed source's pitch, zero between the rows.

    Rows are written as `pack_source` does it; behind the last lane there is room for a vector.
    """
    rows, images = min(p.block_rows, p.result_h - row), min(p.images, p.batch - image)
    width, pitch, apart = min(p.block_columns, p.result_w - column), p.pitch, p.image_rows * p.pitch
    length = positions_of(p, image, row)
    if pitch == width == p.result_w:  # rows lie side by side in both
        rows, width, pitch = 1, rows * width, rows * pitch
    length += -length % (_VECTOR_BYTES // dy.itemsize)
    for lane in range(lanes):
        for i in range(images):
            of = ((image + i) * p.groups + group) * p.result_channels + first + lane
            start = (of * p.result_h + row) * p.result_w + column
            until = length if i + 1 == images else (i + 1) * apart
            for q in range(rows):
                at = i * apart + q * pitch
                count = until - at if q + 1 == rows else pitch
                window(
                    panel, lane * p.panel_pitch + at, dy, start + q * p.result_w, 0, count, width, 0
                )


@kernel(inline="always")
def scatter(y, y_at, first, count, limit, panel, at, phase_pitch, stride, bias):
    """Write `count` positions of each of `stride` phases, which take turns, into a row.

    ``row[first + stride * q + phase] = panel[at + phase * phase_pitch + q] + bias``, where row is
    ``y[y_at : y_at + limit]``; what falls outside of it is dropped.
    """
    if stride == 1:
        skip = max(0, -first)
        copy(y, y_at + first + skip, panel, at + skip, min(count, limit - first) - skip, bias)
    else:
        for w in range(max(0, first), min(limit, first + stride * count)):
            q, phase = divmod(w - first, stride)
            y[y_at + w] = panel[at + phase * phase_pitch + q] + bias


@linked
@kernel
def unpack(panel, phase_pitch, y, p, image, row, column, channel, lanes, phase_h, bias):
    """Write the panel (column phase, lane, position) of one row phase into the result.

    `channel` is the first lane's channel among all of the result's, which `bias` has one element
    for each of.
    """
    channels = p.groups * p.result_channels
    left = p.write_stride_w * column + p.write_base_w
    count, rows = min(p.block_columns, p.columns - column), min(p.block_rows, p.rows - row)
    woven, dense = p.write_stride_w in WAYS, p.write_stride_h == p.write_stride_w == 1
    joined = dense and p.pitch == count == p.result_w  # rows lie side by side in both
    for lane in range(lanes):
        offset = bias[channel + lane]
        for i in range(min(p.images, p.batch - image)):
            of = ((image + i) * channels + channel + lane) * p.result_h
            at = lane * p.panel_pitch + i * p.image_rows * p.pitch
            if joined:
                copy(y, (of + row) * p.result_w, panel, at, rows * count, offset)
                continue
            if woven:
                weave_rows(
                    p.write_stride_w, y, of * p.result_w, p.result_h, p.result_w,
                    p.write_stride_h * row + phase_h + p.write_base_h, p.write_stride_h, left,
                    panel, at, p.pitch, phase_pitch, rows, count, offset,
                    p.result_h * p.result_w if lane + 1 < lanes else 0,
                )  # fmt: skip
                continue
            for q in range(rows):
                h = p.write_stride_h * (row + q) + phase_h + p.write_base_h
                if 0 <= h < p.result_h:
                    scatter(
                        y, (of + h) * p.result_w, left, count, p.result_w,
                        panel, at + q * p.pitch, phase_pitch, p.write_stride_w, offset,
                    )  # fmt: skip
