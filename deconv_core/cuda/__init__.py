"""The CUDA kernels, hand-written for numba.cuda; compiled on first use.

Importing this package imports numba.cuda; only `deconv_core.device` does so, when asked for "cuda".
"""

from __future__ import annotations

from ..cpu import on_compile
from . import blocks as blocks
from . import driver as driver
from . import feed as feed
from . import graph as graph
from . import memory as memory
from .conv import conv_forward, conv_input_grad, conv_weight_grad
from .elementwise import bias_grad, relu_backward, relu_forward
from .fold import col2im, im2col
from .linear import linear_backward, linear_forward, linear_input_grad, linear_weight_grad
from .loss import cross_entropy
from .pool import avg_pool_backward, avg_pool_forward, max_pool_backward, max_pool_forward
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
