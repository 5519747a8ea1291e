"""What may be part of a convolution's kernel, at its end: ReLU, or the mask of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deconv_core import cpu

from . import checks

Array = np.ndarray[Any, Any]


def rectified(
    kernels: Any, run: Callable[..., Array], arguments: Sequence[Any], options: Mapping[str, Any]
) -> Array:
    """Run a pass, and ReLU: one kernel on CUDA, and two on the CPU."""
    if kernels is cpu:
        return kernels.relu_forward(run(*arguments))
    return run(*arguments, relu=True, **options)


def masked(
    mask: Array,
    shape: tuple[int, ...],
    kernels: Any,
    run: Callable[..., Array],
    arguments: Sequence[Any],
    options: Mapping[str, Any],
) -> Array:
    """Run a pass with a result of `shape`, and let it back through the ReLU whose output is `mask`.

    Raise unless `mask` is an array like the result.
    """
    checks.floats(grad_output=arguments[0], mask=mask)
    checks.shape_is("mask", mask.shape, shape, f"input {shape}")
    if kernels is cpu:
        return kernels.relu_backward(run(*arguments), mask)
    return run(*arguments, mask=mask, **options)
