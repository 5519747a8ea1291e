"""Max and average pooling, and their gradients; each plane has one writer."""

from __future__ import annotations

import numpy as np

from ..geometry import Axis
from ..memory import empty
from .runtime.arrays import flat
from .runtime.jit import kernel
from .runtime.launch import launched
from .runtime.tasks import count_workers, share


@kernel
def _window(at, stride, pad, kernel_size, size):
    """Return the input range that window `at` covers, cut to the input."""
    first = at * stride - pad
    return max(0, first), min(size, first + kernel_size)


@kernel
def _max_plane(x, y, indices, size, out, kernel_size, stride, pad):
    """Pool one plane; the first of equals wins, and NaN wins over all."""
    for i in range(out[0]):
        top, bottom = _window(i, stride[0], pad[0], kernel_size[0], size[0])
        for j in range(out[1]):
            left, right = _window(j, stride[1], pad[1], kernel_size[1], size[1])
            best = top * size[1] + left
            for h in range(top, bottom):
                for at in range(h * size[1] + left, h * size[1] + right):
                    if x[at] > x[best] or x[at] != x[at]:
                        best = at
            y[i * out[1] + j], indices[i * out[1] + j] = x[best], best


@launched
def _max_forward(worker, workers, x, y, indices, size, out, kernel_size, stride, pad):
    """Pool every plane."""
    area, result = size[0] * size[1], out[0] * out[1]
    begin, end = share(worker, workers, x.size // area)
    for plane in range(begin, end):
        _max_plane(
            x[plane * area : (plane + 1) * area], y[plane * result : (plane + 1) * result],
            indices[plane * result : (plane + 1) * result], size, out, kernel_size, stride, pad,
        )  # fmt: skip


def _numbers(rows: Axis, cols: Axis) -> tuple[tuple[int, int], ...]:
    """Return sizes, output sizes, windows, strides and paddings as pairs."""
    return tuple(
        (getattr(rows, name), getattr(cols, name))
        for name in ("size", "out", "kernel", "stride", "pad_lo")
    )


def _workers(x: np.ndarray) -> int:
    """Return how many threads share the planes of `x`."""
    return count_workers(x.shape[0] * x.shape[1])


def max_pool_forward(x: np.ndarray, rows: Axis, cols: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows' maxima, and their flat positions in their planes."""
    shape = (*x.shape[:2], rows.out, cols.out)
    y, indices = empty(shape, x.dtype), empty(shape, np.int64)
    if x.size:
        _max_forward(
            _workers(x), flat(x), y.reshape(-1), indices.reshape(-1), *_numbers(rows, cols)
        )
    return y, indices


@launched
def _max_backward(worker, workers, dy, indices, dx, planes):
    """Add each gradient to where its maximum was."""
    area, result = dx.size // planes, dy.size // planes
    begin, end = share(worker, workers, planes)
    for plane in range(begin, end):
        for at in range(plane * area, (plane + 1) * area):
            dx[at] = 0
        for i in range(plane * result, (plane + 1) * result):
            dx[plane * area + indices[i]] += dy[i]


def max_pool_backward(
    dy: np.ndarray, indices: np.ndarray, input_shape: tuple[int, ...]
) -> np.ndarray:
    """Return the gradient of max pooling to its input."""
    dx = empty(input_shape, dy.dtype)
    if dx.size:
        planes = input_shape[0] * input_shape[1]
        _max_backward(_workers(dx), flat(dy), flat(indices), dx.reshape(-1), planes)
    return dx


@launched
def _average_forward(worker, workers, x, y, size, out, kernel_size, stride, pad):
    """Average every window; the padding's zeros count."""
    area, result = size[0] * size[1], out[0] * out[1]
    scale = x.dtype.type(1) / x.dtype.type(kernel_size[0] * kernel_size[1])
    begin, end = share(worker, workers, x.size // area)
    for plane in range(begin, end):
        for i in range(out[0]):
            top, bottom = _window(i, stride[0], pad[0], kernel_size[0], size[0])
            for j in range(out[1]):
                left, right = _window(j, stride[1], pad[1], kernel_size[1], size[1])
                total = x.dtype.type(0)
                for h in range(top, bottom):
                    for w in range(left, right):
                        total += x[plane * area + h * size[1] + w]
                y[plane * result + i * out[1] + j] = total * scale


def avg_pool_forward(x: np.ndarray, rows: Axis, cols: Axis) -> np.ndarray:
    """Return the windows' means."""
    y = empty((*x.shape[:2], rows.out, cols.out), x.dtype)
    if x.size:
        _average_forward(_workers(x), flat(x), y.reshape(-1), *_numbers(rows, cols))
    return y


@launched
def _average_backward(worker, workers, dy, dx, size, out, kernel_size, stride, pad):
    """Spread each gradient evenly over its window."""
    area, result = size[0] * size[1], out[0] * out[1]
    scale = dy.dtype.type(1) / dy.dtype.type(kernel_size[0] * kernel_size[1])
    begin, end = share(worker, workers, dx.size // area)
    for plane in range(begin, end):
        for at in range(plane * area, (plane + 1) * area):
            dx[at] = 0
        for i in range(out[0]):
            top, bottom = _window(i, stride[0], pad[0], kernel_size[0], size[0])
            for j in range(out[1]):
                left, right = _window(j, stride[1], pad[1], kernel_size[1], size[1])
                part = dy[plane * result + i * out[1] + j] * scale
                for h in range(top, bottom):
                    for w in range(left, right):
                        dx[plane * area + h * size[1] + w] += part


def avg_pool_backward(
    dy: np.ndarray, input_shape: tuple[int, ...], rows: Axis, cols: Axis
) -> np.ndarray:
    """Return the gradient of average pooling to its input."""
    dx = empty(input_shape, dy.dtype)
    if dx.size:
        _average_backward(_workers(dx), flat(dy), dx.reshape(-1), *_numbers(rows, cols))
    return dx
