"""The whole engine in plain NumPy, with an explicit column matrix: slow on purpose, easy to check.

`im2col` copies every window that a convolution reads into one column of a matrix; a convolution is
then one matrix product, ``y = w @ im2col(x)``. Transpose that equation and both gradients follow:
``dx = col2im(w.T @ dy)`` and ``dw = dy @ im2col(x).T``, where `col2im`, the adjoint of `im2col`,
adds each column back into the window it came from. A transposed convolution is that ``dx``.

Functions take float arrays of any one dtype that already fit together; `functional` checks. Names
and argument order are those of the `cpu` package, so either can stand behind `functional`.
Layouts: pictures (N, C, H, W), conv weights (out, in / groups, kh, kw), linear weights (out, in).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deconv_core.geometry import Axis, ConvGeometry

Array = np.ndarray[Any, Any]


def _taps(rows: Axis, cols: Axis) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """Yield each tap (i, j) with the part of a padded picture that it reads, one per window."""
    for i in range(rows.kernel):
        for j in range(cols.kernel):
            top, left = i * rows.dilation, j * cols.dilation
            down = slice(top, top + rows.stride * (rows.out - 1) + 1, rows.stride)
            across = slice(left, left + cols.stride * (cols.out - 1) + 1, cols.stride)
            yield i, j, (..., down, across)


def _pad(x: Array, rows: Axis, cols: Axis, value: float = 0.0) -> Array:
    """Return `x` with `value` around it; no window reads the part that a negative pad_hi drops."""
    down, across = (rows.pad_lo, max(rows.pad_hi, 0)), (cols.pad_lo, max(cols.pad_hi, 0))
    return np.pad(x, ((0, 0), (0, 0), down, across), constant_values=value)


def im2col(x: Array, rows: Axis, cols: Axis) -> Array:
    """Copy windows to columns: (N, C, H, W) -> (N, C * kh * kw, out_h * out_w)."""
    n, c = x.shape[:2]
    padded = _pad(x, rows, cols)
    columns = np.empty((n, c, rows.kernel, cols.kernel, rows.out, cols.out), x.dtype)
    for i, j, window in _taps(rows, cols):
        columns[:, :, i, j] = padded[window]
    return columns.reshape(n, c * rows.kernel * cols.kernel, rows.out * cols.out)


def col2im(columns: Array, rows: Axis, cols: Axis) -> Array:
    """Add columns back into their windows, the adjoint of `im2col`; returns (N, C, H, W)."""
    n, c = columns.shape[0], columns.shape[1] // (rows.kernel * cols.kernel)
    columns = columns.reshape(n, c, rows.kernel, cols.kernel, rows.out, cols.out)
    padded = _pad(np.zeros((n, c, rows.size, cols.size), columns.dtype), rows, cols)
    for i, j, window in _taps(rows, cols):
        padded[window] += columns[:, :, i, j]
    top, left = rows.pad_lo, cols.pad_lo
    return padded[:, :, top : top + rows.size, left : left + cols.size].copy()


def _by_group(x: Array, groups: int) -> Array:
    """Split the channels (or rows) of (N, C, ...) by group: (N, groups, C / groups, the rest)."""
    n, c = x.shape[:2]
    return x.reshape(n, groups, c // groups, -1 if x.size else int(np.prod(x.shape[2:])))


def _weight_by_group(w: Array, geometry: ConvGeometry) -> Array:
    """Return the weight as one matrix a group: (groups, out / groups, in / groups * kh * kw)."""
    out, per_group, kh, kw = geometry.weight_shape
    return w.reshape(geometry.groups, out // geometry.groups, per_group * kh * kw)


def _add_bias(y: Array, bias: Array | None) -> Array:
    """Return `y` (N, C, H, W) with `bias` (C,) added in place."""
    if bias is not None:
        y += bias[:, None, None]
    return y


def conv_forward(x: Array, w: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
    """Convolve: ``y = w @ im2col(x) + bias``, group by group; returns ``geometry.output_shape``."""
    columns = _by_group(im2col(x, geometry.rows, geometry.cols), geometry.groups)
    y = _weight_by_group(w, geometry) @ columns  # (N, groups, out / groups, out_h * out_w)
    return _add_bias(y.reshape(geometry.output_shape), bias)


def conv_input_grad(dy: Array, w: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
    """Return ``dx = col2im(w.T @ dy) + bias``: also the forward of a transposed convolution."""
    columns = _weight_by_group(w, geometry).swapaxes(1, 2) @ _by_group(dy, geometry.groups)
    n, groups, taps, positions = columns.shape
    columns = columns.reshape(n, groups * taps, positions)
    return _add_bias(col2im(columns, geometry.rows, geometry.cols), bias)


def conv_weight_grad(x: Array, dy: Array, geometry: ConvGeometry) -> Array:
    """Return ``dw = sum over images of dy @ im2col(x).T``, of shape ``geometry.weight_shape``."""
    columns = _by_group(im2col(x, geometry.rows, geometry.cols), geometry.groups)
    per_image = _by_group(dy, geometry.groups) @ columns.swapaxes(2, 3)
    return per_image.sum(axis=0).reshape(geometry.weight_shape)


def bias_grad(dy: Array) -> Array:
    """Return the sum of `dy` (N, C, ...) over all axes but the second."""
    result: Array = dy.sum(axis=(0, *range(2, dy.ndim)))
    return result


def relu_forward(x: Array) -> Array:
    """Return ``max(x, 0)``; NaN stays NaN."""
    return np.maximum(x, 0, out=np.empty(x.shape, x.dtype))


def relu_backward(dy: Array, y: Array) -> Array:
    """Return `dy` where the output `y` of the forward pass is not zero, else 0."""
    dx = np.array(dy, order="C")
    dx[y <= 0] = 0
    return dx


def max_pool_forward(x: Array, rows: Axis, cols: Axis) -> tuple[Array, Array]:
    """Return each window's maximum and its flat index into H * W: the first, or the last NaN."""
    padded = _pad(x, rows, cols, -np.inf)
    y = np.full((*x.shape[:2], rows.out, cols.out), -np.inf, x.dtype)
    top = np.arange(rows.out)[:, None] * rows.stride - rows.pad_lo
    left = np.arange(cols.out)[None, :] * cols.stride - cols.pad_lo
    first_inside = np.maximum(top, 0) * cols.size + np.maximum(left, 0)
    indices = np.array(np.broadcast_to(first_inside, y.shape), np.int64, order="C")
    for i, j, window in _taps(rows, cols):
        value = padded[window]
        better = (value > y) | np.isnan(value)
        y[better] = value[better]
        here = np.broadcast_to((top + i) * cols.size + left + j, y.shape)
        indices[better] = here[better]
    return y, indices


