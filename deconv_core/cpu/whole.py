"""Convolutions whose kernel is as large as the picture: products of matrices (linear.py).

Such a convolution has a single result per channel, ``y = x @ w.T`` over all elements of a picture.
Its adjoint makes pictures from vectors: the first layer of many a generator.
"""

from __future__ import annotations

import math

import numpy as np

from ..geometry import ConvGeometry
from .arrays import flat
from .linear import linear_forward, linear_input_grad, linear_weight_grad


def is_whole(geometry: ConvGeometry) -> bool:
    """Tell whether the kernel covers the picture exactly, and all channels."""
    return geometry.groups == 1 and all(
        (axis.out, axis.kernel, axis.pad_lo, axis.pad_hi) == (1, axis.size, 0, 0)
        for axis in (geometry.rows, geometry.cols)
    )


def _matrix(array: np.ndarray) -> np.ndarray:
    """Return pictures, or kernels, as the rows of a matrix."""
    return flat(array).reshape(len(array), math.prod(array.shape[1:]))


def whole_forward(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, geometry: ConvGeometry
) -> np.ndarray:
    """Return the convolution of `x` with `w`."""
    return linear_forward(_matrix(x), _matrix(w), bias).reshape(geometry.output_shape)


def whole_input_grad(
    dy: np.ndarray, w: np.ndarray, bias: np.ndarray | None, geometry: ConvGeometry
) -> np.ndarray:
    """Return the adjoint of the convolution."""
    y = linear_input_grad(_matrix(dy), _matrix(w)).reshape(geometry.input_shape)
    if bias is not None:
        y += bias[:, None, None]
    return y


def whole_weight_grad(x: np.ndarray, dy: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the gradient of the convolution to its weight."""
    return linear_weight_grad(_matrix(dy), _matrix(x)).reshape(geometry.weight_shape)
