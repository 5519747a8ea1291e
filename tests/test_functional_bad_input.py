"""Bad arguments: the right exception, with both of the things that clash in its message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deconv_core import functional as F


def f32(*shape: int) -> np.ndarray:
    """Return ones of float32."""
    return np.ones(shape, np.float32)


X, W, B = f32(2, 4, 9, 9), f32(6, 4, 3, 3), f32(6)
TW, DY = f32(4, 6, 3, 3), f32(2, 6, 7, 7)
LX, LW, LDY = f32(5, 7), f32(3, 7), f32(5, 3)
LABELS = np.array([0, 1, 2, 0, 1])
PLACES = np.zeros((2, 4, 3, 3), np.int64)

# (call, what its message must name)
VALUE_ERRORS: list[tuple[Callable[[], Any], list[Any]]] = [
    # ranks
    (lambda: F.conv2d(f32(4, 9, 9), W), ["4 axes", "(4, 9, 9)"]),
    (lambda: F.conv2d(X, f32(6, 36)), ["4 axes", "(6, 36)"]),
    (lambda: F.conv_transpose2d(f32(4, 9, 9), TW), ["4 axes", "(4, 9, 9)"]),
    (lambda: F.conv2d_input_grad(DY, W, (2, 4, 81)), ["4 axes", "(2, 4, 81)"]),
    (lambda: F.conv2d_input_grad(f32(2, 6, 49), W, X.shape), ["(2, 6, 49)", "(2, 6, 7, 7)"]),
    (lambda: F.conv2d_weight_grad(DY, X, (6, 36)), ["4 axes", "(6, 36)"]),
    (lambda: F.conv_transpose2d_input_grad(f32(2, 6, 9), TW, X.shape), ["4 axes", "(2, 6, 9)"]),
    (lambda: F.conv_transpose2d_weight_grad(f32(6, 9, 9), X, TW.shape), ["4 axes", "(6, 9, 9)"]),
    (lambda: F.max_pool2d(f32(9, 9), 2), ["4 axes", "(9, 9)"]),
    (lambda: F.avg_pool2d(f32(9, 9), 2), ["4 axes", "(9, 9)"]),
    (lambda: F.im2col(f32(9, 9), 2), ["4 axes", "(9, 9)"]),
    (lambda: F.col2im(f32(9, 9), 3, 2), ["3 axes", "(9, 9)"]),
    (lambda: F.linear(f32(7), LW), ["2 axes", "(7,)"]),
    (lambda: F.linear(LX, f32(7)), ["2 axes", "(7,)"]),
    (lambda: F.cross_entropy(f32(5), LABELS), ["2 axes", "(5,)"]),
    # channels and groups
    (lambda: F.conv2d(X, f32(6, 3, 3, 3)), ["4 channels", "(6, 3, 3, 3)"]),
    (lambda: F.conv2d(X, W, groups=2), ["4 channels", "8"]),
    (lambda: F.conv2d(X, f32(6, 1, 3, 3), groups=4), ["out_channels 6", "groups 4"]),
    (lambda: F.conv2d(X, f32(6, 1, 3, 3), groups=3), ["in_channels 4", "groups 3"]),
    (lambda: F.conv2d(X, W, groups=0), ["groups", "0"]),
    (lambda: F.conv2d(X, W, groups=-2), ["groups", "-2"]),
    (lambda: F.conv_transpose2d(X, f32(3, 6, 3, 3)), ["4 channels", "(3, 6, 3, 3)"]),
    (lambda: F.conv_transpose2d(X, TW, groups=3), ["in_channels 4", "groups 3"]),
    (lambda: F.conv2d(X, W, f32(5)), ["(5,)", "(6,)"]),
    (lambda: F.conv2d(X, W, f32(6, 1)), ["(6, 1)", "(6,)"]),
    (lambda: F.conv_transpose2d(X, TW, f32(4)), ["(4,)", "(6,)"]),
    # sizes
    (lambda: F.conv2d(X, f32(6, 4, 10, 3)), ["10x3", "9x9"]),
    (lambda: F.conv2d(X, f32(6, 4, 5, 5), dilation=3, padding=1), ["13x13", "11x11"]),
    (lambda: F.conv2d(f32(2, 4, 0, 9), W), ["empty", "(2, 4, 0, 9)"]),
    (lambda: F.conv2d(X, f32(6, 4, 0, 3)), ["empty", "(6, 4, 0, 3)"]),
    (lambda: F.conv_transpose2d(f32(1, 4, 1, 1), TW, padding=2), ["-1", "padding 2"]),
    (lambda: F.max_pool2d(X, 10), ["10", "9"]),
    (lambda: F.avg_pool2d(X, (2, 12), padding=1), ["12", "11"]),
    (lambda: F.im2col(X, 12, padding=1), ["12x12", "11x11"]),
    # strides, paddings, dilations
    (lambda: F.conv2d(X, W, stride=0), ["stride", "0"]),
    (lambda: F.conv2d(X, W, stride=(1, -2)), ["stride", "-2"]),
    (lambda: F.conv2d(X, W, stride=(1, 2, 3)), ["stride", "(1, 2, 3)"]),
    (lambda: F.conv2d(X, W, padding=-1), ["padding", "-1"]),
    (lambda: F.conv2d(X, W, padding="full"), ["padding", "full"]),
    (lambda: F.conv2d(X, W, padding="same", stride=2), ["same", "(2, 2)"]),
    (lambda: F.conv2d(X, W, dilation=0), ["dilation", "0"]),
    (lambda: F.conv_transpose2d(X, TW, stride=0), ["stride", "0"]),
    (lambda: F.conv_transpose2d(X, TW, padding=-1), ["padding", "-1"]),
    (lambda: F.conv_transpose2d(X, TW, dilation=-1), ["dilation", "-1"]),
    (lambda: F.conv_transpose2d(X, TW, output_padding=-1), ["output_padding", "-1"]),
    (lambda: F.conv_transpose2d(X, TW, output_padding=1), ["output_padding 1", "stride 1"]),
    (
        lambda: F.conv_transpose2d(X, TW, stride=3, dilation=2, output_padding=(0, 4)),
        ["output_padding 4", "stride 3", "dilation 2"],
    ),
    (lambda: F.max_pool2d(X, 2, 0), ["stride", "0"]),
    (lambda: F.max_pool2d(X, 0), ["kernel_size", "0"]),
    (lambda: F.max_pool2d(X, 3, padding=2), ["padding 2", "kernel_size 3"]),
    (lambda: F.avg_pool2d(X, 3, -1), ["stride", "-1"]),
    (lambda: F.im2col(X, 3, stride=-1), ["stride", "-1"]),
    (lambda: F.conv2d(X, W, padding=2**31), ["padded input", "2**36", "padding 2147483648"]),
    (lambda: F.conv2d(X, W, padding=2**24, dilation=2**24), ["2**36", "dilation 16777216"]),
    (lambda: F.conv_transpose2d(X, TW, stride=2**20), ["output", "2**36", "stride 1048576"]),
    # gradients that do not fit
    (lambda: F.conv2d_input_grad(DY, W, (2, 4, 8, 9)), ["(2, 6, 7, 7)", "(2, 6, 6, 7)"]),
    (lambda: F.conv2d_input_grad(DY, W, (3, 4, 9, 9)), ["(2, 6, 7, 7)", "(3, 6, 7, 7)"]),
    (lambda: F.conv2d_input_grad(DY, W, (-2, 4, 9, 9)), ["(-2, 4, 9, 9)"]),
    (lambda: F.conv2d_weight_grad(DY, X, (5, 4, 3, 3)), ["(2, 6, 7, 7)", "(2, 5, 7, 7)"]),
    (lambda: F.conv2d_weight_grad(DY, X[:1], W.shape), ["(2, 6, 7, 7)", "(1, 6, 7, 7)"]),
    (
        lambda: F.conv_transpose2d_input_grad(f32(2, 6, 11, 12), TW, X.shape),
        ["12", "11 to 11"],
    ),
    (
        lambda: F.conv_transpose2d_input_grad(f32(2, 5, 11, 11), TW, X.shape),
        ["(2, 5, 11, 11)", "(2, 6, 11, 11)"],
    ),
    (
        lambda: F.conv_transpose2d_weight_grad(f32(2, 6, 18, 19), X, TW.shape, stride=2),
        ["18", "19 to 20"],
    ),
    (
        lambda: F.conv_transpose2d_weight_grad(f32(1, 6, 11, 11), X, TW.shape),
        ["(1, 6, 11, 11)", "(2, 6, 11, 11)"],
    ),
    (lambda: F.relu_backward(f32(3, 2), f32(2, 3)), ["(3, 2)", "(2, 3)"]),
    (lambda: F.max_pool2d_backward(f32(2, 4, 3, 2), PLACES, X.shape), ["(2, 4, 3, 2)"]),
    (lambda: F.max_pool2d_backward(f32(2, 4, 3, 3), PLACES, (2, 5, 9, 9)), ["(2, 4)", "(2, 5)"]),
    (lambda: F.avg_pool2d_backward(f32(2, 4, 3, 3), X.shape, 2), ["(2, 4, 3, 3)", "(2, 4, 4, 4)"]),
    (lambda: F.col2im(f32(2, 10, 9), 3, 3), ["10", "9", "(3, 3)"]),
    (lambda: F.col2im(f32(2, 36, 9), 9, 3), ["(2, 36, 9)", "(2, 36, 49)"]),
    (lambda: F.bias_grad(f32(2, 3, 4)), ["2 or 4 axes", "(2, 3, 4)"]),
    # linear
    (lambda: F.linear(LX, f32(3, 8)), ["7", "8"]),
    (lambda: F.linear(LX, LW, f32(4)), ["(4,)", "(3,)"]),
    (lambda: F.linear_input_grad(LDY, f32(4, 7)), ["3", "4"]),
    (lambda: F.linear_weight_grad(LDY, f32(6, 7)), ["5", "6"]),
    (lambda: F.linear_weight_grad(LDY, LX, add_to=f32(7, 3)), ["add_to", "(7, 3)", "(3, 7)"]),
    (lambda: F.linear_input_grad(LDY, LW, mask=f32(5, 3)), ["mask", "(5, 3)", "(5, 7)"]),
    (lambda: F.linear_backward(LDY, LX, f32(3, 8)), ["7", "8"]),
    (lambda: F.linear_backward(f32(4, 3), LX, LW), ["4", "5"]),
    # labels
    (lambda: F.cross_entropy(LDY, LABELS[:4]), ["(4,)", "(5, 3)"]),
    (lambda: F.cross_entropy(LDY, LABELS[:, None]), ["(5, 1)", "(5,)"]),
    (lambda: F.cross_entropy(f32(0, 3), LABELS[:0]), ["(0, 3)"]),
    (lambda: F.cross_entropy(LDY, LABELS, 1.5), ["label_smoothing", "1.5"]),
    (lambda: F.cross_entropy(LDY, LABELS, -0.1), ["label_smoothing", "-0.1"]),
    (lambda: F.cross_entropy(LDY, LABELS, float("nan")), ["label_smoothing", "nan"]),
    # optimizer steps
    (lambda: F.adam_step(B, f32(5), B, B, 1, 0.1, 0.9, 0.9, 0.1, 0.0), ["(5,)", "(6,)"]),
    (lambda: F.adam_step(B, B, B, f32(6, 1), 1, 0.1, 0.9, 0.9, 0.1, 0.0), ["(6, 1)", "(6,)"]),
    (lambda: F.adam_step(f32(6), B, f32(6), f32(6), 0, 0.1, 0.9, 0.9, 0.1, 0.0), ["step", "0"]),
    (lambda: F.sgd_step(B, f32(5), None, True, 0.1), ["(5,)", "(6,)"]),
    (lambda: F.sgd_step(f32(6), B, None, True, 0.1, 0.9), ["0.9", "None"]),
    (lambda: F.sgd_step(B, B, None, True, 0.1, nesterov=True), ["nesterov", "momentum 0.0"]),
    (lambda: F.sgd_step(B, B, f32(6), True, 0.1, 0.9, 0.5, 0.0, True), ["nesterov", "0.5"]),
]

# What no other device looks at: it would mean waiting; and what only NumPy's arrays can be.
CPU_VALUE_ERRORS: list[tuple[Callable[[], Any], list[Any]]] = [
    (lambda: F.max_pool2d_backward(f32(2, 4, 3, 3), PLACES + 81, X.shape), ["81 to 81", "hold 81"]),
    (lambda: F.max_pool2d_backward(f32(2, 4, 3, 3), PLACES - 1, X.shape), ["-1 to -1", "hold 81"]),
    (lambda: F.cross_entropy(LDY, LABELS + 1), ["target[2]", "3", "3 classes"]),
    (lambda: F.cross_entropy(LDY, LABELS - 1), ["target[0]", "-1", "3 classes"]),
    (lambda: F.cross_entropy(f32(5, 0), LABELS), ["target[0]", "0 classes"]),
    (
        lambda: F.sgd_step(np.broadcast_to(f32(1), 6), B, None, True, 0.1),
        ["param", "read-only"],
    ),
]

DOUBLE, WHOLE = X.astype(np.float64), X.astype(np.int32)

TYPE_ERRORS: list[tuple[Callable[[], Any], list[Any]]] = [
    (lambda: F.conv2d(DOUBLE, W), ["x", "weight", "float64", "float32"]),
    (lambda: F.conv2d(X, W, B.astype(float)), ["weight", "bias", "float32", "float64"]),
    (lambda: F.conv2d(WHOLE, W), ["x", "int32"]),
    (lambda: F.conv2d(X.astype(np.float16), W), ["x", "float16"]),
    (lambda: F.conv2d(X.astype(">f4"), W), ["x", ">f4"]),
    (lambda: F.conv2d(X.astype(complex), W), ["x", "complex128"]),
    (lambda: F.conv2d(X.tolist(), W), ["x", "list"]),
    (lambda: F.conv2d(X, None), ["weight", "NoneType"]),
    (lambda: F.conv2d(X, W, 1.0), ["bias", "float"]),
    (lambda: F.conv2d(X, W, stride=1.5), ["stride", "1.5"]),
    (lambda: F.conv2d(X, W, stride=None), ["stride", "None"]),
    (lambda: F.conv2d(X, W, groups=1.5), ["groups", "1.5"]),
    (lambda: F.conv_transpose2d(X, TW, output_padding="same"), ["output_padding", "same"]),
    (lambda: F.conv_transpose2d(DOUBLE, TW), ["x", "weight", "float64", "float32"]),
    (lambda: F.conv2d_input_grad(DY.astype(float), W, X.shape), ["grad_output", "weight"]),
    (lambda: F.conv2d_input_grad(DY, W, 9), ["input_shape", "9"]),
    (lambda: F.conv2d_input_grad(DY, W, (2, 4, 9.0, 9)), ["input_shape", "9.0"]),
    (lambda: F.conv2d_weight_grad(DY, DOUBLE, W.shape), ["grad_output", "x", "float64"]),
    (lambda: F.conv_transpose2d_input_grad(X, DOUBLE, X.shape), ["grad_output", "weight"]),
    (lambda: F.conv_transpose2d_weight_grad(X, DOUBLE, W.shape), ["grad_output", "x"]),
    (lambda: F.bias_grad(WHOLE), ["grad_output", "int32"]),
    (lambda: F.relu(WHOLE), ["x", "int32"]),
    (lambda: F.relu([1.0]), ["x", "list"]),
    (lambda: F.relu_backward(X, DOUBLE), ["grad_output", "output", "float32", "float64"]),
    (lambda: F.max_pool2d(WHOLE, 2), ["x", "int32"]),
    (lambda: F.max_pool2d(X, 2.0), ["kernel_size", "2.0"]),
    (lambda: F.max_pool2d_backward(f32(2, 4, 3, 3), PLACES.astype(np.int32), X.shape), ["int32"]),
    (lambda: F.max_pool2d_backward(f32(2, 4, 3, 3), [0], X.shape), ["indices", "list"]),
    (lambda: F.avg_pool2d(WHOLE, 2), ["x", "int32"]),
    (lambda: F.avg_pool2d_backward(WHOLE, X.shape, 1), ["grad_output", "int32"]),
    (lambda: F.im2col(WHOLE, 2), ["x", "int32"]),
    (lambda: F.col2im(f32(2, 36, 49).astype(int), 9, 3), ["columns", "int64"]),
    (lambda: F.linear(LX, LW.astype(float)), ["x", "weight", "float32", "float64"]),
    (lambda: F.linear(LX, LW, f32(3).astype(int)), ["bias", "int64"]),
    (
        lambda: F.linear_weight_grad(LDY, LX, add_to=LW.astype(float)),
        ["add_to", "float64"],
    ),
    (lambda: F.linear_backward(LDY, LX.astype(float), LW), ["grad_output", "x"]),
    (lambda: F.cross_entropy(LDY, LABELS.astype(np.int32)), ["target", "int32"]),
    (lambda: F.cross_entropy(LDY, LABELS.astype(float)), ["target", "float64"]),
    (lambda: F.cross_entropy(LDY, LABELS.tolist()), ["target", "list"]),
    (lambda: F.cross_entropy(LDY.astype(int), LABELS), ["logits", "int64"]),
    (lambda: F.cross_entropy(LDY, LABELS, "0.1"), ["label_smoothing", "0.1"]),
    (lambda: F.cross_entropy(LDY, LABELS, True), ["label_smoothing", "True"]),
    (lambda: F.adam_step(B, B.astype(float), B, B, 1, 0.1, 0.9, 0.9, 0.1, 0.0), ["grad"]),
    (lambda: F.adam_step(B, B, B, B, 1.5, 0.1, 0.9, 0.9, 0.1, 0.0), ["step", "1.5"]),
    (lambda: F.sgd_step(B, B, [0.0] * 6, True, 0.1, 0.9), ["momentum_buffer", "list"]),
]


def check(function: Callable[[], Any], error: type[Exception], named: list[str]) -> None:
    """Check the exception's type, and that each of `named` stands in it as a whole word."""
    with pytest.raises(error) as caught:
        function()
    assert type(caught.value) is error
    for text in named:
        pattern = r"(?<![\w.])" + re.escape(text) + r"(?![\w.]*\w)"
        assert re.search(pattern, str(caught.value)), f"{text!r} is not in {caught.value!s}"


