"""Convolutions as products of matrices, wherever they can be: the results, and where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import calls
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from support import ConvCase, call, conv_cases, transposed_cases

from deconv_core import functional as F
from deconv_core import geometry, reference
from deconv_core.cpu import config
from deconv_core.cpu.conv import choose, choose_grad
from deconv_core.cpu.matrices.gemm import run_gemm
from deconv_core.cpu.matrices.gemmgrad import run_gemm_grad
from deconv_core.cpu.matrices.gemmplan import gemm_plan
from deconv_core.cpu.matrices.matrix import is_matrix
from deconv_core.cpu.matrices.widegrad import run_wide_grad
from deconv_core.cpu.matrices.wideplan import wide_plan

pytestmark = pytest.mark.usefixtures("junk")
SETTINGS = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def products() -> Iterator[None]:
    """Run passes as products of matrices wherever they can be."""
    calls.multiply(True)
    yield
    calls.choose_as_usual()


@pytest.fixture
def along_rows() -> Iterator[None]:
    """Run weight gradients along the kernel's rows wherever they can be."""
    calls.widen(True)
    yield
    calls.choose_as_usual()


def check(ours: np.ndarray, function: Any, *arrays: Any, shape: geometry.ConvGeometry) -> None:
    """Compare with the reference in float64; the error is that of sums of their magnitudes."""
    arrays = tuple(exact(*arrays))
    magnitude = function(*[None if a is None else abs(a) for a in arrays], shape)
    truth = function(*arrays, shape)
    assert ours.shape == truth.shape
    if ours.size:
        assert abs(ours - truth).max() <= 24 * np.finfo(ours.dtype).eps * magnitude.max()


def check_convolution(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    dy: np.ndarray,
    options: dict[str, Any],
    shape: geometry.ConvGeometry,
) -> None:
    """Compare the three passes of a convolution with the reference."""
    y = call(F.conv2d, x, w, b, **options)
    check(y, reference.conv_forward, x, w, b, shape=shape)
    dx = call(F.conv2d_input_grad, dy, w, x.shape, **options)
    check(dx, reference.conv_input_grad, dy, w, None, shape=shape)
    dw = call(F.conv2d_weight_grad, dy, x, w.shape, **options)
    check(dw, reference.conv_weight_grad, x, dy, shape=shape)


def check_transposed_convolution(case: ConvCase, dtype: type) -> None:
    """Compare the three passes of a transposed convolution with the reference."""
    shape = geometry.conv_transpose(case.x_shape, case.w_shape, **case.options)
    x, w, b, dy = case.arrays(dtype, shape.input_shape, shape.in_channels)
    y = call(F.conv_transpose2d, x, w, b, **case.options)
    check(y, reference.conv_input_grad, x, w, b, shape=shape)
    options = case.without("output_padding")
    dx = call(F.conv_transpose2d_input_grad, dy, w, x.shape, **options)
    check(dx, reference.conv_forward, dy, w, None, shape=shape)
    dw = call(F.conv_transpose2d_weight_grad, dy, x, w.shape, **options)
    check(dw, reference.conv_weight_grad, dy, x, shape=shape)


def exact(*arrays: Any) -> list[Any]:
    """Return the arrays in float64."""
    return [None if array is None else array.astype(np.float64) for array in arrays]


@SETTINGS
@given(case=conv_cases(symmetric=True))
def test_any_convolution(case: ConvCase, products: None, dtype: type) -> None:
    shape = geometry.conv(case.x_shape, case.w_shape, **case.options)
    x, w, b, dy = case.arrays(dtype, shape.output_shape, shape.out_channels)
    assert (gemm_plan(shape, False, dy.itemsize) is None) == (shape.batch == 0)
    check_convolution(x, w, b, dy, case.options, shape)


@SETTINGS
@given(case=transposed_cases())
def test_any_transposed_convolution(case: ConvCase, products: None, dtype: type) -> None:
    check_transposed_convolution(case, dtype)


