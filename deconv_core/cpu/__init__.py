"""The CPU kernels, hand-written for Numba; compiled on first use, then read from disk."""

from __future__ import annotations

from .conv import conv_forward, conv_input_grad, conv_weight_grad
from .elementwise import bias_grad, relu_backward, relu_forward
from .loss import cross_entropy
from .matrices.fold import col2im, im2col
from .matrices.linear import linear_backward, linear_forward, linear_input_grad, linear_weight_grad
from .pool import avg_pool_backward, avg_pool_forward, max_pool_backward, max_pool_forward
from .runtime.jit import on_compile
from .update import adam_step, sgd_step

__all__ = [
    "adam_step",
    "avg_pool_backward",
    "avg_pool_forward",
    "bias_grad",
    "col2im",
    "conv_forward",
    "conv_input_grad",
    "conv_weight_grad",
    "cross_entropy",
    "im2col",
    "linear_backward",
    "linear_forward",
    "linear_input_grad",
    "linear_weight_grad",
    "max_pool_backward",
    "max_pool_forward",
    "on_compile",
    "relu_backward",
    "relu_forward",
    "sgd_step",
]
