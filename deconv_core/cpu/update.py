"""The optimizers' updates, in place, one pass over memory each."""

from __future__ import annotations

import math

import numpy as np

from .runtime.arrays import flat
from .runtime.launch import launched
from .runtime.tasks import count_sharers, share_elements


@launched
def _adam(
    worker, workers, param, grad, mean, square, rate, beta1, fresh1, beta2, fresh2, root, eps, decay
):
    """``param -= rate * mean / (sqrt(square) / root + eps)``, after updating both."""
    begin, end = share_elements(worker, workers, param.size)
    p, d, m, v = param[begin:end], grad[begin:end], mean[begin:end], square[begin:end]
    for i in range(p.size):
        g = d[i] + decay * p[i]
        m[i] = beta1 * m[i] + fresh1 * g
        v[i] = beta2 * v[i] + fresh2 * g * g
        p[i] -= rate * m[i] / (np.sqrt(v[i]) / root + eps)


@launched
def _sgd(worker, workers, param, grad, buffer, first_step, rate, momentum, fresh, decay, nesterov):
    """``param -= rate * d``, where d is the gradient, the momentum, or Nesterov's mixture."""
    begin, end = share_elements(worker, workers, param.size)
    p, d = param[begin:end], grad[begin:end]
    if buffer.size == 0:
        for i in range(p.size):
            p[i] -= rate * (d[i] + decay * p[i])
    else:
        b = buffer[begin:end]
        for i in range(p.size):
            g = d[i] + decay * p[i]
            b[i] = g if first_step else momentum * b[i] + fresh * g
            p[i] -= rate * (g + momentum * b[i] if nesterov else b[i])


def _updated(array: np.ndarray, work: np.ndarray) -> None:
    """Copy a kernel's flat result back into an array that it could not work on directly."""
    if not array.flags.carray:
        np.copyto(array, work.reshape(array.shape))


def adam_step(
    param: np.ndarray, grad: np.ndarray, exp_avg: np.ndarray, exp_avg_sq: np.ndarray, step: int,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """Take Adam's step number `step` (from 1), in place."""
    cast = param.dtype.type
    rate, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    scalars = (
        cast(value) for value in (rate, beta1, 1 - beta1, beta2, 1 - beta2, root, eps, weight_decay)
    )
    work = flat(param), flat(exp_avg), flat(exp_avg_sq)
    _adam(count_sharers(param), work[0], flat(grad), *work[1:], *scalars)
    for array, result in zip((param, exp_avg, exp_avg_sq), work, strict=True):
        _updated(array, result)


def sgd_step(
    param: np.ndarray, grad: np.ndarray, momentum_buffer: np.ndarray | None, first_step: bool,
    lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool,
) -> None:  # fmt: skip
    """Take a step of SGD, in place."""
    cast = param.dtype.type
    buffer = np.empty(0, param.dtype) if momentum_buffer is None else momentum_buffer
    work = flat(param), flat(buffer)
    _sgd(
        count_sharers(param), work[0], flat(grad), work[1], bool(first_step), cast(lr),
        cast(momentum), cast(1 - dampening), cast(weight_decay), bool(nesterov),
    )  # fmt: skip
    for array, result in zip((param, buffer), work, strict=True):
        _updated(array, result)
