"""The column matrix of im2col, for one block of tiles (gemmplan.py), in panels for a register tile."""

from __future__ import annotations

from .config import MACHINE
from .gemmplan import LANES
from .jit import kernel
from .pack import pack_rows
from .rows import move

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
                p.rows + p.reach_h, p.columns + p.reach_w, p.pitch, p.phase_plane,
            )  # fmt: skip


@kernel
def pack_columns(
    x, columns, packed, p, read_h, read_w, sources, parts, part_at, group, first, last
):  # fmt: skip
    """Pack the columns of the tiles from `first` to `last` as (chunk, tile, channel, tap, position).

    Whole vectors are written in the order of their addresses: what runs over is overwritten, and
    behind each tile of a chunk there is room.
    """
    begin, end = part_at[first], part_at[last]
    image, until = parts[3 * begin + 1], parts[3 * end - 2] + 1
    for channel in range(p.source_channels):
        _pack_channel(x, packed, p, read_h, read_w, group, channel, image, until)
        chunk, within = divmod(channel, p.chunk)
        for tile in range(first, last):
            row = (chunk * (last - first) + tile - first) * p.region + within * p.kernel * LANES
            for tap in range(sources.size):
                for part in range(part_at[tile], part_at[tile + 1]):
                    move(
                        columns, row + parts[3 * part], packed,
                        (parts[3 * part + 1] - image) * p.plane + parts[3 * part + 2]
                        + sources[tap],
                    )  # fmt: skip
                row += LANES
