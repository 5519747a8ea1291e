"""Windows as columns, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from deconv_core import geometry

from . import checks

Array = np.ndarray[Any, Any]


def im2col(
    x: Array, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> Array:
    """Copy every window to a column, as PyTorch's unfold.

    Parameters
    ----------
    x : (N, C, H, W)
    kernel_size, stride, padding, dilation : int or pair of int

    Returns
    -------
    (N, C * kh * kw, number of windows)

    Raises
    ------
    ValueError, TypeError
        Naming the two things that clash.

    Examples
    --------
    >>> im2col(np.array([[[[1.0, 2.0, 3.0]]]]), (1, 2)).tolist()
    [[[1.0, 2.0], [2.0, 3.0]]]
    """
    kernels = checks.floats(x=x)
    return kernels.im2col(x, *geometry.unfold(x.shape, kernel_size, stride, padding, dilation))


def col2im(
    columns: Array,
    output_size: Any,
    kernel_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
) -> Array:
    """Add every column back into its window, as PyTorch's fold: the adjoint of `im2col`.

    Parameters
    ----------
    columns : (N, C * kh * kw, number of windows)
    output_size : (H, W)
    kernel_size, stride, padding, dilation : int or pair of int

    Returns
    -------
    (N, C, H, W)

    Raises
    ------
    ValueError, TypeError
        Naming the two things that clash.

    Examples
    --------
    >>> col2im(np.array([[[1.0, 2.0], [2.0, 3.0]]]), (1, 3), (1, 2)).tolist()
    [[[[1.0, 4.0, 3.0]]]]
    """
    kernels = checks.floats(columns=columns)
    size = geometry.pair(output_size, "output_size", 1)
    channels = checks.column_channels(columns.shape, geometry.pair(kernel_size, "kernel_size", 1))
    picture = (columns.shape[0], channels, *size)
    rows, cols = geometry.unfold(picture, kernel_size, stride, padding, dilation)
    expected = (*columns.shape[:2], rows.out * cols.out)
    checks.shape_is("columns", columns.shape, expected, f"output_size {size}")
    return kernels.col2im(columns, rows, cols)
