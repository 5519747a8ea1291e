"""Depthwise convolutions of pictures narrower than a vector: the results, and which they are."""

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
from deconv_core.cpu.conv import choose, choose_grad
from deconv_core.cpu.depthwise.planes import run_planes, run_planes_grad

pytestmark = pytest.mark.usefixtures("junk")
SETTINGS = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HERE = pytest.mark.skipif(not config.MACHINE.masked, reason="loads are masked for free elsewhere")


@st.composite
def narrow(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Draw the shapes and options of a depthwise convolution that keeps the width."""
    kernel = draw(st.integers(1, 7)), draw(st.sampled_from([1, 3, 5, 7]))
    dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size, pad = draw(st.integers(1, 18)), draw(st.integers(0, 8))
    assume(size + 2 * pad > dilation[0] * (kernel[0] - 1))
    channels, batch = draw(st.sampled_from([2, 3, 19, 40])), draw(st.integers(1, 5))
    padding = pad, dilation[1] * (kernel[1] - 1) // 2
    options: dict[str, Any] = {"padding": padding, "dilation": dilation, "groups": channels}
    return (batch, channels, size, draw(st.integers(1, 17))), (channels, 1, *kernel), options


@SETTINGS
@given(case=narrow(), seed=st.integers(0, 1000))
def test_any_narrow_picture_against_torch_in_float64(case: Any, seed: int, dtype: type) -> None:
    x_shape, w_shape, options = case
    rng = np.random.default_rng(seed)
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in (x_shape, w_shape, w_shape[0]))
    exact = [torch.from_numpy(a).double().requires_grad_() for a in (x, w, b)]
    result = torch.nn.functional.conv2d(*exact, **options)
    if config.MACHINE.masked and x.shape[3] < config.MACHINE.vector_bytes // x.itemsize:
        assert (
            choose(geometry.conv(x_shape, w_shape, **options), False, x.itemsize)[0] is run_planes
        )
    dy = rng.standard_normal(result.shape).astype(dtype)
    result.backward(torch.from_numpy(dy).double())
    ours = [
        call(F.conv2d, x, w, b, **options),
        call(F.conv2d_input_grad, dy, w, x_shape, **options),
        call(F.conv2d_weight_grad, dy, x, w_shape, **options),
    ]
    for got, want in zip(ours, (result, exact[0].grad, exact[1].grad), strict=True):
        want = want.detach().numpy()
        assert abs(got - want).max() <= 64 * np.finfo(dtype).eps * max(1, abs(want).max())


def test_a_picture_does_not_see_its_neighbours(dtype: type) -> None:
    x, w = np.full((3, 4, 7, 7), np.nan, dtype), np.ones((4, 1, 3, 3), dtype)
    x[1, 2] = 1
    options = {"padding": 1, "groups": 4}
    count = np.array([2, 3, 3, 3, 3, 3, 2])
    assert np.array_equal(F.conv2d(x, w, **options)[1, 2], np.outer(count, count))
    assert np.array_equal(
        F.conv2d_input_grad(x, w, x.shape, **options)[1, 2], np.outer(count, count)
    )
    dw = F.conv2d_weight_grad(np.ones_like(x), x, w.shape, **options)
    assert np.isnan(dw).all()
    dw = F.conv2d_weight_grad(
        np.ones_like(x[1:2, 2:]), x[1:2, 2:], (2, 1, 3, 3), padding=1, groups=2
    )
    assert np.array_equal(dw[0, 0], np.outer([6, 7, 6], [6, 7, 6]))


@HERE
@pytest.mark.parametrize(
    ("size", "options", "itemsize", "expected"),
    [
        ((14, 14), {"padding": 1}, 4, True),
        ((40, 15), {"padding": (0, 1)}, 4, True),
        ((4000, 15), {"padding": (0, 1)}, 4, False),
        ((14, 16), {"padding": 1}, 4, False),
        ((14, 14), {"padding": 1}, 8, False),
        ((7, 7), {"padding": 1}, 8, True),
        ((14, 14), {"padding": 0}, 4, False),
        ((14, 14), {"padding": 1, "stride": 2}, 4, False),
    ],
)
def test_which_pictures_are_read_in_place(
    size: Any, options: dict[str, Any], itemsize: int, expected: bool
) -> None:
    shape = geometry.conv((2, 8, *size), (8, 1, 3, 3), **options, groups=8)
    chosen = choose(shape, False, itemsize)[0], choose(shape, True, itemsize)[0]
    assert [run is run_planes for run in chosen] == [expected, expected]
    assert (choose_grad(shape, itemsize)[0] is run_planes_grad) == expected