@SETTINGS
@given(case=conv_cases(symmetric=True))
def test_any_weight_gradient_along_rows(case: ConvCase, along_rows: None, dtype: type) -> None:
    shape = geometry.conv(case.x_shape, case.w_shape, **case.options)
    x, dy = (case.arrays(dtype, shape.output_shape, shape.out_channels)[i] for i in (0, 3))
    dilated = shape.cols.dilation > 1 and shape.cols.kernel > 1
    assert (wide_plan(shape, dy.itemsize) is None) == (dilated or shape.batch == 0)
    dw = call(F.conv2d_weight_grad, dy, x, case.w_shape, **case.options)
    check(dw, reference.conv_weight_grad, x, dy, shape=shape)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((2, 3, 70, 150), (13, 3, 20, 33), {"stride": (8, 16), "padding": (3, 5)}),
        ((1, 2, 9, 300), (25, 2, 3, 70), {"stride": (2, 9), "dilation": (2, 1), "padding": 4}),
        ((3, 4, 12, 64), (6, 2, 3, 16), {"stride": (1, 5), "groups": 2}),
    ],
)
def test_larger_weight_gradients_along_rows(
    x_shape: Any, w_shape: Any, options: dict[str, Any], along_rows: None, dtype: type
) -> None:
    rng, shape = np.random.default_rng(0), geometry.conv(x_shape, w_shape, **options)
    x = rng.standard_normal(x_shape).astype(dtype)
    dy = rng.standard_normal(shape.output_shape).astype(dtype)
    assert wide_plan(shape, dy.itemsize) is not None
    dw = call(F.conv2d_weight_grad, dy, x, w_shape, **options)
    check(dw, reference.conv_weight_grad, x, dy, shape=shape)


@pytest.mark.skipif(config.FAMILY != "avx512", reason="tiles of other machines pay elsewhere")
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "passes"),
    [
        ((1, 512, 8, 8), (1024, 512, 4, 4), {"stride": 2, "padding": 1}, [True, True, True]),
        ((1, 256, 16, 16), (1024, 256, 4, 4), {"stride": 2, "padding": 1}, [True, False, True]),
        ((1, 512, 8, 8), (512, 512, 3, 3), {"padding": 1}, [True, True, True]),
        ((1, 512, 14, 14), (512, 512, 1, 1), {}, [False, False, True]),
        ((1, 256, 32, 32), (1024, 256, 4, 4), {"stride": 2, "padding": 1}, [False, False, False]),
        ((1, 512, 14, 14), (512, 512, 3, 3), {"padding": 1}, [False, False, False]),  # by tiles
        ((64, 256, 8, 8), (512, 256, 4, 4), {"stride": 2, "padding": 1}, [False, False, False]),
        ((64, 64, 16, 16), (128, 64, 4, 4), {"stride": 2, "padding": 1}, [False, False, False]),
        ((1, 512, 4, 4), (1024, 512, 4, 4), {"stride": 2, "padding": 1}, [False, False, False]),
        ((16, 64, 32, 32), (128, 64, 3, 3), {"padding": 1}, [False, False, False]),
        ((1, 21, 544, 544), (21, 21, 64, 64), {"stride": 32}, [False, False, False]),
        ((1, 8, 8, 8), (8, 8, 3, 3), {"padding": 1}, [False, False, False]),
    ],
)
def test_small_pictures_with_many_channels_are_products(
    x_shape: Any, w_shape: Any, options: dict[str, Any], passes: list[bool]
) -> None:
    shape = geometry.conv(x_shape, w_shape, **options)
    chosen = [choose(shape, False, 4), choose(shape, True, 4), choose_grad(shape, 4)]
    assert [run in (run_gemm, run_gemm_grad) for run, _ in chosen] == passes


@pytest.mark.skipif(config.FAMILY != "avx512", reason="tiles of other machines pay elsewhere")
def test_wide_kernels_of_few_channels_run_along_their_rows() -> None:
    for size, kernel, stride in ((544, 64, 32), (568, 16, 8)):
        shape = geometry.conv((1, 21, size, size), (21, 21, kernel, kernel), stride=stride)
        assert choose_grad(shape, 4)[0] is run_wide_grad
    shape = geometry.conv((1, 56, 128, 128), (1, 56, 9, 9), padding=4)
    assert choose_grad(shape, 4)[0] is not run_wide_grad


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((1, 96, 4, 4), (128, 96, 4, 4), {"stride": 2, "padding": 1}),
        ((3, 40, 5, 9), (100, 40, 3, 4), {"stride": (3, 4), "padding": (1, 0), "dilation": (2, 1)}),
        ((12, 60, 1, 7), (40, 60, 1, 7), {}),
    ],
)
def test_few_results_are_products_of_their_windows(
    x_shape: Any, w_shape: Any, options: dict[str, Any], dtype: type
) -> None:
    rng, shape = np.random.default_rng(0), geometry.conv(x_shape, w_shape, **options)
    assert is_matrix(shape)
    x, w, b, dy = (
        rng.standard_normal(size).astype(dtype)
        for size in (x_shape, w_shape, w_shape[0], shape.output_shape)
    )
    check_convolution(x, w, b, dy, options, shape)
    transposed = geometry.conv_transpose(dy.shape, w_shape, **options)
    b = rng.standard_normal(transposed.in_channels).astype(dtype)
    y = call(F.conv_transpose2d, dy, w, b, **options)
    expected = reference.conv_input_grad(*exact(dy, w), None, transposed) + b[:, None, None]
    np.testing.assert_allclose(y, expected, atol=1e-3 if dtype == np.float32 else 1e-11)
