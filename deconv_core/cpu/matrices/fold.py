"""im2col and its adjoint col2im: for those who want the columns, and for matrix.py."""

from __future__ import annotations

import numpy as np

from ...geometry import Axis
from ...memory import empty
from ..runtime.arrays import flat
from ..runtime.launch import launched
from ..runtime.tasks import count_workers, share


@launched
def _im2col(worker, workers, x, columns, rows, cols):
    """Copy windows to columns; `rows` and `cols` are (size, out, kernel, stride, pad, dilation)."""
    area, taps, windows = rows[0] * cols[0], rows[2] * cols[2], rows[1] * cols[1]
    begin, end = share(worker, workers, x.size // area)
    for plane in range(begin, end):
        for tap in range(taps):
            u, v = tap // cols[2], tap % cols[2]
            for window in range(windows):
                h = window // cols[1] * rows[3] + u * rows[5] - rows[4]
                w = window % cols[1] * cols[3] + v * cols[5] - cols[4]
                inside = 0 <= h < rows[0] and 0 <= w < cols[0]
                value = x[plane * area + h * cols[0] + w] if inside else x.dtype.type(0)
                columns[(plane * taps + tap) * windows + window] = value


@launched
def _col2im(worker, workers, columns, x, rows, cols):
    """Add columns back into their windows; each plane has one writer."""
    area, taps, windows = rows[0] * cols[0], rows[2] * cols[2], rows[1] * cols[1]
    begin, end = share(worker, workers, x.size // area)
    for plane in range(begin, end):
        for at in range(plane * area, (plane + 1) * area):
            x[at] = 0
        for tap in range(taps):
            u, v = tap // cols[2], tap % cols[2]
            for window in range(windows):
                h = window // cols[1] * rows[3] + u * rows[5] - rows[4]
                w = window % cols[1] * cols[3] + v * cols[5] - cols[4]
                if 0 <= h < rows[0] and 0 <= w < cols[0]:
                    x[plane * area + h * cols[0] + w] += columns[
                        (plane * taps + tap) * windows + window
                    ]


def _numbers(axis: Axis) -> tuple[int, ...]:
    """Return an axis as (size, out, kernel, stride, pad, dilation)."""
    return axis.size, axis.out, axis.kernel, axis.stride, axis.pad_lo, axis.dilation


def im2col(x: np.ndarray, rows: Axis, cols: Axis) -> np.ndarray:
    """Return (N, C * kh * kw, windows)."""
    batch, channels = x.shape[:2]
    taps, windows = rows.kernel * cols.kernel, rows.out * cols.out
    columns = empty((batch, channels * taps, windows), x.dtype)
    if columns.size:
        workers = count_workers(batch * channels)
        _im2col(workers, flat(x), columns.reshape(-1), _numbers(rows), _numbers(cols))
    return columns


def col2im(columns: np.ndarray, rows: Axis, cols: Axis) -> np.ndarray:
    """Return (N, C, H, W)."""
    batch, channels = columns.shape[0], columns.shape[1] // (rows.kernel * cols.kernel)
    x = empty((batch, channels, rows.size, cols.size), columns.dtype)
    if x.size:
        workers = count_workers(batch * channels)
        _col2im(workers, flat(columns), x.reshape(-1), _numbers(rows), _numbers(cols))
    return x
