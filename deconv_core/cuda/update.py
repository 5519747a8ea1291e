"""The optimizers' updates, in place, one pass over memory each.

A net's parameters may lie one after another in one array (`optim` arranges that), so that a single
launch updates them all.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .driver import cuda
from .streams import strided


@cuda.jit
def _adam(param, grad, mean, square, rate, beta1, fresh1, beta2, fresh2, root, eps, decay):
    """``param -= rate * mean / (sqrt(square) / root + eps)``, after updating both."""
    for i in range(cuda.grid(1), param.size, cuda.gridsize(1)):
        g = grad[i] + decay * param[i]
        m = beta1 * mean[i] + fresh1 * g
        v = beta2 * square[i] + fresh2 * g * g
        mean[i], square[i] = m, v
        param[i] -= rate * m / (math.sqrt(v) / root + eps)


def adam_step(
    param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any, step: int,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """Take Adam's step number `step` (from 1), in place."""
    if param.size:
        rate, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
        scalars = (rate, beta1, 1 - beta1, beta2, 1 - beta2, root, eps, weight_decay)
        arrays = (array.reshape(-1) for array in (param, grad, exp_avg, exp_avg_sq))
        _adam[strided(param.size)](*arrays, *map(np.float32, scalars))


@cuda.jit
def _sgd(param, grad, rate, decay):
    """``param -= rate * d``."""
    for i in range(cuda.grid(1), param.size, cuda.gridsize(1)):
        param[i] -= rate * (grad[i] + decay * param[i])


@cuda.jit
def _momentum(param, grad, buffer, first_step, rate, momentum, fresh, decay, nesterov):
    """``param -= rate * d``, where d is the momentum, or Nesterov's mixture."""
    for i in range(cuda.grid(1), param.size, cuda.gridsize(1)):
        g = grad[i] + decay * param[i]
        b = g if first_step else momentum * buffer[i] + fresh * g
        buffer[i] = b
        param[i] -= rate * (g + momentum * b if nesterov else b)


def sgd_step(
    param: Any, grad: Any, momentum_buffer: Any, first_step: bool,
    lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool,
) -> None:  # fmt: skip
    """Take a step of SGD, in place."""
    if not param.size:
        return
    work, rate, decay = param.reshape(-1), np.float32(lr), np.float32(weight_decay)
    if momentum_buffer is None:
        _sgd[strided(param.size)](work, grad.reshape(-1), rate, decay)
        return
    _momentum[strided(param.size)](
        work, grad.reshape(-1), momentum_buffer.reshape(-1), bool(first_step), rate,
        np.float32(momentum), np.float32(1 - dampening), decay, bool(nesterov),
    )  # fmt: skip
