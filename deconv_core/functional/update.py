"""The optimizers' updates, in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from deconv_core.arguments import integer

from . import checks

Array = np.ndarray[Any, Any]


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
    kernels = checks.updatable(param=param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    integer("step", step, least=1)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if checks.fraction(name, beta) == 1:
            raise ValueError(f"{name} must be below 1, got {beta}")
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
    kernels = checks.updatable(param=param, grad=grad, **arrays)
    if (momentum_buffer is None) != (momentum == 0):
        given = "None" if momentum_buffer is None else "an array"
        raise ValueError(f"momentum is {momentum} but momentum_buffer is {given}")
    checks.nesterov_options(nesterov, momentum, dampening)
    kernels.sgd_step(
        param, grad, momentum_buffer, first_step, lr, momentum, dampening, weight_decay, nesterov
    )
