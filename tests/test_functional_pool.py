"""Pooling, im2col and col2im: worked by hand, beside PyTorch, adjoint and by finite differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import pytest
import torch.nn.functional as torch_F
from hypothesis import given
from hypothesis import strategies as st
from support import BATCHES, CHANNELS, LAYOUTS, call, layout

from deconv_core import functional as F

pytestmark = pytest.mark.usefixtures("junk")
DTYPES = st.sampled_from([np.float32, np.float64])


@dataclass(frozen=True)
class WindowCase:
    """A picture and windows over it."""

    shape: tuple[int, ...]
    options: dict[str, Any]
    how: str
    seed: int

    def picture(self, dtype: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Return a picture with many ties, in the case's layout."""
        rng = np.random.default_rng(self.seed)
        values = rng.integers(-4, 5, self.shape if shape is None else shape)
        return layout((values / 4).astype(dtype), self.how)


@st.composite
def windows(draw: st.DrawFn, pooling: bool) -> WindowCase:
    """Draw a pooling, or an im2col, which takes any padding and a dilation too."""
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    dilation = (1, 1) if pooling else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = [draw(st.integers(0, k // 2 if pooling else 2 * k)) for k in kernel]
    least = [max(1, e - 2 * p) for e, p in zip(extent, padding, strict=True)]
    size = [n + draw(st.integers(0, 9)) for n in least]
    stride: Any = (draw(st.integers(1, 4)), draw(st.integers(1, 6)))
    options = dict(kernel_size=kernel, stride=stride, padding=tuple(padding))
    if not pooling:
        options["dilation"] = dilation
    elif draw(st.booleans()):
        options["stride"] = None
    how, seed = draw(st.sampled_from(sorted(LAYOUTS))), draw(st.integers(0, 1000))
    return WindowCase((draw(BATCHES), draw(CHANNELS), *size), options, how, seed)


def test_max_pool_by_hand(dtype: type) -> None:
    x = np.array([[1, 5, 5], [9, 2, 3], [4, 4, 9]], dtype).reshape(1, 1, 3, 3)
    y, indices = call(F.max_pool2d, x, 2, stride=1)
    assert y[0, 0].tolist() == [[9, 5], [9, 9]]
    assert indices[0, 0].tolist() == [[3, 1], [3, 8]]
    dy = np.array([[1, 10], [100, 1000]], dtype).reshape(1, 1, 2, 2)
    dx = call(F.max_pool2d_backward, dy, indices, x.shape)
    assert dx[0, 0].tolist() == [[0, 10, 0], [101, 0, 0], [0, 0, 1000]]


def test_avg_pool_by_hand(dtype: type) -> None:
    x = np.array([[4, 8], [12, 16]], dtype).reshape(1, 1, 2, 2)
    assert call(F.avg_pool2d, x, 2, padding=1)[0, 0].tolist() == [[1, 2], [3, 4]]
    dy = np.array([[4, 8], [12, 16]], dtype).reshape(1, 1, 2, 2)
    dx = call(F.avg_pool2d_backward, dy, x.shape, 2, padding=1)
    assert dx[0, 0].tolist() == [[1, 2], [3, 4]]


@given(windows(pooling=True), DTYPES)
def test_max_pool_against_pytorch(case: WindowCase, dtype: Any) -> None:
    x = case.picture(dtype)
    y, indices = call(F.max_pool2d, x, **case.options)
    expected, places = torch_F.max_pool2d(oracle.tensor(x), return_indices=True, **case.options)
    np.testing.assert_array_equal(y, expected.numpy(), strict=True)
    np.testing.assert_array_equal(indices, places.numpy(), strict=True)
    dy = case.picture(dtype, y.shape)
    (dx,) = oracle.grads(torch_F.max_pool2d, [x], dy, **case.options)
    ours = call(F.max_pool2d_backward, dy, indices, x.shape)
    np.testing.assert_array_equal(ours, dx, strict=True)


@given(windows(pooling=True), DTYPES)
def test_avg_pool_against_pytorch(case: WindowCase, dtype: Any) -> None:
    x = case.picture(dtype)
    y = call(F.avg_pool2d, x, **case.options)
    truth = oracle.run(torch_F.avg_pool2d, [x], np.float64, **case.options)
    np.testing.assert_allclose(y, truth, rtol=0, atol=8 * np.finfo(dtype).eps)
    dy = case.picture(dtype, y.shape)
    (dx,) = oracle.grads(torch_F.avg_pool2d, [x], dy, np.float64, **case.options)
    ours = call(F.avg_pool2d_backward, dy, x.shape, **case.options)
    np.testing.assert_allclose(ours, dx, rtol=0, atol=32 * np.finfo(dtype).eps)
    assert y.dtype == ours.dtype == dtype and ours.shape == x.shape


@given(windows(pooling=False), DTYPES)
def test_im2col_is_unfold_and_col2im_is_fold(case: WindowCase, dtype: Any) -> None:
    x = case.picture(dtype)
    columns = call(F.im2col, x, **case.options)
    expected = oracle.run(torch_F.unfold, [x], **case.options)
    np.testing.assert_array_equal(columns, expected, strict=True)
    other = case.picture(dtype, columns.shape)  # sums of multiples of 1/4: exact in any order
    folded = oracle.run(torch_F.fold, [other], output_size=x.shape[2:], **case.options)
    ours = call(F.col2im, other, x.shape[2:], **case.options)
    np.testing.assert_array_equal(ours, folded, strict=True)
    assert np.vdot(columns, other) == np.vdot(x, ours)


def test_max_pool_of_what_is_not_finite(dtype: type) -> None:
    x = np.full((1, 2, 6, 6), -np.inf, dtype)
    x[0, 0, 2, 3] = x[0, 0, 2, 5] = np.nan
    x[0, 1, 4, 4] = np.inf
    for options in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 1, "padding": 1}):
        y, indices = call(F.max_pool2d, x, **options)
        expected, places = torch_F.max_pool2d(oracle.tensor(x), return_indices=True, **options)
        np.testing.assert_array_equal(y, expected.numpy(), strict=True)
        np.testing.assert_array_equal(indices, places.numpy(), strict=True)


def test_max_pool_gradient_by_finite_differences() -> None:
    rng = np.random.default_rng(0)
    x = rng.permutation(2 * 3 * 7 * 8).reshape(2, 3, 7, 8).astype(float)  # no ties near
    u = rng.standard_normal(x.shape)
    y, indices = F.max_pool2d(x, 3, 2, 1)
    dy = rng.standard_normal(y.shape)
    high, low = (np.vdot(F.max_pool2d(x + h * u, 3, 2, 1)[0], dy) for h in (1e-4, -1e-4))
    dx = F.max_pool2d_backward(dy, indices, x.shape)
    assert np.vdot(dx, u) == pytest.approx((high - low) / 2e-4, rel=1e-6)


def test_avg_pool_gradient_is_its_adjoint() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 7, 8))
    y = F.avg_pool2d(x, (3, 2), (1, 3), 1)
    dy = rng.standard_normal(y.shape)
    dx = F.avg_pool2d_backward(dy, x.shape, (3, 2), (1, 3), 1)
    assert np.vdot(dx, x) == pytest.approx(np.vdot(y, dy), rel=1e-12)
