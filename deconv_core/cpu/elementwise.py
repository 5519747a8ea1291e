"""ReLU, and the sums over pictures that bias gradients are."""

from __future__ import annotations

import numpy as np
from numba import prange

from ..memory import empty
from .arrays import STRIP, flat
from .jit import kernel


@kernel(parallel=True)
def _relu_forward(x, y):
    """``y = max(x, 0)``; the comparison is the one that NaN fails, so NaN stays."""
    for strip in prange((x.size + STRIP - 1) // STRIP):
        a, b = x[strip * STRIP : (strip + 1) * STRIP], y[strip * STRIP : (strip + 1) * STRIP]
        zero = x.dtype.type(0)
        for i in range(a.size):
            b[i] = zero if a[i] <= zero else a[i]


def relu_forward(x: np.ndarray) -> np.ndarray:
    """Return max(x, 0)."""
    y = empty(x.shape, x.dtype)
    _relu_forward(flat(x), y.reshape(-1))
    return y


@kernel(parallel=True)
def _relu_backward(dy, y, dx):
    """``dx = 0 where y <= 0 else dy``: NaN in y lets dy through, as in PyTorch."""
    for strip in prange((y.size + STRIP - 1) // STRIP):
        first, last = strip * STRIP, (strip + 1) * STRIP
        a, b, c = dy[first:last], y[first:last], dx[first:last]
        zero = y.dtype.type(0)
        for i in range(a.size):
            c[i] = zero if b[i] <= zero else a[i]


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the gradient of ReLU to its input, from its output."""
    dx = empty(dy.shape, dy.dtype)
    _relu_backward(flat(dy), flat(y), dx.reshape(-1))
    return dx


@kernel(fastmath={"reassoc", "contract"})
def _sum(x):
    """Return the sum of a short row, in an order that vectors can follow."""
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i]
    return total


@kernel(parallel=True)
def _plane_sums(dy, sums):
    """Sum each plane: short rows in its own precision, the rows' sums in float64."""
    size = dy.size // sums.size
    for plane in prange(sums.size):
        values, total = dy[plane * size : (plane + 1) * size], 0.0
        for first in range(0, size, 1024):
            total += _sum(values[first : first + 1024])
        sums[plane] = total


def bias_grad(dy: np.ndarray) -> np.ndarray:
    """Return the sum of `dy` (N, C, ...) over all axes but the second."""
    batch, channels = dy.shape[:2]
    sums = np.zeros((batch, channels))
    if dy.size:
        _plane_sums(flat(dy), sums.reshape(-1))
    result: np.ndarray = sums.sum(axis=0).astype(dy.dtype)
    return result
