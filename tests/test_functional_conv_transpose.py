"""conv_transpose2d and its gradients: worked by hand, beside PyTorch, by finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch.nn.functional as torch_F
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ConvCase, assert_close, call, transposed_cases

from deconv_core import functional as F
from deconv_core import geometry
from deconv_core.cpu.config import MACHINE
from deconv_core.cpu.positions.plan import spread_plan

pytestmark = pytest.mark.usefixtures("junk")

PICTURE = np.array([[[[1.0, 2], [3, 4]]]])
TAPS = np.array([[[[1.0, 10], [100, 1000]]]])  # each decimal digit shows what one tap wrote

STRIDE_2 = [[1, 10, 2, 20], [100, 1000, 200, 2000], [3, 30, 4, 40], [300, 3000, 400, 4000]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]),
        ({"padding": 1}, [[1234]]),
        ({"stride": 2}, STRIDE_2),
        ({"stride": 2, "output_padding": 1}, [[*row, 0] for row in STRIDE_2] + [[0] * 5]),
        ({"stride": 2, "padding": 1}, [[1000, 200], [30, 4]]),
        (
            {"stride": 2, "padding": 1, "output_padding": 1},
            [[1000, 200, 2000], [30, 4, 40], [3000, 400, 4000]],
        ),
        ({"stride": (1, 2), "padding": (1, 0)}, [[103, 1030, 204, 2040]]),
        ({"dilation": 2, "padding": (1, 0)}, [[3, 4, 30, 40], [100, 200, 1000, 2000]]),
        (
            {"stride": 2, "dilation": 2, "padding": (1, 0), "output_padding": (1, 0)},
            [[0] * 5, [103, 0, 204 + 1030, 0, 2040], [0] * 5, [300, 0, 3400, 0, 4000]],
        ),
    ],
)
def test_by_hand(options: dict[str, Any], expected: Any, dtype: type) -> None:
    y = call(F.conv_transpose2d, PICTURE.astype(dtype), TAPS.astype(dtype), **options)
    assert y[0, 0].tolist() == expected


def test_groups_and_bias_by_hand(dtype: type) -> None:
    x = np.array([1, 2], dtype).reshape(1, 2, 1, 1)
    w = np.array([1, 10, 100, 1000], dtype).reshape(2, 1, 1, 2)
    y = call(F.conv_transpose2d, x, w, np.array([0.5, -0.5], dtype), groups=2)
    assert y.tolist() == [[[[1.5, 10.5]], [[199.5, 1999.5]]]]
    y = call(F.conv_transpose2d, x, w, np.array([0.5], dtype))
    assert y.tolist() == [[[[201.5, 2010.5]]]]


def test_bias_is_in_elements_that_no_tap_writes(dtype: type) -> None:
    x, w = np.ones((1, 1, 2, 2), dtype), np.ones((1, 1, 1, 1), dtype)
    y = call(F.conv_transpose2d, x, w, np.array([0.5], dtype), stride=2, output_padding=1)
    assert y[0, 0].tolist() == [[1.5, 0.5, 1.5, 0.5], [0.5] * 4] * 2


def test_gradients_by_hand(dtype: type) -> None:
    dy = np.arange(1.0, 10, dtype=dtype).reshape(1, 1, 3, 3)
    dx = call(F.conv_transpose2d_input_grad, dy, TAPS.astype(dtype), (1, 1, 2, 2))
    assert dx[0, 0].tolist() == [[5421, 6532], [8754, 9865]]
    dw = call(F.conv_transpose2d_weight_grad, dy, PICTURE.astype(dtype), (1, 1, 2, 2))
    assert dw[0, 0].tolist() == [[37, 47], [67, 77]]


def check_against_pytorch(case: ConvCase, dtype: Any) -> None:
    """Compare the forward pass and all gradients of one case."""
    x, w, b, dy = case.arrays(dtype, output_shape(case), case.w_shape[1] * case.options["groups"])
    options = case.without("output_padding")
    arrays = [
        call(F.conv_transpose2d, x, w, b, **case.options),
        call(F.conv_transpose2d_input_grad, dy, w, x.shape, **options),
        call(F.conv_transpose2d_weight_grad, dy, x, w.shape, **options),
    ]
    if b is not None:
        arrays.append(call(F.bias_grad, dy))
    results = [
        [
            oracle.run(torch_F.conv_transpose2d, (x_, w_, b_), kind, **case.options),
            *oracle.grads(torch_F.conv_transpose2d, (x_, w_, b_), dy_, kind, **case.options),
        ]
        for x_, w_, b_, dy_, kind in (
            (x, w, b, dy, np.float64),
            (x, w, b, dy, dtype),
            (abs(x), abs(w), None if b is None else abs(b), abs(dy), np.float64),
        )
    ]
    for ours, truth, theirs, magnitude in zip(arrays, *results, strict=True):
        assert_close(ours, truth, theirs, magnitude)


def output_shape(case: ConvCase) -> tuple[int, ...]:
    """Return the shape that PyTorch gives to the output."""
    x, w = np.empty(case.x_shape, np.float32), np.empty(case.w_shape, np.float32)
    meta = oracle.tensor(x).to("meta"), oracle.tensor(w).to("meta")
    return tuple(torch_F.conv_transpose2d(*meta, **case.options).shape)


@given(case=transposed_cases())
def test_forward_and_gradients_against_pytorch_float32(case: ConvCase) -> None:
    check_against_pytorch(case, np.float32)


@given(case=transposed_cases())
def test_forward_and_gradients_against_pytorch_float64(case: ConvCase) -> None:
    check_against_pytorch(case, np.float64)


@pytest.mark.slow
@settings(max_examples=1500)
@given(case=transposed_cases(), dtype=st.sampled_from([np.float32, np.float64]))
def test_many_more_against_pytorch(case: ConvCase, dtype: Any) -> None:
    check_against_pytorch(case, dtype)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((2, 128, 9, 9), (128, 64, 3, 3), {"stride": 2, "padding": 1}),
        ((2, 64, 15, 15), (64, 32, 3, 3), {"stride": 2, "padding": 1}),
        ((2, 32, 31, 33), (32, 3, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
        ((1, 33, 12, 7), (33, 65, 4, 4), {"stride": 2, "padding": 1}),
        ((1, 3, 5, 90), (3, 2, 5, 9), {"stride": (3, 4), "dilation": (2, 1)}),
        ((40, 2, 5, 5), (2, 2, 3, 3), {"padding": 1}),
        ((17, 16, 1, 32), (16, 24, 1, 16), {"stride": (1, 8), "padding": (0, 4)}),  # by images
        ((1, 16, 32, 96), (16, 24, 5, 5), {"stride": 3, "padding": 2}),  # row by row
        ((1, 16, 28, 20), (16, 24, 2, 2), {"stride": 2}),  # blocks of 8, 8, 8 and 4 rows
    ],
)
def test_larger_shapes_against_pytorch(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], options: dict[str, Any], dtype: type
) -> None:
    options = {"groups": 1, **options}
    check_against_pytorch(ConvCase(x_shape, w_shape, options, True, ("plain",) * 3, 0), dtype)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "joint"),
    [
        ((2, 56, 20, 19), (56, 1, 9, 9), {"stride": 2, "padding": 4, "output_padding": 1}, 4),
        ((1, 30, 21, 8), (30, 1, 9, 9), {"stride": 3, "padding": 4}, 3),
        ((3, 12, 5, 40), (12, 1, 9, 9), {"stride": 4, "padding": 4, "output_padding": 3}, 4),
        ((2, 64, 32, 32), (64, 3, 4, 4), {"stride": 2, "padding": 1}, 4),
        ((2, 20, 11, 13), (20, 2, 4, 4), {"stride": 2, "padding": 1, "groups": 2}, 2),
        ((1, 9, 1, 50), (9, 1, 1, 16), {"stride": (1, 8), "padding": (0, 4)}, 8),
        ((2, 8, 6, 7), (8, 1, 5, 7), {"stride": (3, 2), "dilation": (2, 1), "padding": 2}, 2),
    ],
)
def test_joint_phases_against_pytorch(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    options: dict[str, Any],
    joint: int,
    dtype: type,
) -> None:
    options = {"groups": 1, **options}
    shape = geometry.conv_transpose(x_shape, w_shape, **options)
    found = spread_plan(shape, True, np.dtype(dtype).itemsize).numbers["joint"][0]
    assert found == joint or MACHINE.vector_bytes < 64
    check_against_pytorch(ConvCase(x_shape, w_shape, options, True, ("plain",) * 3, 0), dtype)


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}, {"dilation": 2, "groups": 2}],
)
def test_gradients_by_finite_differences(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 4, 5, 6)), rng.standard_normal((4, 3, 3, 2))
    dy = rng.standard_normal(F.conv_transpose2d(x, w, **options).shape)
    u, v = rng.standard_normal(x.shape), rng.standard_normal(w.shape)

    def loss(h: float) -> float:
        return float(np.vdot(F.conv_transpose2d(x + h * u, w + h * v, **options), dy))

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    options = {name: value for name, value in options.items() if name != "output_padding"}
    dx = F.conv_transpose2d_input_grad(dy, w, x.shape, **options)
    dw = F.conv_transpose2d_weight_grad(dy, x, w.shape, **options)
    assert np.vdot(dx, u) + np.vdot(dw, v) == pytest.approx(slope, rel=1e-7, abs=1e-6)
