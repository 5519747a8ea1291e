"""im2col and its adjoint col2im, for those who want the columns: the engine itself never does."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..geometry import Axis
from .driver import cuda
from .memory import empty
from .streams import strided


@cuda.jit
def _im2col(x, columns, height, width, out_h, out_w, kh, kw, sh, sw, ph, pw, gap_h, gap_w):
    """One thread an element of the columns, (plane, tap, window)."""
    windows = out_h * out_w
    for at in range(cuda.grid(1), columns.size, cuda.gridsize(1)):
        window, tap = at % windows, at // windows % (kh * kw)
        plane = at // (windows * kh * kw)
        h = window // out_w * sh + tap // kw * gap_h - ph
        w = window % out_w * sw + tap % kw * gap_w - pw
        if 0 <= h < height and 0 <= w < width:
            columns[at] = x[(plane * height + h) * width + w]
        else:
            columns[at] = np.float32(0)


@cuda.jit
def _col2im(columns, x, height, width, out_h, out_w, kh, kw, sh, sw, ph, pw, gap_h, gap_w):
    """One thread an element of x, which gathers from all windows over it, tap by tap."""
    for at in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        plane = at // (height * width)
        h, w = at // width % height + ph, at % width + pw
        total = np.float32(0)
        for u in range(kh):
            i = h - u * gap_h
            if i >= 0 and i % sh == 0 and i // sh < out_h:
                for v in range(kw):
                    j = w - v * gap_w
                    if j >= 0 and j % sw == 0 and j // sw < out_w:
                        row = (plane * kh + u) * kw + v
                        total += columns[(row * out_h + i // sh) * out_w + j // sw]
        x[at] = total


def _numbers(rows: Axis, cols: Axis) -> tuple[int, ...]:
    """Return sizes, output sizes, kernels, strides, paddings and dilations, rows first."""
    names = ("size", "out", "kernel", "stride", "pad_lo", "dilation")
    return tuple(getattr(axis, name) for name in names for axis in (rows, cols))


def im2col(x: Any, rows: Axis, cols: Axis) -> Any:
    """Return (N, C * kh * kw, windows)."""
    batch, channels = x.shape[:2]
    taps, windows = rows.kernel * cols.kernel, rows.out * cols.out
    columns = empty((batch, channels * taps, windows), x.dtype)
    if columns.size:
        _im2col[strided(columns.size)](x.reshape(-1), columns.reshape(-1), *_numbers(rows, cols))
    return columns


def col2im(columns: Any, rows: Axis, cols: Axis) -> Any:
    """Return (N, C, H, W)."""
    batch, channels = columns.shape[0], columns.shape[1] // (rows.kernel * cols.kernel)
    x = empty((batch, channels, rows.size, cols.size), columns.dtype)
    if x.size:
        _col2im[strided(x.size)](columns.reshape(-1), x.reshape(-1), *_numbers(rows, cols))
    return x
