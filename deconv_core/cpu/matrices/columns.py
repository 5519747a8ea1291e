"""The column matrix of im2col, in panels for a register tile: by position or by channel and tap."""

from __future__ import annotations

from ..config import MACHINE
from ..positions.pack import pack_rows
from ..runtime.jit import kernel
from ..runtime.launch import linked
from ..vectors.rows import move
from ..vectors.transpose import transpose
from .gemmplan import LANES

_VECTOR_BYTES = MACHINE.vector_bytes


@kernel
def _pack_channel(x, packed, p, read_h, read_w, group, channel, first, last):
    """Pack one channel of the images from `first` to `last` as phase planes with a zero halo."""
    size = p.source_h * p.source_w
    for image in range(first, last):
        of = (image * p.groups + group) * p.source_channels + channel
        for a in range(read_h.size):
            pack_rows(
                x, of * size, p.source_h, p.source_w, read_h[a] + p.read_base_h, p.read_base_w,
                p.read_stride_h, p.read_stride_w, read_w,
                packed, (image - first) * p.plane + a * read_w.size * p.phase_plane,
                p.rows + p.reach_h, p.columns + p.reach_w, p.pitch, p.phase_plane, size,
            )  # fmt: skip


@linked
@kernel
def pack_columns(
    x, columns, packed, p, read_h, read_w, sources, phase_at, parts, part_at, group, first, last
):  # fmt: skip
    """Pack the columns of the tiles from `first` to `last`.

    They become (chunk, tile, write phase, channel, tap, position). Whole vectors are written in the
    order of their addresses: what runs over is overwritten, and behind each phase there is room.
    Behind the last position, the rest of a tile becomes zero: it might be subnormal numbers.
    """
    if last * LANES > p.positions:
        for chunk in range(p.chunks):
            at = (chunk * (last - first) + last - 1 - first) * p.region
            columns[at : at + p.region] = 0
    begin, end, width = part_at[first], part_at[last], _VECTOR_BYTES // x.itemsize
    image, until = parts[3 * begin + 1], parts[3 * end - 2] + 1
    for channel in range(p.source_channels):
        _pack_channel(x, packed, p, read_h, read_w, group, channel, image, until)
        chunk, within = divmod(channel, p.chunk)
        for tile in range(first, last):
            at = (chunk * (last - first) + tile - first) * p.region
            for phase in range(phase_at.size - 1):
                taps = phase_at[phase + 1] - phase_at[phase]
                row = at + within * taps * LANES
                for tap in range(phase_at[phase], phase_at[phase + 1]):
                    for part in range(part_at[tile], part_at[tile + 1]):
                        move(
                            columns, row + parts[3 * part], packed,
                            (parts[3 * part + 1] - image) * p.plane + parts[3 * part + 2]
                            + sources[tap],
                        )  # fmt: skip
                    row += LANES
                at += p.chunk * taps * LANES + width


@linked
@kernel
def pack_streams(
    x, streams, rows, packed, p, read_h, read_w, sources, parts, places, group, first, last
):  # fmt: skip
    """Pack the columns from `first` to `last`, each of one channel and tap, as (position, column).

    On the way they become `rows` of positions, one for each column.
    """
    taps, line, width = sources.size, p.line_pitch, _VECTOR_BYTES // x.itemsize
    for channel in range(first // taps, (last - 1) // taps + 1):
        _pack_channel(x, packed, p, read_h, read_w, group, channel, 0, p.batch)
        for tap in range(max(0, first - channel * taps), min(taps, last - channel * taps)):
            row = (channel * taps + tap - first) * line
            for part in range(parts.size // 3):
                move(
                    rows, row + parts[3 * part], packed,
                    parts[3 * part + 1] * p.plane + parts[3 * part + 2] + sources[tap],
                )  # fmt: skip
    for lane in range(0, last - first, width):
        transpose(
            streams, lane, places, 0, rows, lane * line, line, min(width, last - first - lane),
            p.positions, 0,
        )  # fmt: skip
