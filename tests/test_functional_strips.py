"""Depthwise convolutions that read rows where they lie: the results, and which they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support import call

from deconv_core import functional as F
from deconv_core import geometry
from deconv_core.cpu import config
from deconv_core.cpu.conv import choose
from deconv_core.cpu.depthwise.strips import run_strips

pytestmark = pytest.mark.usefixtures("junk")
SETTINGS = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HERE = pytest.mark.skipif(not config.MACHINE.masked, reason="loads are masked for free elsewhere")


@st.composite
def wide(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Draw the shapes and options of a depthwise convolution of tall and wide pictures."""
    kernel, stride, dilation, pad, size = (
        (draw(st.integers(*rows)), draw(st.integers(*columns)))
        for rows, columns in (
            ((1, 7), (1, 7)), ((1, 3), (1, 2)), ((1, 3), (1, 3)), ((0, 5), (0, 5)),
            ((4, 40), (1, 70)),
        )
    )  # fmt: skip
    for axis in range(2):
        assume(size[axis] + 2 * pad[axis] > dilation[axis] * (kernel[axis] - 1))
    channels, batch = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    options = {"stride": stride, "padding": pad, "dilation": dilation, "groups": channels}
    return (batch, channels, *size), (channels, 1, *kernel), options


@SETTINGS
@given(case=wide(), seed=st.integers(0, 1000))
def test_any_wide_picture_against_torch_in_float64(case: Any, seed: int, dtype: type) -> None:
    x_shape, w_shape, options = case
    rng = np.random.default_rng(seed)
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape, w_shape[0]))
    exact = [torch.from_numpy(a).double().requires_grad_() for a in (x, w, b)]
    result = torch.nn.functional.conv2d(*exact, **options)
    dy = rng.standard_normal(result.shape).astype(dtype)
    result.backward(torch.from_numpy(dy).double())
    ours = [
        call(F.conv2d, x, w, b, **options),
        call(F.conv2d_input_grad, dy, w, x_shape, **options),
    ]
    for got, want in zip(ours, (result, exact[0].grad), strict=True):
        want = want.detach().numpy()
        assert abs(got - want).max() <= 64 * np.finfo(dtype).eps * max(1, abs(want).max())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_picture_does_not_see_its_neighbours(dtype: type, stride: int) -> None:
    x, w = np.full((3, 4, 17, 33), np.nan, dtype), np.ones((4, 1, 3, 3), dtype)
    x[1, 2] = 1
    inside = F.conv2d(x, w, padding=1, groups=4, stride=stride)[1, 2]
    rows, columns = ([min(3, 2 + i, 1 + n - i) for i in range(0, n, stride)] for n in (17, 33))
    assert np.array_equal(inside, np.outer(rows, columns))


@HERE
@pytest.mark.parametrize("shape", [(80, 32, 64, 40), (2, 3, 800, 1040)])
def test_a_large_source_makes_the_result_that_its_parts_make(shape: tuple[int, ...]) -> None:
    """Results that go past the caches: by way of a panel, or row by row."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(shape, np.float32), rng.standard_normal((shape[1], 1, 3, 3), "f4")
    options = {"padding": 1, "groups": shape[1], "stride": (1, 2) if shape[2] == 64 else 1}
    whole = F.conv2d(x, w, **options)
    assert x.nbytes + whole.nbytes > config.CACHE_BYTES
    for i in (0, shape[0] - 1):
        assert np.array_equal(whole[i], F.conv2d(x[i : i + 1], w, **options)[0])


@HERE
@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((14, 16), {"padding": 1}, (True, True)),
        ((14, 14), {"padding": 1}, (False, False)),  # narrow
        ((6, 16), {"padding": 1}, (False, False)),  # and low
        ((7, 8), {"padding": 1, "stride": 2}, (True, False)),
        ((6, 8), {"padding": 1, "stride": 2}, (False, False)),
        ((30, 30), {"stride": (3, 2)}, (True, False)),
        ((30, 30), {"stride": (2, 3)}, (False, False)),
    ],
)
def test_which_passes_run_by_strips(
    size: Any, options: dict[str, Any], expected: tuple[bool, bool]
) -> None:
    shape = geometry.conv((2, 8, *size), (8, 1, 3, 3), **options, groups=8)
    assert tuple(choose(shape, way, 4)[0] is run_strips for way in (False, True)) == expected
