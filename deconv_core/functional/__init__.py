"""Every operation as a plain function on arrays: checks first, then one kernel.

Semantics, defaults and layouts are those of PyTorch's namesakes: pictures (N, C, H, W), conv
weights (out, in / groups, kh, kw), transposed conv weights (in, out / groups, kh, kw), linear
weights (out, in), int64 labels. Arrays are float32 or float64, all of one dtype, in any memory
layout, and are never modified (but for the optimizer steps, and `add_to`); results are fresh
C-contiguous arrays that the caller owns. Wherever an option is an integer it may also be a pair of
them.

The same on numba.cuda's device arrays, all of them on the device, float32 and C-contiguous: the
kernels are those of the place where the arrays live, and so are the results.

Bad arguments raise before anything is computed: TypeError for a wrong or mixed dtype, ValueError
for shapes and numbers that clash, with both of them in the message.
"""

from __future__ import annotations

from .conv import (
    bias_grad,
    conv2d,
    conv2d_input_grad,
    conv2d_weight_grad,
    conv_transpose2d,
    conv_transpose2d_input_grad,
    conv_transpose2d_weight_grad,
)
from .elementwise import relu, relu_backward
from .fold import col2im, im2col
from .linear import linear, linear_backward, linear_input_grad, linear_weight_grad
from .loss import cross_entropy
from .pool import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from .update import adam_step, sgd_step

__all__ = [
    "adam_step",
    "avg_pool2d",
    "avg_pool2d_backward",
    "bias_grad",
    "col2im",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "conv_transpose2d",
    "conv_transpose2d_input_grad",
    "conv_transpose2d_weight_grad",
    "cross_entropy",
    "im2col",
    "linear",
    "linear_backward",
    "linear_input_grad",
    "linear_weight_grad",
    "max_pool2d",
    "max_pool2d_backward",
    "relu",
    "relu_backward",
    "sgd_step",
]
