"""ReLU, and the sums over pictures that bias gradients are."""

from __future__ import annotations

import numpy as np

from ..memory import empty
from .runtime.arrays import flat
from .runtime.jit import kernel
from .runtime.launch import launched
from .runtime.tasks import count_sharers, count_workers, share, share_elements


@launched
def _relu_forward(worker, workers, x, y):
    """``y = max(x, 0)``; the comparison is the one that NaN fails, so NaN stays."""
    begin, end = share_elements(worker, workers, x.size)
    a, b, zero = x[begin:end], y[begin:end], x.dtype.type(0)
    for i in range(a.size):
        b[i] = zero if a[i] <= zero else a[i]


def relu_forward(x: np.ndarray) -> np.ndarray:
    """Return max(x, 0)."""
    y = empty(x.shape, x.dtype)
    _relu_forward(count_sharers(x), flat(x), y.reshape(-1))
    return y


@launched
def _relu_backward(worker, workers, dy, y, dx):
    """``dx = 0 where y <= 0 else dy``: NaN in y lets dy through, as in PyTorch."""
    begin, end = share_elements(worker, workers, y.size)
    a, b, c, zero = dy[begin:end], y[begin:end], dx[begin:end], y.dtype.type(0)
    for i in range(a.size):
        c[i] = zero if b[i] <= zero else a[i]


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the gradient of ReLU to its input, from its output."""
    dx = empty(dy.shape, dy.dtype)
    _relu_backward(count_sharers(y), flat(dy), flat(y), dx.reshape(-1))
    return dx


@kernel(fastmath={"reassoc", "contract"})
def _sum(x):
    """Return the sum of a short row, in an order that vectors can follow."""
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i]
    return total


@launched
def _plane_sums(worker, workers, dy, sums):
    """Sum each plane: short rows in its own precision, the rows' sums in float64."""
    size = dy.size // sums.size
    begin, end = share(worker, workers, sums.size)
    for plane in range(begin, end):
        values, total = dy[plane * size : (plane + 1) * size], 0.0
        for first in range(0, size, 1024):
            total += _sum(values[first : first + 1024])
        sums[plane] = total


def bias_grad(dy: np.ndarray) -> np.ndarray:
    """Return the sum of `dy` (N, C, ...) over all axes but the second."""
    batch, channels = dy.shape[:2]
    sums = np.zeros((batch, channels))
    if dy.size:
        _plane_sums(count_workers(sums.size), flat(dy), sums.reshape(-1))
    result: np.ndarray = sums.sum(axis=0).astype(dy.dtype)
    return result
