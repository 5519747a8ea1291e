"""ReLU, the sums over pictures that bias gradients are, and arithmetic in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from .driver import THREADS, cuda
from .memory import empty, fill_bytes
from .streams import grid, strided

CHUNK = 1 << 13  # elements that one block of a sum adds up


@cuda.jit
def _relu_forward(x, y):
    """``y = max(x, 0)``; the comparison is the one that NaN fails, so NaN stays."""
    zero = np.float32(0)
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        value = x[i]
        y[i] = zero if value <= zero else value


def relu_forward(x: Any) -> Any:
    """Return max(x, 0)."""
    y = empty(x.shape, x.dtype)
    if x.size:
        _relu_forward[strided(x.size)](x.reshape(-1), y.reshape(-1))
    return y


@cuda.jit
def _relu_backward(dy, y, dx):
    """``dx = 0 where y <= 0 else dy``: NaN in y lets dy through, as in PyTorch."""
    zero = np.float32(0)
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        dx[i] = zero if y[i] <= zero else dy[i]


def relu_backward(dy: Any, y: Any) -> Any:
    """Return the gradient of ReLU to its input, from its output."""
    dx = empty(dy.shape, dy.dtype)
    if dx.size:
        _relu_backward[strided(dx.size)](dy.reshape(-1), y.reshape(-1), dx.reshape(-1))
    return dx


@cuda.jit(device=True)
def block_sum(value):
    """Return the sum of the threads' values, added pairwise in a fixed order, to every thread."""
    sums = cuda.shared.array(THREADS, np.float64)
    thread = cuda.threadIdx.x
    sums[thread] = value
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if thread < half:
            sums[thread] += sums[thread + half]
        cuda.syncthreads()
        half //= 2
    return sums[0]


@cuda.jit
def _chunk_sums(dy, channels, plane, count, parts, sums):
    """``sums[c, part]`` = the sum of a chunk of channel c's `count` elements, in float64.

    A thread divides to find its first element and its stride; from one to the next it only adds:
    a division takes longer than the load it would be for.
    """
    c, part = cuda.blockIdx.x // parts, cuda.blockIdx.x % parts
    first = part * CHUNK + cuda.threadIdx.x
    image, k = first // plane, first % plane
    images, rest = THREADS // plane, THREADS % plane
    total = 0.0
    for _ in range(first, min(count, (part + 1) * CHUNK), THREADS):
        total += dy[(image * channels + c) * plane + k]
        image += images
        k += rest
        if k >= plane:
            k -= plane
            image += 1
    total = block_sum(total)
    if cuda.threadIdx.x == 0:
        sums[cuda.blockIdx.x] = total


@cuda.jit
def _channel_sums(sums, parts, result):
    """``result[c]`` = the sum of channel c's chunks."""
    c = cuda.blockIdx.x
    total = 0.0
    for part in range(cuda.threadIdx.x, parts, THREADS):
        total += sums[c * parts + part]
    total = block_sum(total)
    if cuda.threadIdx.x == 0:
        result[c] = total


def bias_grad(dy: Any) -> Any:
    """Return the sum of `dy` (N, C, ...) over all axes but the second."""
    batch, channels = dy.shape[:2]
    result = empty(channels, dy.dtype)
    if not dy.size:
        fill_bytes(result, 0)
        return result
    plane = dy.size // (batch * channels)
    parts = -(-batch * plane // CHUNK)
    sums = empty(channels * parts, np.float64)
    _chunk_sums[grid(channels * parts, THREADS)](
        dy.reshape(-1), channels, plane, batch * plane, parts, sums
    )
    _channel_sums[grid(channels, THREADS)](sums, parts, result)
    return result


@cuda.jit
def _add(total, x):
    """``total += x``."""
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        total[i] += x[i]


def add(total: Any, x: Any) -> None:
    """Add `x` to an array of its shape, in place."""
    if x.size:
        _add[strided(x.size)](total.reshape(-1), x.reshape(-1))


@cuda.jit
def _scale(x, factor):
    """``x *= factor``."""
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        x[i] *= factor


def scale(x: Any, factor: float) -> None:
    """Multiply an array by a number, in place."""
    if x.size:
        _scale[strided(x.size)](x.reshape(-1), np.float32(factor))
