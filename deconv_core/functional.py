"""Every operation as a plain function on NumPy arrays: checks first, then one kernel.

Semantics, defaults and layouts are those of PyTorch's namesakes: pictures (N, C, H, W), conv
weights (out, in / groups, kh, kw), transposed conv weights (in, out / groups, kh, kw), linear
weights (out, in), int64 labels. Arrays are float32 or float64, all of one dtype, in any memory
layout, and are never modified (the optimizer steps excepted); results are fresh C-contiguous
arrays that the caller owns. Wherever an option is an integer it may also be a pair of them.

Bad arguments raise before anything is computed: TypeError for a wrong or mixed dtype, ValueError
for shapes and numbers that clash, with both of them in the message.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deconv_core import checks, geometry
from deconv_core import cpu as kernels

Array = np.ndarray[Any, Any]


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    """Convolve: ``y[o, i, j] = b[o] + sum x[c, s*i + d*u - p, s*j + d*v - p] * w[o, c, u, v]``.

    Parameters
    ----------
    x : (N, in, H, W)
    weight : (out, in / groups, kh, kw)
    bias : (out,) or None
    stride, padding, dilation : int or pair of int; padding also "same" or "valid"
    groups : int

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
    checks.floats(x=x, weight=weight)
    shape = geometry.conv(x.shape, weight.shape, stride, padding, dilation, groups)
    checks.bias(bias, shape.out_channels, weight=weight)
    return kernels.conv_forward(x, weight, bias, shape)


