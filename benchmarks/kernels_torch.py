"""PyTorch's passes of a convolution, each alone, built in a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

GRADIENTS = ("input grad", "weight grad")
Call = Callable[[], torch.Tensor]


def kernel(
    case: dict[str, np.ndarray],
    threads: int,
    channels_last: bool,
    convert: bool,
    transposed: bool,
    what: str,
    **options: Any,
) -> Call:
    """Return one pass of a (transposed) convolution: "forward", "input grad" or "weight grad".

    With `channels_last` the arrays are in that layout from the start and no conversion is in the
    time of a call, unless `convert` asks for pictures that come and go as NCHW.
    """
    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, weight, grad = (torch.from_numpy(case[name]) for name in ("x", "weight", "grad"))
    weight = weight.contiguous(memory_format=layout)

    def build(x: torch.Tensor, grad: torch.Tensor) -> Call:
        if what == "forward":
            return _forward(x, weight, transposed, options)
        return _gradient(x, weight, grad, transposed, GRADIENTS.index(what), options)

    if not (convert and channels_last):
        return build(*(array.contiguous(memory_format=layout) for array in (x, grad)))

    def converting() -> torch.Tensor:
        taken = [
            array.contiguous(memory_format=layout) if needed else array
            for array, needed in ((x, what != "input grad"), (grad, what != "forward"))
        ]
        return build(*taken)().contiguous()

    return converting


def _forward(
    x: torch.Tensor, weight: torch.Tensor, transposed: bool, options: dict[str, Any]
) -> Call:
    """Return the forward pass."""
    forward = F.conv_transpose2d if transposed else F.conv2d
    return lambda: forward(x, weight, **options)


def _gradient(
    x: torch.Tensor,
    weight: torch.Tensor,
    grad: torch.Tensor,
    transposed: bool,
    index: int,
    options: dict[str, Any],
) -> Call:
    """Return the gradient to the input (0) or to the weight (1) alone."""
    pairs = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0} | options
    groups = pairs.pop("groups", 1)
    stride, padding, dilation, extra = (
        [value, value] if isinstance(value, int) else value for value in pairs.values()
    )
    mask = [index == 0, index == 1, False]
    backward = torch.ops.aten.convolution_backward
    return lambda: backward(
        grad, x, weight, None, stride, padding, dilation, transposed, extra, groups, mask
    )[index]
