"""Max and average pooling, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from deconv_core import geometry

from . import checks

Array = np.ndarray[Any, Any]


def max_pool2d(
    x: Array, kernel_size: Any, stride: Any = None, padding: Any = 0
) -> tuple[Array, Array]:
    """Largest element of each window, and where it is.

    Parameters
    ----------
    x : (N, C, H, W)
    kernel_size, padding : int or pair of int; padding is at most half the window, and never wins
    stride : int, pair of int, or None for kernel_size

    Returns
    -------
    output : (N, C, (H + 2p - k) // s + 1, likewise for W)
    indices : int64, the same shape: flat positions in a plane of H * W, the first among equals,
        the last among NaN

    Raises
    ------
    ValueError, TypeError
        Naming the two things that clash.

    Examples
    --------
    >>> output, indices = max_pool2d(np.array([[[[1.0, 3.0], [2.0, 0.0]]]]), 2)
    >>> output.item(), indices.item()
    (3.0, 1)
    """
    kernels = checks.floats(x=x)
    return kernels.max_pool_forward(x, *geometry.pool(x.shape, kernel_size, stride, padding))


def max_pool2d_backward(grad_output: Array, indices: Array, input_shape: Any) -> Array:
    """Gradient of `max_pool2d` to its input, from the indices of its forward pass.

    Examples
    --------
    >>> indices = np.array([[[[1]]]])
    >>> max_pool2d_backward(np.array([[[[5.0]]]]), indices, (1, 1, 2, 2)).tolist()
    [[[[0.0, 5.0], [0.0, 0.0]]]]
    """
    kernels = checks.floats(grad_output=grad_output)
    size = checks.sizes("input_shape", input_shape, 4)
    checks.rank("grad_output", grad_output.shape, 4)
    planes = grad_output.shape[:2]
    checks.shape_is("grad_output's batch and channels", planes, size[:2], f"input {size}")
    checks.pool_indices(indices, grad_output, size[2] * size[3])
    return kernels.max_pool_backward(grad_output, indices, size)


def avg_pool2d(x: Array, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Array:
    """Mean of each window, the zeros of the padding included; arguments as `max_pool2d`.

    Examples
    --------
    >>> avg_pool2d(np.array([[[[1.0, 3.0], [2.0, 0.0]]]]), 2).item()
    1.5
    """
    kernels = checks.floats(x=x)
    return kernels.avg_pool_forward(x, *geometry.pool(x.shape, kernel_size, stride, padding))


def avg_pool2d_backward(
    grad_output: Array, input_shape: Any, kernel_size: Any, stride: Any = None, padding: Any = 0
) -> Array:
    """Gradient of `avg_pool2d` to its input, of shape `input_shape`.

    Examples
    --------
    >>> avg_pool2d_backward(np.array([[[[4.0]]]]), (1, 1, 2, 2), 2).tolist()
    [[[[1.0, 1.0], [1.0, 1.0]]]]
    """
    kernels = checks.floats(grad_output=grad_output)
    size = checks.sizes("input_shape", input_shape, 4)
    rows, cols = geometry.pool(size, kernel_size, stride, padding)
    expected = (*size[:2], rows.out, cols.out)
    checks.shape_is("grad_output", grad_output.shape, expected, f"input {size}")
    return kernels.avg_pool_backward(grad_output, size, rows, cols)