@pytest.mark.parametrize(("function", "named"), VALUE_ERRORS)
def test_values_and_shapes_that_clash(function: Callable[[], Any], named: list[str]) -> None:
    check(function, ValueError, named)


@pytest.mark.parametrize(("function", "named"), CPU_VALUE_ERRORS)
def test_values_that_only_the_cpu_looks_at(function: Callable[[], Any], named: list[str]) -> None:
    check(function, ValueError, named)


@pytest.mark.parametrize(("function", "named"), TYPE_ERRORS)
def test_types_that_clash(function: Callable[[], Any], named: list[str]) -> None:
    check(function, TypeError, named)


def test_only_the_cpu_has_arrays_that_may_not_be_added_to() -> None:
    total = f32(3, 7)
    total.flags.writeable = False
    with pytest.raises(ValueError, match="add_to is read-only"):
        F.linear_weight_grad(LDY, LX, add_to=total)


def test_a_refused_step_changes_nothing() -> None:
    param, mean, square = f32(6), f32(6), f32(6)
    with pytest.raises(ValueError, match="exp_avg_sq"):
        F.adam_step(param, f32(6), mean, square[:5], 1, 0.1, 0.9, 0.9, 0.1, 0.0)
    with pytest.raises(ValueError, match="grad"):
        F.sgd_step(param, f32(5), mean, False, 0.1, 0.9)
    assert (param == 1).all() and (mean == 1).all() and (square == 1).all()
