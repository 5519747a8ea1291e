"""Convolution, transposed convolution and their gradients."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from deconv_core import geometry
from deconv_core.arguments import integer

from . import checks

Array = np.ndarray[Any, Any]


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    precision: str | None = None,
    relu: bool = False,
) -> Array:
    """Convolve: ``y[o, i, j] = b[o] + sum x[c, s*i + d*u - p, s*j + d*v - p] * w[o, c, u, v]``.

    Parameters
    ----------
    x : (N, in, H, W)
    weight : (out, in / groups, kh, kw)
    bias : (out,) or None
    stride, padding, dilation : int or pair of int; padding also "same" or "valid"
    groups : int
    precision : "float32", "tf32", "3xtf32" or None for the best; other than float32 on CUDA only
    relu : whether to return ``max(y, 0)``, which costs little or nothing

    Returns
    -------
    (N, out, (H + 2p - d*(kh - 1) - 1) // s + 1, likewise for W)

    Raises
    ------
    ValueError, TypeError
        Naming the two things that clash.

    Examples
    --------
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, np.array([[[[0.0, 1.0]]]])).tolist()
    [[[[1.0, 2.0], [4.0, 5.0], [7.0, 8.0]]]]
    """
    kernels = checks.floats(x=x, weight=weight)
    shape = geometry.conv(x.shape, weight.shape, stride, padding, dilation, groups)
    checks.bias(bias, shape.out_channels, weight)
    exact = checks.precision(kernels, precision)
    return kernels.conv_forward(x, weight, bias, shape, relu=relu, **exact)


def conv2d_input_grad(
    grad_output: Array,
    weight: Array,
    input_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    precision: str | None = None,
    mask: Array | None = None,
) -> Array:
    """Gradient of `conv2d` to its input, of shape `input_shape`: the adjoint map, applied.

    Parameters are those of `conv2d`, with `grad_output` of its output's shape. With `mask`, an
    array like the input, the result is zero where that is not positive: if the input is a ReLU's
    output, this is the gradient to what went into the ReLU, which costs little or nothing.

    Examples
    --------
    >>> conv2d_input_grad(np.ones((1, 1, 1, 2)), np.array([[[[1.0, 3.0]]]]), (1, 1, 1, 3)).tolist()
    [[[[1.0, 4.0, 3.0]]]]
    """
    kernels = checks.floats(grad_output=grad_output, weight=weight)
    size = checks.sizes("input_shape", input_shape, 4)
    shape = geometry.conv(size, weight.shape, stride, padding, dilation, groups)
    checks.shape_is("grad_output", grad_output.shape, shape.output_shape, f"input {size}")
    exact = checks.precision(kernels, precision)
    checks.mask(mask, size, grad_output)
    return kernels.conv_input_grad(grad_output, weight, None, shape, mask=mask, **exact)


def conv2d_weight_grad(
    grad_output: Array,
    x: Array,
    weight_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    precision: str | None = None,
) -> Array:
    """Gradient of `conv2d` to its weight, of shape `weight_shape`, summed over the images.

    Parameters are those of `conv2d`, with `grad_output` of its output's shape. A NaN or infinity
    in a channel of `x` may show in any tap of that channel's weights.

    Examples
    --------
    >>> x = np.array([[[[1.0, 2.0, 3.0]]]])
    >>> conv2d_weight_grad(np.ones((1, 1, 1, 2)), x, (1, 1, 1, 2)).tolist()
    [[[[3.0, 5.0]]]]
    """
    kernels = checks.floats(grad_output=grad_output, x=x)
    size = checks.sizes("weight_shape", weight_shape, 4)
    shape = geometry.conv(x.shape, size, stride, padding, dilation, groups)
    checks.shape_is("grad_output", grad_output.shape, shape.output_shape, f"input {x.shape}")
    exact = checks.precision(kernels, precision)
    return kernels.conv_weight_grad(x, grad_output, shape, **exact)


def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    precision: str | None = None,
    relu: bool = False,
) -> Array:
    """Transposed convolution: the adjoint (`conv2d_input_grad`) of the same weight's `conv2d`.

    Parameters
    ----------
    x : (N, in, H, W)
    weight : (in, out / groups, kh, kw)
    bias : (out,) or None
    stride, padding, dilation : int or pair of int
    output_padding : int or pair of int, below stride or below dilation: rows and columns added at
        the end, which picks one of the sizes that the convolution would map to (H, W)
    groups : int
    precision, relu : as for `conv2d`

    Returns
    -------
    (N, out, (H - 1)*s - 2p + d*(kh - 1) + output_padding + 1, likewise for W)

    Raises
    ------
    ValueError, TypeError
        Naming the two things that clash.

    Examples
    --------
    >>> weight = np.array([[[[1.0, 10.0, 100.0]]]])
    >>> conv_transpose2d(np.array([[[[1.0, 2.0]]]]), weight, stride=2).tolist()
    [[[[1.0, 10.0, 102.0, 20.0, 200.0]]]]
    """
    kernels = checks.floats(x=x, weight=weight)
    shape = geometry.conv_transpose(
        x.shape, weight.shape, stride, padding, output_padding, groups, dilation
    )
    checks.bias(bias, shape.in_channels, weight)
    exact = checks.precision(kernels, precision)
    return kernels.conv_input_grad(x, weight, bias, shape, relu=relu, **exact)


def conv_transpose2d_input_grad(
    grad_output: Array,
    weight: Array,
    input_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    precision: str | None = None,
    mask: Array | None = None,
) -> Array:
    """Gradient of `conv_transpose2d` to its input: the convolution that it is the adjoint of.

    Parameters are those of `conv_transpose2d`; its output_padding follows from the shapes. `mask`
    is as for `conv2d_input_grad`.

    Examples
    --------
    >>> weight = np.array([[[[1.0, 10.0, 100.0]]]])
    >>> grad = np.array([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]])
    >>> conv_transpose2d_input_grad(grad, weight, (1, 1, 1, 2), stride=2).tolist()
    [[[[321.0, 543.0]]]]
    """
    kernels = checks.floats(grad_output=grad_output, weight=weight)
    size = checks.sizes("input_shape", input_shape, 4)
    shape = _adjoint(grad_output.shape, size, weight.shape, stride, padding, groups, dilation)
    exact = checks.precision(kernels, precision)
    checks.mask(mask, size, grad_output)
    return kernels.conv_forward(grad_output, weight, None, shape, mask=mask, **exact)


def conv_transpose2d_weight_grad(
    grad_output: Array,
    x: Array,
    weight_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    precision: str | None = None,
) -> Array:
    """Gradient of `conv_transpose2d` to its weight: a convolution's, with the operands swapped.

    Parameters are those of `conv_transpose2d`; its output_padding follows from the shapes.

    Examples
    --------
    >>> grad, x = np.array([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]]), np.array([[[[1.0, 10.0]]]])
    >>> conv_transpose2d_weight_grad(grad, x, (1, 1, 1, 3), stride=2).tolist()
    [[[[31.0, 42.0, 53.0]]]]
    """
    kernels = checks.floats(grad_output=grad_output, x=x)
    size = checks.sizes("weight_shape", weight_shape, 4)
    shape = _adjoint(grad_output.shape, x.shape, size, stride, padding, groups, dilation)
    exact = checks.precision(kernels, precision)
    return kernels.conv_weight_grad(grad_output, x, shape, **exact)


def bias_grad(grad_output: Array) -> Array:
    """Gradient of a convolution or transposed convolution to its bias: the sum over the pictures.

    Parameters
    ----------
    grad_output : (N, C, H, W), or (N, C) for `linear`

    Returns
    -------
    (C,)

    Examples
    --------
    >>> bias_grad(np.ones((2, 3, 4, 5))).tolist()
    [40.0, 40.0, 40.0]
    """
    kernels = checks.floats(grad_output=grad_output)
    if grad_output.ndim not in (2, 4):
        raise ValueError(f"grad_output must have 2 or 4 axes, got shape {grad_output.shape}")
    return kernels.bias_grad(grad_output)


def _adjoint(
    grad_shape: tuple[int, ...],
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    groups: int,
    dilation: Any,
) -> geometry.ConvGeometry:
    """Return the geometry whose adjoint gives an output of `grad_shape`."""
    steps, pads = geometry.pair(stride, "stride", 1), geometry.pair(padding, "padding", 0)
    gaps, groups = geometry.pair(dilation, "dilation", 1), integer("groups", groups, 1)
    return _checked_adjoint(grad_shape, input_shape, weight_shape, steps, pads, groups, gaps)


@lru_cache(maxsize=1024)
def _checked_adjoint(
    grad_shape: tuple[int, ...],
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int,
    dilation: tuple[int, int],
) -> geometry.ConvGeometry:
    """Check shapes against normalised options."""
    extra = checks.output_padding(grad_shape, input_shape, weight_shape, stride, padding, dilation)
    shape = geometry.conv_transpose(
        input_shape, weight_shape, stride, padding, extra, groups, dilation
    )
    checks.shape_is("grad_output", grad_shape, shape.input_shape, f"input {input_shape}")
    return shape