def max_pool_backward(dy: Array, indices: Array, input_shape: tuple[int, ...]) -> Array:
    """Send each gradient to the input its window chose; windows that share one add up."""
    n, c, h, w = input_shape
    dx = np.zeros((n * c, h * w), dy.dtype)
    plane = np.arange(n * c)[:, None]
    positions = dy.shape[2] * dy.shape[3]
    np.add.at(dx, (plane, indices.reshape(n * c, positions)), dy.reshape(n * c, positions))
    return dx.reshape(input_shape)


def avg_pool_forward(x: Array, rows: Axis, cols: Axis) -> Array:
    """Return each window's mean; padding counts as zeros."""
    padded = _pad(x, rows, cols)
    y = np.zeros((*x.shape[:2], rows.out, cols.out), x.dtype)
    for _, _, window in _taps(rows, cols):
        y += padded[window]
    y /= rows.kernel * cols.kernel
    return y


def avg_pool_backward(dy: Array, input_shape: tuple[int, ...], rows: Axis, cols: Axis) -> Array:
    """Spread each gradient evenly over its window, the adjoint of `avg_pool_forward`."""
    padded = _pad(np.zeros(input_shape, dy.dtype), rows, cols)
    share = dy / (rows.kernel * cols.kernel)
    for _, _, window in _taps(rows, cols):
        padded[window] += share
    top, left = rows.pad_lo, cols.pad_lo
    return padded[:, :, top : top + rows.size, left : left + cols.size].copy()


def linear_forward(x: Array, w: Array, bias: Array | None) -> Array:
    """Return ``y = x @ w.T + bias``: (N, in) -> (N, out)."""
    y = x @ w.T
    if bias is not None:
        y += bias
    return y


def linear_input_grad(dy: Array, w: Array) -> Array:
    """Return ``dx = dy @ w``."""
    return dy @ w


def linear_weight_grad(dy: Array, x: Array) -> Array:
    """Return ``dw = dy.T @ x``."""
    return dy.T @ x


def linear_backward(dy: Array, x: Array, w: Array) -> tuple[Array, Array, Array]:
    """Return (dx, dw, db) of ``y = x @ w.T + b``."""
    return linear_input_grad(dy, w), linear_weight_grad(dy, x), dy.sum(axis=0)


def cross_entropy(logits: Array, target: Array, label_smoothing: float) -> tuple[float, Array]:
    """Return the mean over images of ``-sum(q * log(softmax(logits)))``, and its gradient.

    ``q`` is ``1 - label_smoothing`` on the target plus ``label_smoothing / classes`` everywhere.
    """
    n, classes = logits.shape
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = np.ascontiguousarray(logits - logits.max(axis=1, keepdims=True))
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss = -(1 - label_smoothing) * log_p[np.arange(n), target]
        if label_smoothing:
            loss = loss - label_smoothing / classes * log_p.sum(axis=1)
    grad = np.exp(log_p) - label_smoothing / classes
    grad[np.arange(n), target] -= 1 - label_smoothing
    grad /= n
    return float(loss.mean()), grad


def adam_step(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Update `param` and both moments in place: Adam's step number `step`, counted from 1."""
    grad = grad + weight_decay * param
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * grad
    exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    denominator = np.sqrt(exp_avg_sq) / (1 - beta2**step) ** 0.5 + eps
    param -= lr / (1 - beta1**step) * exp_avg / denominator


def sgd_step(
    param: Array,
    grad: Array,
    momentum_buffer: Array | None,
    first_step: bool,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """Update `param` and its momentum buffer in place; the first step copies the gradient to it."""
    grad = grad + weight_decay * param
    if momentum_buffer is not None:
        kept = 0 if first_step else momentum * momentum_buffer
        momentum_buffer[...] = kept + (1 if first_step else 1 - dampening) * grad
        grad = grad + momentum * momentum_buffer if nesterov else momentum_buffer
    param -= lr * grad
