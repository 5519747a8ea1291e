"""The small CUDA kernels in the simulator, against PyTorch and the float64 reference."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as torch_F
from hypothesis import given, settings
from on_cuda import simulated, through_cuda
from test_functional_pool import WindowCase, windows

from deconv_core import functional as F
from deconv_core import reference

pytestmark = [simulated, pytest.mark.usefixtures("junk")]
few = settings(max_examples=8)


def small(case: WindowCase) -> WindowCase:
    """Return the case with no more than two pictures of two channels, contiguous."""
    batch, channels, *size = case.shape
    return dataclasses.replace(case, shape=(min(batch, 2), min(channels, 2), *size), how="plain")


def test_relu_keeps_nan() -> None:
    x = np.array([[-1, 2, np.nan, -np.inf, np.inf, -0.0, 3, -4, 5]], np.float32)
    y = through_cuda(F.relu, x)
    np.testing.assert_array_equal(y, torch.relu(torch.from_numpy(x)).numpy(), strict=True)
    dy = np.arange(1, 10, dtype=np.float32)[None]
    dx = through_cuda(F.relu_backward, dy, y)
    np.testing.assert_array_equal(dx, [[0, 2, 3, 0, 5, 0, 7, 0, 9]])


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (40, 2), (0, 3, 2, 2), (1, 2, 99, 90)])
def test_bias_grad(shape: tuple[int, ...]) -> None:
    dy = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    sums = through_cuda(F.bias_grad, dy)
    truth = dy.astype(float).sum(axis=tuple({*range(dy.ndim)} - {1}))
    np.testing.assert_allclose(sums, truth, rtol=1e-6)
    assert sums.dtype == np.float32


@few
@given(windows(pooling=True))
def test_max_pool(drawn: WindowCase) -> None:
    case = small(drawn)
    x = case.picture(np.float32)
    y, indices = through_cuda(F.max_pool2d, x, **case.options)
    expected, places = torch_F.max_pool2d(oracle.tensor(x), return_indices=True, **case.options)
    np.testing.assert_array_equal(y, expected.numpy(), strict=True)
    np.testing.assert_array_equal(indices, places.numpy(), strict=True)
    dy = case.picture(np.float32, y.shape)
    (dx,) = oracle.grads(torch_F.max_pool2d, [x], dy, **case.options)
    ours = through_cuda(F.max_pool2d_backward, dy, indices, x.shape)
    np.testing.assert_array_equal(ours, dx, strict=True)


def test_max_pool_of_what_is_not_finite() -> None:
    x = np.full((1, 2, 6, 6), -np.inf, np.float32)
    x[0, 0, 2, 3] = x[0, 0, 2, 5] = np.nan
    x[0, 1, 4, 4] = np.inf
    y, indices = through_cuda(F.max_pool2d, x, 3, 1, 1)
    expected, places = torch_F.max_pool2d(oracle.tensor(x), 3, 1, 1, return_indices=True)
    np.testing.assert_array_equal(y, expected.numpy(), strict=True)
    np.testing.assert_array_equal(indices, places.numpy(), strict=True)


def test_indices_outside_of_their_plane_are_ignored() -> None:
    dy = np.ones((1, 1, 2, 2), np.float32)
    indices = np.array([[[[3, -1], [16, 15]]]])
    dx = through_cuda(F.max_pool2d_backward, dy, indices, (1, 1, 4, 4))
    assert np.flatnonzero(dx).tolist() == [3, 15]


@few
@given(windows(pooling=True))
def test_avg_pool(drawn: WindowCase) -> None:
    case = small(drawn)
    x = case.picture(np.float32)
    y = through_cuda(F.avg_pool2d, x, **case.options)
    truth = oracle.run(torch_F.avg_pool2d, [x], np.float64, **case.options)
    np.testing.assert_allclose(y, truth, rtol=0, atol=1e-6)
    dy = case.picture(np.float32, y.shape)
    (dx,) = oracle.grads(torch_F.avg_pool2d, [x], dy, np.float64, **case.options)
    ours = through_cuda(F.avg_pool2d_backward, dy, x.shape, **case.options)
    np.testing.assert_allclose(ours, dx, rtol=0, atol=4e-6)
    assert y.dtype == ours.dtype == np.float32 and ours.shape == x.shape


@few
@given(windows(pooling=False))
def test_im2col_and_col2im(drawn: WindowCase) -> None:
    case = small(drawn)
    x = case.picture(np.float32)
    columns = through_cuda(F.im2col, x, **case.options)
    expected = oracle.run(torch_F.unfold, [x], **case.options)
    np.testing.assert_array_equal(columns, expected, strict=True)
    other = case.picture(np.float32, columns.shape)  # multiples of 1/4: exact in any order
    folded = oracle.run(torch_F.fold, [other], output_size=x.shape[2:], **case.options)
    ours = through_cuda(F.col2im, other, x.shape[2:], **case.options)
    np.testing.assert_array_equal(ours, folded, strict=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape, scale", [((6, 5), 1.0), ((3, 19), 300.0), ((1, 1), 1.0)])
def test_cross_entropy(smoothing: float, shape: tuple[int, int], scale: float) -> None:
    rng = np.random.default_rng(0)
    logits = (scale * rng.standard_normal(shape)).astype(np.float32)
    target = rng.integers(0, shape[1], shape[0])
    theirs = torch.from_numpy(logits).double().requires_grad_()
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    expected = criterion(theirs, torch.from_numpy(target))
    expected.backward()
    loss, grad = through_cuda(F.cross_entropy, logits, target, smoothing)
    assert loss == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    assert theirs.grad is not None
    np.testing.assert_allclose(grad, theirs.grad.numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_count_as_on_the_cpu(bad: float) -> None:
    logits = np.arange(22, dtype=np.float32).reshape(2, 11)
    logits[0, 9] = bad
    target = np.array([3, 4])
    expected, gradient = F.cross_entropy(logits, target)
    loss, grad = through_cuda(F.cross_entropy, logits, target)
    assert loss == pytest.approx(expected, nan_ok=True)
    np.testing.assert_allclose(grad, gradient, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 5, 1 << 40])
def test_a_label_that_is_no_class_makes_the_loss_nan(label: int) -> None:
    logits = np.zeros((2, 5), np.float32)
    loss, grad = through_cuda(F.cross_entropy, logits, np.array([0, label]))
    assert np.isnan(loss) and np.isnan(grad[1]).all() and np.isfinite(grad[0]).all()


def steps(sizes: tuple[int, ...], count: int) -> list[list[np.ndarray]]:
    """Return twice the same arrays, once in float64; none is negative."""
    rng = np.random.default_rng(0)
    arrays = [abs(rng.standard_normal(sizes)).astype(np.float32) for _ in range(count)]
    return [arrays, [a.astype(float) for a in arrays]]


@pytest.mark.parametrize(
    "options", [(1, 0.1, 0.9, 0.999, 1e-8, 0.0), (7, 1e-2, 0.5, 0.9, 0.1, 0.3)]
)
def test_adam(options: Any) -> None:
    ours, truth = steps((5, 9), 4)
    through_cuda(F.adam_step, *ours, *options)
    reference.adam_step(*truth, *options)
    for one, other in zip(ours, truth, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("options", [(0.1, 0.9, 0.3, 0.2, False), (0.1, 0.9, 0.0, 0.2, True)])
def test_sgd(first: bool, options: Any) -> None:
    ours, truth = steps((5, 9), 3)
    through_cuda(F.sgd_step, *ours, first, *options)
    reference.sgd_step(*truth, first, *options)
    for one, other in zip(ours, truth, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-7)


def test_sgd_without_momentum() -> None:
    ours, truth = steps((11,), 2)
    through_cuda(F.sgd_step, *ours, None, True, 0.1, 0.0, 0.0, 0.2, False)
    reference.sgd_step(*truth, None, True, 0.1, 0.0, 0.0, 0.2, False)
    np.testing.assert_allclose(ours[0], truth[0], rtol=2e-6)
