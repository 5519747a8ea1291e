"""The rectifier and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import checks

Array = np.ndarray[Any, Any]


def relu(x: Array) -> Array:
    """Return ``max(x, 0)`` for an array of any shape; NaN stays NaN.

    Examples
    --------
    >>> relu(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    kernels = checks.floats(x=x)
    return kernels.relu_forward(x)


def relu_backward(grad_output: Array, output: Array) -> Array:
    """Gradient of `relu` to its input, from the output of its forward pass.

    Examples
    --------
    >>> relu_backward(np.array([5.0, 6.0]), np.array([0.0, 2.0])).tolist()
    [0.0, 6.0]
    """
    kernels = checks.floats(grad_output=grad_output, output=output)
    checks.shape_is("grad_output", grad_output.shape, output.shape, "output")
    return kernels.relu_backward(grad_output, output)
