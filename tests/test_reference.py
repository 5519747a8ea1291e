"""The NumPy reference beside PyTorch in float64: the textbook must itself be right."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as torch_F
from hypothesis import given
from support import ConvCase, conv_cases, transposed_cases

from deconv_core import geometry, reference


def assert_equal_enough(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Compare two float64 results up to rounding of long sums."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10, strict=True)


@given(conv_cases())
def test_convolution(case: ConvCase) -> None:
    shape = geometry.conv(case.x_shape, case.w_shape, **case.options)
    x, w, b, dy = case.arrays(np.float64, shape.output_shape, case.w_shape[0])
    y = oracle.run(torch_F.conv2d, (x, w, b), **case.options)
    dx, dw, *_ = oracle.grads(torch_F.conv2d, (x, w, b), dy, **case.options)
    assert_equal_enough(reference.conv_forward(x, w, b, shape), y)
    assert_equal_enough(reference.conv_input_grad(dy, w, None, shape), dx)
    assert_equal_enough(reference.conv_weight_grad(x, dy, shape), dw)


@given(transposed_cases())
def test_transposed_convolution(case: ConvCase) -> None:
    shape = geometry.conv_transpose(case.x_shape, case.w_shape, **case.options)
    outputs = case.w_shape[1] * case.options["groups"]
    x, w, b, dy = case.arrays(np.float64, shape.input_shape, outputs)
    y = oracle.run(torch_F.conv_transpose2d, (x, w, b), **case.options)
    dx, dw, *_ = oracle.grads(torch_F.conv_transpose2d, (x, w, b), dy, **case.options)
    assert_equal_enough(reference.conv_input_grad(x, w, b, shape), y)
    assert_equal_enough(reference.conv_forward(dy, w, None, shape), dx)
    assert_equal_enough(reference.conv_weight_grad(dy, x, shape), dw)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble])
def test_any_float_dtype_stays_itself(dtype: Any) -> None:
    x, w = np.ones((2, 4, 5, 5), dtype), np.ones((6, 2, 3, 3), dtype)
    shape = geometry.conv(x.shape, w.shape, 2, 1, 1, 2)
    y = reference.conv_forward(x, w, np.ones(6, dtype), shape)
    assert y[0, 0].tolist() == [[9, 13, 9], [13, 19, 13], [9, 13, 9]]
    dx = reference.conv_input_grad(y, w, None, shape)
    dw = reference.conv_weight_grad(x, y, shape)
    rows, cols = geometry.pool(x.shape, 2)
    pooled, indices = reference.max_pool_forward(x, rows, cols)
    mean = reference.avg_pool_forward(x, rows, cols)
    results = [y, dx, dw, reference.relu_forward(x), pooled, mean]
    results.append(reference.max_pool_backward(pooled, indices, x.shape))
    results.append(reference.avg_pool_backward(pooled, x.shape, rows, cols))
    assert all(a.dtype == dtype for a in results)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (3, 2)])
def test_unfold_and_fold(kernel: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 8))
    options = dict(stride=(2, 1), padding=(1, 2), dilation=(1, 3))
    rows, cols = geometry.unfold(x.shape, kernel, **options)
    columns = reference.im2col(x, rows, cols)
    assert_equal_enough(columns, oracle.run(torch_F.unfold, [x], kernel_size=kernel, **options))
    folded = oracle.run(torch_F.fold, [columns], output_size=(9, 8), kernel_size=kernel, **options)
    assert_equal_enough(reference.col2im(columns, rows, cols), folded)


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), ((3, 2), (1, 3), 1)])
def test_pooling(size: Any, stride: Any, padding: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, 3, 7, 8)).astype(float)
    rows, cols = geometry.pool(x.shape, size, stride, padding)
    options = dict(kernel_size=size, stride=stride, padding=padding)
    y, indices = reference.max_pool_forward(x, rows, cols)
    expected, places = torch_F.max_pool2d(torch.tensor(x), return_indices=True, **options)
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(indices, places.numpy())
    dy = rng.standard_normal(y.shape)
    (dx,) = oracle.grads(torch_F.max_pool2d, [x], dy, **options)
    assert_equal_enough(reference.max_pool_backward(dy, indices, x.shape), dx)
    mean = oracle.run(torch_F.avg_pool2d, [x], **options)
    assert_equal_enough(reference.avg_pool_forward(x, rows, cols), mean)
    (dx,) = oracle.grads(torch_F.avg_pool2d, [x], dy, **options)
    assert_equal_enough(reference.avg_pool_backward(dy, x.shape, rows, cols), dx)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_linear_relu_and_cross_entropy(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((5, 7)), rng.standard_normal((4, 7)), rng.standard_normal(4)
    target = rng.integers(0, 4, 5)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    hidden = torch_F.relu(torch_F.linear(*leaves))
    hidden.retain_grad()
    expected = torch_F.cross_entropy(hidden, torch.tensor(target), label_smoothing=smoothing)
    expected.backward()
    y = reference.relu_forward(reference.linear_forward(x, w, b))
    loss, grad = reference.cross_entropy(y, target, smoothing)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert_equal_enough(grad, hidden.grad.numpy())
    grads = reference.linear_backward(reference.relu_backward(grad, y), x, w)
    for ours, leaf in zip(grads, leaves, strict=True):
        assert_equal_enough(ours, leaf.grad.numpy())


def test_optimizer_steps() -> None:
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((6, 9))
    adam, sgd = np.ones(9), np.ones(9)
    mean, square, buffer = np.zeros(9), np.zeros(9), np.full(9, np.nan)
    leaves = [torch.ones(9, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizers = [
        torch.optim.Adam(leaves[:1], lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1),
        torch.optim.SGD(leaves[1:], lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    ]
    for step, grad in enumerate(grads):
        reference.adam_step(adam, grad, mean, square, step + 1, 0.1, 0.8, 0.9, 1e-3, 0.1)
        reference.sgd_step(sgd, grad, buffer, step == 0, 0.1, 0.9, 0.0, 0.1, True)
        for leaf, optimizer in zip(leaves, optimizers, strict=True):
            leaf.grad = torch.tensor(grad)
            optimizer.step()
    assert_equal_enough(adam, leaves[0].detach().numpy())
    assert_equal_enough(sgd, leaves[1].detach().numpy())
