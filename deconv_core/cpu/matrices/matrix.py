"""Convolutions that are products of matrices as they stand (linear.py): weights are used in place.

A kernel as large as the picture has a single result per channel, ``y = x @ w.T`` over all elements
of a picture. Its adjoint makes pictures from vectors: the first layer of many a generator. Where a
batch has a few results per channel in all, they are the same of their windows, which are copied
from the pictures, or added back (fold.py): next to the weights they are nothing.
"""

from __future__ import annotations

import math

import numpy as np

from ...geometry import ConvGeometry
from ..config import MACHINE, SHARED_MACS
from ..runtime.arrays import flat
from .fold import col2im, im2col
from .linear import linear_forward, linear_input_grad, linear_weight_grad

FEW = MACHINE.spread[0][0]  # results per channel: as many as one register tile has lanes


def _is_whole(geometry: ConvGeometry) -> bool:
    """Tell whether the kernel covers the picture exactly, and all channels."""
    return geometry.groups == 1 and all(
        (axis.out, axis.kernel, axis.pad_lo, axis.pad_hi) == (1, axis.size, 0, 0)
        for axis in (geometry.rows, geometry.cols)
    )


def is_matrix(geometry: ConvGeometry) -> bool:
    """Tell whether a convolution's passes are such products."""
    results = geometry.batch * geometry.rows.out * geometry.cols.out
    few = geometry.groups == 1 and results <= FEW and geometry.macs >= SHARED_MACS
    return few or _is_whole(geometry)


def _matrix(array: np.ndarray) -> np.ndarray:
    """Return pictures, or kernels, as the rows of a matrix."""
    return flat(array).reshape(len(array), math.prod(array.shape[1:]))


def _turned(array: np.ndarray) -> np.ndarray:
    """Return (N, a, b) as (N, b, a)."""
    return np.ascontiguousarray(array.transpose(0, 2, 1))


def _windows(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the window of each result as a row of a matrix."""
    if _is_whole(geometry):
        return _matrix(x)
    columns = im2col(x, geometry.rows, geometry.cols)
    return _turned(columns).reshape(-1, columns.shape[1])


def _results(y: np.ndarray) -> np.ndarray:
    """Return the channels of each result as a row of a matrix."""
    batch, channels, rows, columns = y.shape
    return _turned(flat(y).reshape(batch, channels, rows * columns)).reshape(-1, channels)


def matrix_forward(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, geometry: ConvGeometry
) -> np.ndarray:
    """Return the convolution of `x` with `w`."""
    y = linear_forward(_windows(x, geometry), _matrix(w), bias)
    results = geometry.rows.out * geometry.cols.out
    return _turned(y.reshape(len(x), results, len(w))).reshape(geometry.output_shape)


def matrix_input_grad(
    dy: np.ndarray, w: np.ndarray, bias: np.ndarray | None, geometry: ConvGeometry
) -> np.ndarray:
    """Return the adjoint of the convolution."""
    y = linear_input_grad(_results(dy), _matrix(w))
    if not _is_whole(geometry):
        results = geometry.rows.out * geometry.cols.out
        columns = _turned(y.reshape(len(dy), results, y.shape[1]))
        y = col2im(columns, geometry.rows, geometry.cols)
    y = y.reshape(geometry.input_shape)
    if bias is not None:
        y += bias[:, None, None]
    return y


def matrix_weight_grad(x: np.ndarray, dy: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the gradient of the convolution to its weight."""
    windows = _windows(x, geometry)
    return linear_weight_grad(_results(dy), windows).reshape(geometry.weight_shape)
