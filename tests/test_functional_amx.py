"""Passes by matrix registers, wherever they can be: the results, and where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import calls
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from support import ConvCase, conv_cases, transposed_cases
from test_functional_gemm import check_convolution, check_transposed_convolution

from deconv_core import functional as F
from deconv_core import geometry
from deconv_core.cpu import config
from deconv_core.cpu.amx import blend
from deconv_core.cpu.amx.amxpass import run_amx
from deconv_core.cpu.conv import choose

pytestmark = [
    pytest.mark.usefixtures("junk"),
    pytest.mark.skipif(not config.MATRIX, reason="this machine has no matrix registers"),
]
SETTINGS = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def registers() -> Iterator[None]:
    """Run every pass by matrix registers that can be."""
    calls.register(True)
    yield
    calls.choose_as_usual()


@SETTINGS
@given(case=conv_cases(symmetric=True))
def test_any_convolution(case: ConvCase, registers: None) -> None:
    shape = geometry.conv(case.x_shape, case.w_shape, **case.options)
    x, w, b, dy = case.arrays(np.float32, shape.output_shape, shape.out_channels)
    check_convolution(x, w, b, dy, case.options, shape)


@SETTINGS
@given(case=transposed_cases())
def test_any_transposed_convolution(case: ConvCase, registers: None) -> None:
    check_transposed_convolution(case, np.float32)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((2, 100, 9, 70), (50, 100, 5, 3), {"padding": 1}),  # depths and lanes that are not full
        ((1, 33, 20, 40), (65, 33, 5, 4), {"stride": (2, 3), "padding": 2}),
        ((3, 64, 7, 8), (34, 32, 1, 1), {"groups": 2}),
        ((1, 32, 1, 3000), (17, 32, 1, 9), {"dilation": (1, 2)}),  # blocks of columns
        ((40, 40, 3, 5), (48, 40, 3, 4), {"padding": 1}),  # of images
    ],
)
def test_blocks_and_tiles_that_are_not_full(
    x_shape: Any, w_shape: Any, options: dict[str, Any], registers: None
) -> None:
    shape = geometry.conv(x_shape, w_shape, **options)
    rng = np.random.default_rng(0)
    sizes = x_shape, w_shape, w_shape[0], shape.output_shape
    x, w, b, dy = (rng.standard_normal(size, np.float32) for size in sizes)
    assert choose(shape, False, 4)[0] is choose(shape, True, 4)[0] is run_amx
    check_convolution(x, w, b, dy, options, shape)


def test_numbers_are_the_sums_of_their_parts() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((2, 160), np.float32) * 10.0 ** rng.integers(-25, 30, (2, 160))
    numbers = numbers.astype(np.float32)
    x = numbers.reshape(1, 2, 1, 160)
    eye = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    calls.register(True)
    try:
        assert choose(geometry.conv(x.shape, eye.shape), False, 4)[0] is run_amx
        np.testing.assert_array_equal(F.conv2d(x, eye), x)
    finally:
        calls.choose_as_usual()
    parts = blend._parts(numbers)
    assert all((part.view(np.int32) & 0xFFFF == 0).all() for part in parts)
    np.testing.assert_array_equal(np.sum(parts, 0, np.float64), numbers)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "passes"),
    [
        ((16, 64, 27, 27), (192, 64, 5, 5), {"padding": 2}, [True, True]),
        ((16, 256, 14, 14), (1024, 256, 1, 1), {}, [True, True]),
        ((1, 256, 14, 14), (1024, 256, 1, 1), {}, [True, True]),
        ((1, 256, 104, 104), (512, 256, 2, 2), {"stride": 2}, [False, True]),
        ((8, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}, [False, False]),  # by Winograd's tiles
        ((1, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}, [False, False]),
        ((16, 64, 56, 56), (256, 64, 1, 1), {}, [False, True]),
        ((1, 64, 56, 56), (256, 64, 1, 1), {}, [False, False]),  # too few tasks
        ((1, 64, 63, 63), (128, 64, 3, 3), {"stride": 2, "padding": 1}, [False, False]),  # small
    ],
)
def test_long_sums_are_made_by_matrix_registers(
    x_shape: Any, w_shape: Any, options: dict[str, Any], passes: list[bool]
) -> None:
    shape = geometry.conv(x_shape, w_shape, **options)
    assert [choose(shape, adjoint, 4)[0] is run_amx for adjoint in (False, True)] == passes
    assert all(choose(shape, adjoint, 8)[0] is not run_amx for adjoint in (False, True))
