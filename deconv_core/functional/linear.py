"""The fully connected product and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import checks

Array = np.ndarray[Any, Any]


def linear(
    x: Array, weight: Array, bias: Array | None = None, *, precision: str | None = None
) -> Array:
    """Return ``x @ weight.T + bias``.

    Parameters
    ----------
    x : (N, in)
    weight : (out, in)
    bias : (out,) or None
    precision : "float32", "tf32", "3xtf32" or None for the best; other than float32 on CUDA only

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
    kernels = checks.floats(x=x, weight=weight)
    checks.linear(weight.shape, x=(x.shape, 1))
    checks.bias(bias, weight.shape[0], weight)
    exact = checks.precision(kernels, precision)
    return kernels.linear_forward(x, weight, bias, **exact)


def linear_input_grad(
    grad_output: Array,
    weight: Array,
    *,
    precision: str | None = None,
    mask: Array | None = None,
) -> Array:
    """Gradient of `linear` to its input: (N, out), (out, in) -> (N, in).

    `mask` is as for `conv2d_input_grad`.

    Examples
    --------
    >>> linear_input_grad(np.array([[2.0]]), np.array([[3.0, 4.0]])).tolist()
    [[6.0, 8.0]]
    """
    kernels = checks.floats(grad_output=grad_output, weight=weight)
    checks.linear(weight.shape, grad_output=(grad_output.shape, 0))
    exact = checks.precision(kernels, precision)
    checks.mask(mask, (len(grad_output), weight.shape[1]), grad_output)
    return kernels.linear_input_grad(grad_output, weight, mask=mask, **exact)


def linear_weight_grad(
    grad_output: Array,
    x: Array,
    *,
    precision: str | None = None,
    add_to: Array | None = None,
) -> Array:
    """Gradient of `linear` to its weight: (N, out), (N, in) -> (out, in).

    With `add_to`, an array of that shape, it is added to it in place, and the sum is returned; to a
    contiguous one some products at a time, so that the last bits may differ.

    Examples
    --------
    >>> linear_weight_grad(np.array([[2.0]]), np.array([[1.0, 2.0]])).tolist()
    [[2.0, 4.0]]
    """
    kernels = checks.floats(grad_output=grad_output, x=x)
    checks.same_rows(grad_output.shape, x.shape)
    exact = checks.precision(kernels, precision)
    checks.add_to(add_to, (grad_output.shape[1], x.shape[1]), grad_output)
    return kernels.linear_weight_grad(grad_output, x, add_to=add_to, **exact)


def linear_backward(
    grad_output: Array, x: Array, weight: Array, *, precision: str | None = None
) -> tuple[Array, Array, Array]:
    """Gradients of `linear` to its input, its weight and its bias.

    Examples
    --------
    >>> grads = linear_backward(np.array([[2.0]]), np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]))
    >>> [grad.tolist() for grad in grads]
    [[[6.0, 8.0]], [[2.0, 4.0]], [2.0]]
    """
    kernels = checks.floats(grad_output=grad_output, x=x, weight=weight)
    checks.linear(weight.shape, x=(x.shape, 1), grad_output=(grad_output.shape, 0))
    checks.same_rows(grad_output.shape, x.shape)
    exact = checks.precision(kernels, precision)
    return kernels.linear_backward(grad_output, x, weight, **exact)
