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
from deconv_core.cpu.gemmplan import gemm_grad_plan, gemm_plan

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


def check(ours: np.ndarray, function: Any, *arrays: Any, shape: geometry.ConvGeometry) -> None:
    """Compare with the reference in float64; the error is that of sums of their magnitudes."""
    arrays = tuple(exact(*arrays))
    magnitude = function(*[None if a is None else abs(a) for a in arrays], shape)
    truth = function(*arrays, shape)
    assert ours.shape == truth.shape
    if ours.size:
        assert abs(ours - truth).max() <= 24 * np.finfo(ours.dtype).eps * magnitude.max()


def exact(*arrays: Any) -> list[Any]:
    """Return the arrays in float64."""
    return [None if array is None else array.astype(np.float64) for array in arrays]


@SETTINGS
@given(case=conv_cases(symmetric=True))
def test_any_convolution(case: ConvCase, products: None, dtype: type) -> None:
    shape = geometry.conv(case.x_shape, case.w_shape, **case.options)
    x, w, b, dy = case.arrays(dtype, shape.output_shape, shape.out_channels)
    assert (gemm_plan(shape, False, dy.itemsize) is None) == (shape.batch == 0)
    y = call(F.conv2d, x, w, b, **case.options)
    check(y, reference.conv_forward, x, w, b, shape=shape)
    dx = call(F.conv2d_input_grad, dy, w, x.shape, **case.options)
    check(dx, reference.conv_input_grad, dy, w, None, shape=shape)
    dw = call(F.conv2d_weight_grad, dy, x, w.shape, **case.options)
    check(dw, reference.conv_weight_grad, x, dy, shape=shape)


@SETTINGS
@given(case=transposed_cases())
def test_any_transposed_convolution(case: ConvCase, products: None, dtype: type) -> None:
    shape = geometry.conv_transpose(case.x_shape, case.w_shape, **case.options)
    x, w, b, dy = case.arrays(dtype, shape.input_shape, shape.in_channels)
    y = call(F.conv_transpose2d, x, w, b, **case.options)
    check(y, reference.conv_input_grad, x, w, b, shape=shape)
    options = case.without("output_padding")
    dx = call(F.conv_transpose2d_input_grad, dy, w, x.shape, **options)
    check(dx, reference.conv_forward, dy, w, None, shape=shape)
    dw = call(F.conv_transpose2d_weight_grad, dy, x, w.shape, **options)
    check(dw, reference.conv_weight_grad, dy, x, shape=shape)


@pytest.mark.skipif(config.FAMILY != "avx512", reason="tiles of other machines pay elsewhere")
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "passes"),
    [
        ((1, 512, 14, 14), (512, 512, 3, 3), {"padding": 1}, [True, True, True]),
        ((64, 256, 8, 8), (512, 256, 4, 4), {"stride": 2, "padding": 1}, [True, True, True]),
        ((64, 64, 16, 16), (128, 64, 4, 4), {"stride": 2, "padding": 1}, [False, False, True]),
        ((1, 512, 4, 4), (1024, 512, 4, 4), {"stride": 2, "padding": 1}, [True, True, True]),
        ((16, 64, 32, 32), (128, 64, 3, 3), {"padding": 1}, [False, False, False]),
        ((1, 21, 544, 544), (21, 21, 64, 64), {"stride": 32}, [False, False, False]),
        ((1, 8, 8, 8), (8, 8, 3, 3), {"padding": 1}, [False, False, False]),
    ],
)
def test_small_pictures_with_many_channels_are_products(
    x_shape: Any, w_shape: Any, options: dict[str, Any], passes: list[bool]
) -> None:
    shape = geometry.conv(x_shape, w_shape, **options)
    plans = gemm_plan(shape, False, 4), gemm_plan(shape, True, 4), gemm_grad_plan(shape, 4)
    assert [plan is not None for plan in plans] == passes