def conv2d_input_grad(
    grad_output: Array,
    weight: Array,
    input_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    """Gradient of `conv2d` to its input, of shape `input_shape`: the adjoint map, applied.

    Parameters are those of `conv2d`, with `grad_output` of its output's shape.

    Examples
    --------
    >>> conv2d_input_grad(np.ones((1, 1, 1, 2)), np.array([[[[1.0, 3.0]]]]), (1, 1, 1, 3)).tolist()
    [[[[1.0, 4.0, 3.0]]]]
    """
    checks.floats(grad_output=grad_output, weight=weight)
    size = checks.sizes("input_shape", input_shape, 4)
    shape = geometry.conv(size, weight.shape, stride, padding, dilation, groups)
    checks.shape_is("grad_output", grad_output.shape, shape.output_shape, f"input {size}")
    return kernels.conv_input_grad(grad_output, weight, None, shape)


def conv2d_weight_grad(
    grad_output: Array,
    x: Array,
    weight_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    """Gradient of `conv2d` to its weight, of shape `weight_shape`, summed over the images.

    Parameters are those of `conv2d`, with `grad_output` of its output's shape.

    Examples
    --------
    >>> x = np.array([[[[1.0, 2.0, 3.0]]]])
    >>> conv2d_weight_grad(np.ones((1, 1, 1, 2)), x, (1, 1, 1, 2)).tolist()
    [[[[3.0, 5.0]]]]
    """
    checks.floats(grad_output=grad_output, x=x)
    size = checks.sizes("weight_shape", weight_shape, 4)
    shape = geometry.conv(x.shape, size, stride, padding, dilation, groups)
    checks.shape_is("grad_output", grad_output.shape, shape.output_shape, f"input {x.shape}")
    return kernels.conv_weight_grad(x, grad_output, shape)


def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
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
    checks.floats(x=x, weight=weight)
    shape = geometry.conv_transpose(
        x.shape, weight.shape, stride, padding, output_padding, groups, dilation
    )
    checks.bias(bias, shape.in_channels, weight=weight)
    return kernels.conv_input_grad(x, weight, bias, shape)


def conv_transpose2d_input_grad(
    grad_output: Array,
    weight: Array,
    input_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    """Gradient of `conv_transpose2d` to its input: the convolution that it is the adjoint of.

    Parameters are those of `conv_transpose2d`; its output_padding follows from the shapes.

    Examples
    --------
    >>> weight = np.array([[[[1.0, 10.0, 100.0]]]])
    >>> grad = np.array([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]])
    >>> conv_transpose2d_input_grad(grad, weight, (1, 1, 1, 2), stride=2).tolist()
    [[[[321.0, 543.0]]]]
    """
    checks.floats(grad_output=grad_output, weight=weight)
    size = checks.sizes("input_shape", input_shape, 4)
    shape = _adjoint(grad_output.shape, size, weight.shape, stride, padding, groups, dilation)
    return kernels.conv_forward(grad_output, weight, None, shape)


def conv_transpose2d_weight_grad(
    grad_output: Array,
    x: Array,
    weight_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    """Gradient of `conv_transpose2d` to its weight: a convolution's, with the operands swapped.

    Parameters are those of `conv_transpose2d`; its output_padding follows from the shapes.

    Examples
    --------
    >>> grad, x = np.array([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]]), np.array([[[[1.0, 10.0]]]])
    >>> conv_transpose2d_weight_grad(grad, x, (1, 1, 1, 3), stride=2).tolist()
    [[[[31.0, 42.0, 53.0]]]]
    """
    checks.floats(grad_output=grad_output, x=x)
    size = checks.sizes("weight_shape", weight_shape, 4)
    shape = _adjoint(grad_output.shape, x.shape, size, stride, padding, groups, dilation)
    return kernels.conv_weight_grad(grad_output, x, shape)


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
    checks.floats(grad_output=grad_output)
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
    extra = checks.output_padding(grad_shape, input_shape, weight_shape, stride, padding, dilation)
    shape = geometry.conv_transpose(
        input_shape, weight_shape, stride, padding, extra, groups, dilation
    )
    checks.shape_is("grad_output", grad_shape, shape.input_shape, f"input {input_shape}")
    return shape


def relu(x: Array) -> Array:
    """Return ``max(x, 0)`` for an array of any shape; NaN stays NaN.

    Examples
    --------
    >>> relu(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    checks.floats(x=x)
    return kernels.relu_forward(x)


def relu_backward(grad_output: Array, output: Array) -> Array:
    """Gradient of `relu` to its input, from the output of its forward pass.

    Examples
    --------
    >>> relu_backward(np.array([5.0, 6.0]), np.array([0.0, 2.0])).tolist()
    [0.0, 6.0]
    """
    checks.floats(grad_output=grad_output, output=output)
    checks.shape_is("grad_output", grad_output.shape, output.shape, "output")
    return kernels.relu_backward(grad_output, output)


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
    indices : int64, the same shape: flat positions in a plane of H * W, the first among equals

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
    checks.floats(x=x)
    return kernels.max_pool_forward(x, *geometry.pool(x.shape, kernel_size, stride, padding))


def max_pool2d_backward(grad_output: Array, indices: Array, input_shape: Any) -> Array:
    """Gradient of `max_pool2d` to its input, from the indices of its forward pass.

    Examples
    --------
    >>> indices = np.array([[[[1]]]])
    >>> max_pool2d_backward(np.array([[[[5.0]]]]), indices, (1, 1, 2, 2)).tolist()
    [[[[0.0, 5.0], [0.0, 0.0]]]]
    """
    checks.floats(grad_output=grad_output)
    size = checks.sizes("input_shape", input_shape, 4)
    checks.rank("grad_output", grad_output.shape, 4)
    planes = grad_output.shape[:2]
    checks.shape_is("grad_output's batch and channels", planes, size[:2], f"input {size}")
    checks.pool_indices(indices, grad_output.shape, size[2] * size[3])
    return kernels.max_pool_backward(grad_output, indices, size)


def avg_pool2d(x: Array, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Array:
    """Mean of each window, the zeros of the padding included; arguments as `max_pool2d`.

    Examples
    --------
    >>> avg_pool2d(np.array([[[[1.0, 3.0], [2.0, 0.0]]]]), 2).item()
    1.5
    """
    checks.floats(x=x)
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
    checks.floats(grad_output=grad_output)
    size = checks.sizes("input_shape", input_shape, 4)
    rows, cols = geometry.pool(size, kernel_size, stride, padding)
    expected = (*size[:2], rows.out, cols.out)
    checks.shape_is("grad_output", grad_output.shape, expected, f"input {size}")
    return kernels.avg_pool_backward(grad_output, size, rows, cols)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return ``x @ weight.T + bias``.

    Parameters
    ----------
    x : (N, in)
    weight : (out, in)
    bias : (out,) or None

    Returns
    -------
    (N, out)

    Raises
    ------
    ValueError, TypeError
        Naming the two things that clash.

    Examples
    --------
    >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0.5])).tolist()
    [[11.5]]
    """
    checks.floats(x=x, weight=weight)
    checks.linear(weight.shape, x=(x.shape, 1))
    checks.bias(bias, weight.shape[0], weight=weight)
    return kernels.linear_forward(x, weight, bias)


def linear_input_grad(grad_output: Array, weight: Array) -> Array:
    """Gradient of `linear` to its input: (N, out), (out, in) -> (N, in).

    Examples
    --------
    >>> linear_input_grad(np.array([[2.0]]), np.array([[3.0, 4.0]])).tolist()
    [[6.0, 8.0]]
    """
    checks.floats(grad_output=grad_output, weight=weight)
    checks.linear(weight.shape, grad_output=(grad_output.shape, 0))
    return kernels.linear_input_grad(grad_output, weight)


def linear_weight_grad(grad_output: Array, x: Array) -> Array:
    """Gradient of `linear` to its weight: (N, out), (N, in) -> (out, in).

    Examples
    --------
    >>> linear_weight_grad(np.array([[2.0]]), np.array([[1.0, 2.0]])).tolist()
    [[2.0, 4.0]]
    """
    checks.floats(grad_output=grad_output, x=x)
    checks.same_rows(grad_output.shape, x.shape)
    return kernels.linear_weight_grad(grad_output, x)


def linear_backward(grad_output: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Gradients of `linear` to its input, its weight and its bias.

    Examples
    --------
    >>> grads = linear_backward(np.array([[2.0]]), np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]))
    >>> [grad.tolist() for grad in grads]
    [[[6.0, 8.0]], [[2.0, 4.0]], [2.0]]
    """
    checks.floats(grad_output=grad_output, x=x, weight=weight)
    checks.linear(weight.shape, x=(x.shape, 1), grad_output=(grad_output.shape, 0))
    checks.same_rows(grad_output.shape, x.shape)
    return kernels.linear_backward(grad_output, x, weight)


def cross_entropy(
    logits: Array, target: Array, label_smoothing: float = 0.0
) -> tuple[float, Array]:
    """Mean of ``-log(softmax(logits)[target])``, and its gradient to the logits.

    Parameters
    ----------
    logits : (N, classes), N at least 1
    target : (N,) int64, each in [0, classes)
    label_smoothing : float in [0, 1]: the share of the target spread evenly over all classes

    Returns
    -------
    loss : float
    grad_logits : (N, classes)

    Raises
    ------
    ValueError, TypeError
        Naming the two things that clash; for a label, its place and value.

    Examples
    --------
    >>> loss, grad = cross_entropy(np.zeros((1, 2)), np.array([1]))
    >>> round(loss, 4), grad.tolist()
    (0.6931, [[0.5, -0.5]])
    """
    checks.floats(logits=logits)
    checks.labels(target, logits.shape)
    smoothing = checks.fraction("label_smoothing", label_smoothing)
    return kernels.cross_entropy(logits, target, smoothing)


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
    checks.floats(x=x)
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
    checks.floats(columns=columns)
    size = geometry.pair(output_size, "output_size", 1)
    channels = checks.column_channels(columns.shape, geometry.pair(kernel_size, "kernel_size", 1))
    picture = (columns.shape[0], channels, *size)
    rows, cols = geometry.unfold(picture, kernel_size, stride, padding, dilation)
    expected = (*columns.shape[:2], rows.out * cols.out)
    checks.shape_is("columns", columns.shape, expected, f"output_size {size}")
    return kernels.col2im(columns, rows, cols)


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
    """Adam's step number `step` (from 1), in place on `param`, `exp_avg` and `exp_avg_sq`.

    All four arrays have one shape and dtype. Kingma and Ba, 2015, algorithm 1, with L2 decay.

    Examples
    --------
    >>> param, mean, square = np.ones(1), np.zeros(1), np.zeros(1)
    >>> adam_step(param, np.array([4.0]), mean, square, 1, 0.1, 0.9, 0.999, 0.0, 0.0)
    >>> round(param.item(), 6)
    0.9
    """
    checks.updatable(param=param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    if step < 1:
        raise ValueError(f"step counts from 1, got {step}")
    kernels.adam_step(param, grad, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay)


def sgd_step(
    param: Array,
    grad: Array,
    momentum_buffer: Array | None,
    first_step: bool,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """One step of SGD, in place on `param` and on `momentum_buffer`, which may be None.

    The arrays have one shape and dtype; without momentum there is no buffer. The first step
    copies the gradient into the buffer, undampened, as PyTorch's does.

    Examples
    --------
    >>> param = np.ones(1)
    >>> sgd_step(param, np.array([4.0]), None, True, lr=0.1)
    >>> round(param.item(), 6)
    0.6
    """
    arrays = {} if momentum_buffer is None else {"momentum_buffer": momentum_buffer}
    checks.updatable(param=param, grad=grad, **arrays)
    if (momentum_buffer is None) != (momentum == 0):
        given = "None" if momentum_buffer is None else "an array"
        raise ValueError(f"momentum is {momentum} but momentum_buffer is {given}")
    kernels.sgd_step(
        param, grad, momentum_buffer, first_step, lr, momentum, dampening, weight_decay, nesterov
    )
