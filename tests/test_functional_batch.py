"""Passes with images innermost, wherever they can be: the results, and where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import calls
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from support import ConvCase, conv_cases, transposed_cases
from test_functional_gemm import check_convolution, check_transposed_convolution

from deconv_core import geometry
from deconv_core.cpu import config
from deconv_core.cpu.batch import batchgradplan, batchplan
from deconv_core.cpu.batch.batchgradplan import BatchDotPlan, BatchGradPlan, batch_grad_plan
from deconv_core.cpu.batch.batchplan import BatchPlan, batch_plan
from deconv_core.cpu.conv import choose, choose_grad

pytestmark = pytest.mark.usefixtures("junk")
SETTINGS = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=[0, 1e9])
def batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run passes with images innermost wherever they can be, weight gradients in both ways."""
    monkeypatch.setattr(batchgradplan, "SUMMED_COST", request.param)
    calls.batch(True)
    yield
    calls.choose_as_usual()


POINTWISE = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
MANY_POSITIONS = ConvCase((1, 1, 10, 13), (1, 1, 1, 1), POINTWISE, False, ("plain",) * 3, 0)


@SETTINGS
@given(case=conv_cases(symmetric=True))
@example(case=MANY_POSITIONS)
def test_any_convolution(case: ConvCase, batches: None, dtype: type) -> None:
    shape = geometry.conv(case.x_shape, case.w_shape, **case.options)
    x, w, b, dy = case.arrays(dtype, shape.output_shape, shape.out_channels)
    for plan in batch_plan(shape, False, dy.itemsize), batch_grad_plan(shape, dy.itemsize):
        assert (plan is None) == (shape.batch == 0)
    check_convolution(x, w, b, dy, case.options, shape)


@SETTINGS
@given(case=transposed_cases())
def test_any_transposed_convolution(case: ConvCase, batches: None, dtype: type) -> None:
    check_transposed_convolution(case, dtype)


@pytest.mark.parametrize("chunk_bytes", [1 << 13, config.BATCH_CHUNK_BYTES])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((67, 40, 7, 6), (31, 40, 3, 3), {"stride": (2, 1), "padding": 1}),
        ((50, 24, 5, 9), (38, 12, 4, 3), {"stride": (1, 3), "padding": (3, 0), "groups": 2}),
        ((33, 6, 17, 20), (17, 6, 5, 5), {"padding": 2, "dilation": (3, 1)}),
    ],
)
def test_many_pictures(
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    chunk_bytes: int,
    batches: None,
    dtype: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several blocks, the last not full; channels in chunks."""
    monkeypatch.setattr(batchplan, "BATCH_CHUNK_BYTES", chunk_bytes)
    calls.choose_again()
    rng, shape = np.random.default_rng(0), geometry.conv(x_shape, w_shape, **options)
    sizes = x_shape, w_shape, w_shape[0], shape.output_shape
    x, w, b, dy = (rng.standard_normal(size).astype(dtype) for size in sizes)
    check_convolution(x, w, b, dy, options, shape)


@pytest.mark.skipif(config.FAMILY != "avx512", reason="tiles of other machines pay elsewhere")
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "passes"),
    [
        ((64, 64, 7, 7), (64, 32, 3, 3), (2, 1, 1), [True, True, True]),
        ((64, 512, 4, 4), (512, 256, 4, 4), (2, 1), [True, True, True]),
        ((64, 56, 10, 10), (56, 1, 9, 9), (2, 4, 1), [False, True, True]),
        ((8, 64, 7, 7), (64, 32, 3, 3), (2, 1, 1), [False, False, False]),
        ((64, 64, 28, 28), (64, 32, 3, 3), (2, 1, 1), [False, False, False]),
        ((64, 256, 8, 8), (256, 128, 5, 5), (2, 2, 1), [False, False, False]),  # by tiles
    ],
)
def test_many_small_pictures_have_images_innermost(
    x_shape: Any, w_shape: Any, options: tuple[int, ...], passes: list[bool]
) -> None:
    shape = geometry.conv_transpose(x_shape, w_shape, *options)
    chosen = [choose(shape, True, 4), choose(shape, False, 4), choose_grad(shape, 4)]
    assert [
        isinstance(plan, (BatchPlan, BatchGradPlan, BatchDotPlan)) for _, plan in chosen
    ] == passes


def test_source_channels_are_vectors_where_they_fill_them() -> None:
    wide = geometry.conv_transpose((64, 512, 4, 4), (512, 256, 4, 4), 2, 1)
    narrow = geometry.conv_transpose((64, 56, 10, 10), (56, 1, 9, 9), 2, 4, 1)
    assert isinstance(batch_grad_plan(wide, 4), BatchGradPlan)
    assert isinstance(batch_grad_plan(narrow, 4), BatchDotPlan)
