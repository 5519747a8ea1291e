"""Max and average pooling, and their gradients; each element has one writer."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..geometry import Axis
from .driver import cuda
from .memory import empty, fill_bytes
from .streams import strided


@cuda.jit(device=True)
def _first(at, stride, pad):
    """Return where window `at` begins inside the input."""
    return max(0, at * stride - pad)


@cuda.jit(device=True)
def _last(at, stride, pad, kernel_size, size):
    """Return where window `at` ends inside the input (one past it)."""
    return min(size, at * stride - pad + kernel_size)


@cuda.jit
def _max_forward(x, y, indices, height, width, out_h, out_w, kh, kw, sh, sw, ph, pw):
    """One thread a window; the first of equals wins, and NaN wins over all."""
    for at in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        plane, j = at // (out_h * out_w), at % out_w
        i = at // out_w % out_h
        base = plane * height * width
        top, left = _first(i, sh, ph), _first(j, sw, pw)
        right = _last(j, sw, pw, kw, width)
        best = base + top * width + left
        value = x[best]
        for h in range(top, _last(i, sh, ph, kh, height)):
            row = base + h * width
            for place in range(row + left, row + right):
                candidate = x[place]
                if candidate > value or candidate != candidate:
                    best, value = place, candidate
        y[at], indices[at] = value, best - base


def _numbers(rows: Axis, cols: Axis) -> tuple[int, ...]:
    """Return sizes, output sizes, windows, strides and paddings, rows before columns."""
    names = ("size", "out", "kernel", "stride", "pad_lo")
    return tuple(getattr(axis, name) for name in names for axis in (rows, cols))


def max_pool_forward(x: Any, rows: Axis, cols: Axis) -> tuple[Any, Any]:
    """Return the windows' maxima, and their flat positions in their planes."""
    shape = (*x.shape[:2], rows.out, cols.out)
    y, indices = empty(shape, x.dtype), empty(shape, np.int64)
    if y.size:
        _max_forward[strided(y.size)](
            x.reshape(-1), y.reshape(-1), indices.reshape(-1), *_numbers(rows, cols)
        )
    return y, indices


@cuda.jit
def _row_ranges(indices, width, out_w, ranges):
    """``ranges[r]`` = the first and the last input row that output row r took a maximum from."""
    for row in range(cuda.grid(1), ranges.shape[0], cuda.gridsize(1)):
        least = most = indices[row * out_w] // width
        for j in range(1, out_w):
            h = indices[row * out_w + j] // width
            least, most = min(least, h), max(most, h)
        ranges[row, 0], ranges[row, 1] = least, most


@cuda.jit
def _max_backward(dy, indices, ranges, dx, height, width, out_h, out_w):
    """One thread an input row, which alone writes it, in the order of the windows."""
    for row in range(cuda.grid(1), dx.size // width, cuda.gridsize(1)):
        plane, h = row // height, row % height
        for i in range(plane * out_h, (plane + 1) * out_h):
            if ranges[i, 0] <= h <= ranges[i, 1]:
                for at in range(i * out_w, (i + 1) * out_w):
                    if indices[at] // width == h:
                        dx[plane * height * width + indices[at]] += dy[at]


def max_pool_backward(dy: Any, indices: Any, input_shape: tuple[int, ...]) -> Any:
    """Return the gradient of max pooling to its input.

    The windows are not known here, only where their maxima were. So each row of windows is asked
    first which rows of the input it reached; then each of those gathers what is its own.
    """
    dx = empty(input_shape, dy.dtype)
    fill_bytes(dx, 0)
    if dy.size:
        height, width = input_shape[2:]
        out_h, out_w = dy.shape[2], dy.shape[3]
        ranges = empty((dy.size // out_w, 2), np.int64)
        flat = indices.reshape(-1)
        _row_ranges[strided(dy.size // out_w)](flat, width, out_w, ranges)
        _max_backward[strided(dx.size // width)](
            dy.reshape(-1), flat, ranges, dx.reshape(-1), height, width, out_h, out_w
        )
    return dx


@cuda.jit
def _average_forward(x, y, height, width, out_h, out_w, kh, kw, sh, sw, ph, pw):
    """One thread a window; the padding's zeros count."""
    share = np.float32(1) / np.float32(kh * kw)
    for at in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        plane, j = at // (out_h * out_w), at % out_w
        i = at // out_w % out_h
        left, right = _first(j, sw, pw), _last(j, sw, pw, kw, width)
        total = np.float32(0)
        for h in range(_first(i, sh, ph), _last(i, sh, ph, kh, height)):
            for w in range(left, right):
                total += x[(plane * height + h) * width + w]
        y[at] = total * share


def avg_pool_forward(x: Any, rows: Axis, cols: Axis) -> Any:
    """Return the windows' means."""
    y = empty((*x.shape[:2], rows.out, cols.out), x.dtype)
    if y.size:
        _average_forward[strided(y.size)](x.reshape(-1), y.reshape(-1), *_numbers(rows, cols))
    return y


@cuda.jit(device=True)
def _windows(at, kernel_size, stride, pad, out):
    """Return the range of the windows that cover input position `at`."""
    reach = at + pad - kernel_size + 1  # the first window starts here or later
    first = 0 if reach <= 0 else (reach + stride - 1) // stride
    return first, min(out, (at + pad) // stride + 1)


@cuda.jit
def _average_backward(dy, dx, height, width, out_h, out_w, kh, kw, sh, sw, ph, pw):
    """One thread an input element, which gathers from the windows over it."""
    share = np.float32(1) / np.float32(kh * kw)
    for at in range(cuda.grid(1), dx.size, cuda.gridsize(1)):
        plane = at // (height * width)
        top, bottom = _windows(at // width % height, kh, sh, ph, out_h)
        left, right = _windows(at % width, kw, sw, pw, out_w)
        total = np.float32(0)
        for i in range(top, bottom):
            for j in range(left, right):
                total += dy[(plane * out_h + i) * out_w + j] * share
        dx[at] = total


def avg_pool_backward(dy: Any, input_shape: tuple[int, ...], rows: Axis, cols: Axis) -> Any:
    """Return the gradient of average pooling to its input."""
    dx = empty(input_shape, dy.dtype)
    if dx.size:
        _average_backward[strided(dx.size)](dy.reshape(-1), dx.reshape(-1), *_numbers(rows, cols))
    return dx
