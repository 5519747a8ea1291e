"""Our side of every table, built in a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

import deconv_core as dc
from deconv_core import functional as F

LR = 1e-3


def _net(weights: dict[str, np.ndarray]) -> dc.Sequential:
    """Return DDNet with these weights."""
    side = round((weights["fc.weight"].shape[1] / 3) ** 0.5)
    net = dc.DDNet(len(weights["fc.bias"]), (side + 7) // 8)
    net.load_state_dict(weights)
    return net


def step(case: dict[str, np.ndarray], threads: int, collapse: bool = True) -> Callable[[], float]:
    """Return a training step of DDNet, Adam included, from the weights of the case."""
    numba.set_num_threads(threads)
    x, target = case.pop("x"), case.pop("target")
    net = _net(case)
    criterion, optimizer = dc.CrossEntropyLoss(), dc.Adam(net.parameters(), lr=LR)
    return lambda: dc.train_step(net, criterion, optimizer, x, target, collapse=collapse)


def inference(case: dict[str, np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    """Return DDNet's inference."""
    numba.set_num_threads(threads)
    x = case.pop("x")
    net = _net(case)
    return lambda: net(x)


def kernel(
    case: dict[str, np.ndarray], threads: int, transposed: bool, what: str, **options: Any
) -> Callable[[], np.ndarray]:
    """Return one pass of a (transposed) convolution: "forward", "input grad" or "weight grad"."""
    numba.set_num_threads(threads)
    x, weight, grad = case["x"], case["weight"], case["grad"]
    name = "conv_transpose2d" if transposed else "conv2d"
    if what == "forward":
        forward = getattr(F, name)
        return lambda: forward(x, weight, **options)
    options.pop("output_padding", None)  # it follows from the shapes
    backward = getattr(F, f"{name}_{what.replace(' ', '_')}")
    if what == "input grad":
        return lambda: backward(grad, weight, x.shape, **options)
    return lambda: backward(grad, x, weight.shape, **options)
