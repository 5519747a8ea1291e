"""conv2d and its gradients: worked by hand, beside PyTorch, and by finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch.nn.functional as torch_F
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ConvCase, assert_close, call, conv_cases

from deconv_core import functional as F
from deconv_core import geometry
from deconv_core.cpu.positions.plan import dot_plan, spread_plan

pytestmark = pytest.mark.usefixtures("junk")

PICTURE = np.arange(1.0, 10).reshape(1, 1, 3, 3)
TAPS = np.array([[[[1.0, 10], [100, 1000]]]])  # each decimal digit shows what one tap read


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[5421, 6532], [8754, 9865]]),
        ({"stride": 2, "padding": 1}, [[1000, 3200], [7040, 9865]]),
        ({"dilation": 2}, [[9731]]),
        ({"dilation": (1, 2)}, [[6431], [9764]]),
        ({"padding": "same"}, [[5421, 6532, 603], [8754, 9865, 906], [87, 98, 9]]),
        ({"padding": "valid", "stride": (1, 2)}, [[5421], [8754]]),
        ({"padding": (0, 2), "stride": (2, 4)}, [[0, 603]]),
    ],
)
def test_cross_correlation_by_hand(options: dict[str, Any], expected: Any, dtype: type) -> None:
    y = call(F.conv2d, PICTURE.astype(dtype), TAPS.astype(dtype), **options)
    assert y[0, 0].tolist() == expected


def test_groups_and_bias_by_hand(dtype: type) -> None:
    x = np.array([1, 2, 3, 4], dtype).reshape(1, 4, 1, 1)
    w = np.array([[1, 10], [2, 20], [100, 1000], [200, 2000]], dtype).reshape(4, 2, 1, 1)
    y = call(F.conv2d, x, w, np.array([0.5, 0, 0, -0.5], dtype), groups=2)
    assert y.ravel().tolist() == [21.5, 42, 4300, 8599.5]


def test_depthwise_with_a_multiplier_by_hand(dtype: type) -> None:
    x = np.array([1, 2], dtype).reshape(1, 2, 1, 1)
    w = np.array([1, 10, 100, 1000], dtype).reshape(4, 1, 1, 1)
    assert call(F.conv2d, x, w, groups=2).ravel().tolist() == [1, 10, 200, 2000]


def test_gradients_by_hand(dtype: type) -> None:
    dy = np.array([[1, 2], [3, 4]], dtype).reshape(1, 1, 2, 2)
    dx = call(F.conv2d_input_grad, dy, TAPS.astype(dtype), (1, 1, 3, 3))
    assert dx[0, 0].tolist() == [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]
    dw = call(F.conv2d_weight_grad, dy, PICTURE.astype(dtype), (1, 1, 2, 2))
    assert dw[0, 0].tolist() == [[37, 47], [67, 77]]


def check_against_pytorch(case: ConvCase, dtype: Any) -> None:
    """Compare the forward pass and all gradients of one case."""
    x, w, b, dy = case.arrays(dtype, conv_shape(case), case.w_shape[0])
    y = call(F.conv2d, x, w, b, **case.options)
    arrays = [y]
    arrays.append(call(F.conv2d_input_grad, dy, w, x.shape, **case.options))
    arrays.append(call(F.conv2d_weight_grad, dy, x, w.shape, **case.options))
    if b is not None:
        arrays.append(call(F.bias_grad, dy))
    results = [
        [
            oracle.run(torch_F.conv2d, (x_, w_, b_), kind, **case.options),
            *oracle.grads(torch_F.conv2d, (x_, w_, b_), dy_, kind, **case.options),
        ]
        for x_, w_, b_, dy_, kind in (
            (x, w, b, dy, np.float64),
            (x, w, b, dy, dtype),
            (abs(x), abs(w), None if b is None else abs(b), abs(dy), np.float64),
        )
    ]
    for ours, truth, theirs, magnitude in zip(arrays, *results, strict=True):
        assert_close(ours, truth, theirs, magnitude)


def conv_shape(case: ConvCase) -> tuple[int, ...]:
    """Return the shape that PyTorch gives to the output."""
    x, w = np.empty(case.x_shape, np.float32), np.empty(case.w_shape, np.float32)
    with oracle.quiet():
        y = torch_F.conv2d(oracle.tensor(x).to("meta"), oracle.tensor(w).to("meta"), **case.options)
    return tuple(y.shape)


@given(case=conv_cases())
def test_forward_and_gradients_against_pytorch_float32(case: ConvCase) -> None:
    check_against_pytorch(case, np.float32)


@given(case=conv_cases())
def test_forward_and_gradients_against_pytorch_float64(case: ConvCase) -> None:
    check_against_pytorch(case, np.float64)


@pytest.mark.slow
@settings(max_examples=1500)
@given(case=conv_cases(), dtype=st.sampled_from([np.float32, np.float64]))
def test_many_more_against_pytorch(case: ConvCase, dtype: Any) -> None:
    check_against_pytorch(case, dtype)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((2, 3, 32, 32), (32, 3, 3, 3), {"padding": 1}),
        ((2, 32, 32, 32), (64, 32, 3, 3), {"padding": 1}),
        ((1, 64, 17, 35), (65, 64, 3, 3), {"padding": 1, "stride": 2}),
        ((1, 130, 6, 5), (3, 130, 1, 1), {}),
        ((1, 3, 70, 150), (5, 3, 7, 7), {"stride": 2, "padding": 3}),
        ((1, 1, 3, 400), (1, 1, 1, 65), {"padding": (0, 100)}),
        ((2, 96, 9, 9), (96, 1, 5, 5), {"groups": 96, "padding": "same"}),
        ((40, 2, 5, 5), (2, 2, 3, 3), {}),
        ((1, 34, 120, 130), (26, 17, 18, 16), {"stride": 16, "padding": (3, 1), "groups": 2}),
        ((3, 30, 80, 66), (25, 30, 16, 17), {"stride": 16}),
    ],
)
def test_larger_shapes_against_pytorch(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], options: dict[str, Any], dtype: type
) -> None:
    check_against_pytorch(ConvCase(x_shape, w_shape, options, True, ("plain",) * 3, 0), dtype)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((3, 3, 21, 125), (32, 3, 3, 3), {"padding": 1}),  # rows that end within a vector
        ((33, 4, 4, 64), (24, 4, 5, 5), {"padding": 2}),  # several pictures, sums of sums
        ((1, 2, 3, 9001), (13, 2, 1, 10), {}),  # rows in several blocks
    ],
)
def test_rows_straight_into_the_result(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], options: dict[str, Any], dtype: type
) -> None:
    shape = geometry.conv(x_shape, w_shape, **options)
    assert spread_plan(shape, False, np.dtype(dtype).itemsize).numbers["straight"][0]
    check_against_pytorch(ConvCase(x_shape, w_shape, options, True, ("plain",) * 3, 0), dtype)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((3, 2, 21, 128), (13, 2, 5, 5), {"padding": 2}),  # a last block of fewer rows
        ((2, 4, 70, 66), (10, 2, 4, 4), {"stride": 2, "padding": (1, 0), "groups": 2}),
        ((1, 2, 9, 4800), (7, 2, 3, 3), {"padding": 1}),  # rows in several blocks
    ],
)
def test_a_weight_gradient_of_rows_as_they_lie(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], options: dict[str, Any], dtype: type
) -> None:
    shape = geometry.conv(x_shape, w_shape, **options)
    assert dot_plan(shape, np.dtype(dtype).itemsize).numbers["rowwise"][0]
    check_against_pytorch(ConvCase(x_shape, w_shape, options, True, ("plain",) * 3, 0), dtype)


@given(case=conv_cases(symmetric=True))
def test_adjoint_identity(case: ConvCase) -> None:
    """<conv(x), y> == <x, conv_transpose(y)>, and both against the weight's gradient."""
    x, w, _, y = case.arrays(np.float64, conv_shape(case), case.w_shape[0])
    forward = F.conv2d(x, w, **case.options)
    rows_and_cols = geometry.conv(x.shape, w.shape, **case.options)
    leftover = [(a.padded - a.extent) % a.stride for a in (rows_and_cols.rows, rows_and_cols.cols)]
    back = F.conv_transpose2d(y, w, output_padding=leftover, **case.options)
    dw = F.conv2d_weight_grad(y, x, w.shape, **case.options)
    inner = np.vdot(forward, y)
    tolerance = 1e-14 * np.vdot(F.conv2d(abs(x), abs(w), **case.options), abs(y))
    assert back.shape == x.shape
    assert abs(np.vdot(x, back) - inner) <= tolerance
    assert abs(np.vdot(w, dw) - inner) <= tolerance


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": (2, 3), "padding": (1, 0)}, {"dilation": 2, "padding": "same"}, {"groups": 2}],
)
def test_gradients_by_finite_differences(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    groups = options.get("groups", 1)
    x, w = rng.standard_normal((2, 4, 8, 9)), rng.standard_normal((6, 4 // groups, 3, 2))
    dy = rng.standard_normal(F.conv2d(x, w, **options).shape)
    u, v = rng.standard_normal(x.shape), rng.standard_normal(w.shape)

    def loss(h: float) -> float:
        return float(np.vdot(F.conv2d(x + h * u, w + h * v, **options), dy))

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    dx = F.conv2d_input_grad(dy, w, x.shape, **options)
    dw = F.conv2d_weight_grad(dy, x, w.shape, **options)
    assert np.vdot(dx, u) + np.vdot(dw, v) == pytest.approx(slope, rel=1e-7, abs=1e-6)


def test_channels_of_very_many_phases_are_packed_in_chunks(dtype: type) -> None:
    for x_shape, w_shape, groups in (
        ((1, 34, 120, 130), (26, 17, 18, 16), 2),
        ((3, 30, 80, 66), (25, 30, 16, 17), 1),
    ):
        shape = geometry.conv(x_shape, w_shape, 16, groups=groups)
        numbers = spread_plan(shape, False, np.dtype(dtype).itemsize).numbers[0]
        assert 1 < numbers["chunk"] < numbers["source_channels"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_image(bad: float, dtype: type) -> None:
    x, w = np.ones((3, 4, 9, 9), dtype), np.ones((5, 4, 3, 3), dtype)
    x[1, 2, 4, 4] = bad
    y = F.conv2d(x, w, padding=1)
    assert not np.isfinite(y[1, :, 3:6, 3:6]).any()
    assert (y[0] == F.conv2d(np.ones_like(x), w, padding=1)[0]).all() and (y[2] == y[0]).all()
