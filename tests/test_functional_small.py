"""ReLU, linear, cross-entropy and the optimizer steps beside PyTorch; gradients by differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as torch_F
from hypothesis import given
from hypothesis import strategies as st
from support import CHANNELS, LAYOUTS, assert_close, call, layout

from deconv_core import functional as F

pytestmark = pytest.mark.usefixtures("junk")
DTYPES = st.sampled_from([np.float32, np.float64])
HOW = st.sampled_from(sorted(LAYOUTS))


@given(st.lists(st.integers(0, 7), min_size=2, max_size=4), HOW, DTYPES)
def test_relu_and_its_gradient_against_pytorch(shape: list[int], how: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x = layout(rng.integers(-2, 3, shape).astype(dtype), how)
    dy = layout(rng.standard_normal(shape).astype(dtype), how)
    y = call(F.relu, x)
    np.testing.assert_array_equal(y, oracle.run(torch_F.relu, [x]), strict=True)
    (dx,) = oracle.grads(torch_F.relu, [x], dy)
    np.testing.assert_array_equal(call(F.relu_backward, dy, y), dx, strict=True)


@pytest.mark.parametrize("shape", [(), (1,), (100_003,)])
def test_relu_of_any_rank(shape: tuple[int, ...], dtype: type) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    x = np.asarray(x)
    y = call(F.relu, x)
    np.testing.assert_array_equal(y, oracle.run(torch_F.relu, [x]), strict=True)
    dx = call(F.relu_backward, np.ones_like(x), y)
    np.testing.assert_array_equal(dx, (x > 0).astype(dtype), strict=True)


def test_relu_keeps_nan_and_infinity(dtype: type) -> None:
    x = np.array([np.nan, -np.inf, np.inf, -0.0], dtype)
    np.testing.assert_array_equal(call(F.relu, x), np.array([np.nan, 0, np.inf, 0], dtype))
    dy = np.array([np.inf, np.nan, -np.inf, np.inf], dtype)
    expected = np.array([np.inf, 0, -np.inf, 0], dtype)
    np.testing.assert_array_equal(call(F.relu_backward, dy, F.relu(x)), expected)


@given(st.sampled_from([0, 1, 2, 7, 33]), CHANNELS, CHANNELS, st.booleans(), HOW, HOW, DTYPES)
def test_linear_and_its_gradients_against_pytorch(
    n: int, features: int, outputs: int, bias: bool, how: str, other: str, dtype: Any
) -> None:
    rng = np.random.default_rng(n)
    x = layout(rng.standard_normal((n, features)).astype(dtype), how)
    w = layout(rng.standard_normal((outputs, features)).astype(dtype), other)
    b = rng.standard_normal(outputs).astype(dtype)
    dy = layout(rng.standard_normal((n, outputs)).astype(dtype), how)
    check_linear(x, w, b if bias else None, dy)


@pytest.mark.parametrize(
    "shape",
    [
        (128, 1000, 10),
        (5, 4099, 10),
        (300, 10, 513),
        (1, 1, 1),
        (4, 2048, 200),
        (37, 1029, 150),
        (1, 4097, 97),
    ],
)
def test_larger_linear_against_pytorch(shape: tuple[int, int, int], dtype: type) -> None:
    rng = np.random.default_rng(0)
    n, features, outputs = shape
    sizes = (n, features), (outputs, features), (outputs,), (n, outputs)
    check_linear(*(rng.standard_normal(size).astype(dtype) for size in sizes))


def check_linear(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, dy: np.ndarray) -> None:
    """Compare the forward pass and all gradients with PyTorch's."""
    dx, dw, db = call(F.linear_backward, dy, x, w)
    ours = [call(F.linear, x, w, b), dx, dw, db]
    np.testing.assert_allclose(call(F.linear_input_grad, dy, w), dx, rtol=1e-6)
    np.testing.assert_allclose(call(F.linear_weight_grad, dy, x), dw, rtol=1e-6)
    masked = call(F.linear_input_grad, dy, w, mask=x)
    np.testing.assert_array_equal(masked, np.where(x > 0, dx, 0), strict=True)
    start = np.random.default_rng(1).standard_normal(dw.shape).astype(dw.dtype)
    for total in (start.copy(), start.copy(order="F")):
        assert F.linear_weight_grad(dy, x, add_to=total) is total
        limit = 1e-4 if dw.dtype == np.float32 else 1e-12
        np.testing.assert_allclose(total, start + dw, rtol=limit, atol=limit)
    some_b = np.zeros(len(w), x.dtype) if b is None else b
    results = [
        [
            oracle.run(torch_F.linear, arrays, kind),
            *oracle.grads(torch_F.linear, arrays, dy_, kind),
        ]
        for *arrays, dy_, kind in (
            (x, w, some_b, dy, np.float64),
            (x, w, some_b, dy, x.dtype),
            (abs(x), abs(w), abs(some_b), abs(dy), np.float64),
        )
    ]
    for mine, truth, theirs, magnitude in zip(ours, *results, strict=True):
        assert_close(mine, truth, theirs, magnitude)


def test_a_gradient_added_to_what_it_is_made_of(dtype: type) -> None:
    rng = np.random.default_rng(0)
    dy, x = (rng.standard_normal((40, 40)).astype(dtype) for _ in range(2))
    expected = x + F.linear_weight_grad(dy, x)
    np.testing.assert_array_equal(F.linear_weight_grad(dy, x, add_to=x), expected)
    expected = dy + F.linear_weight_grad(dy, x)
    np.testing.assert_array_equal(F.linear_weight_grad(dy, x, add_to=dy), expected)


@given(st.integers(1, 40), CHANNELS, st.sampled_from([0.0, 0.1, 1.0]), HOW, DTYPES)
def test_cross_entropy_against_pytorch(
    n: int, classes: int, smoothing: float, how: str, dtype: Any
) -> None:
    rng = np.random.default_rng(n)
    logits = layout((5 * rng.standard_normal((n, classes))).astype(dtype), how)
    target = rng.integers(0, classes, n)
    loss, grad = call(F.cross_entropy, logits, target, smoothing)
    leaf = oracle.tensor(logits, np.float64).requires_grad_()
    expected = torch_F.cross_entropy(leaf, torch.from_numpy(target), label_smoothing=smoothing)
    expected.backward()
    eps = float(np.finfo(dtype).eps)
    assert isinstance(loss, float)
    assert loss == pytest.approx(expected.item(), rel=8 * eps, abs=64 * eps)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=0, atol=32 * eps / n)
    assert grad.dtype == dtype


def test_cross_entropy_of_huge_logits_is_finite(dtype: type) -> None:
    logits = np.array([[1e30, -1e30, 0], [-1e30, 1e30, 1e30]], dtype)
    loss, grad = F.cross_entropy(logits, np.array([0, 2]))
    assert loss == pytest.approx(np.log(2) / 2)
    np.testing.assert_allclose(grad, [[0, 0, 0], [0, 0.25, -0.25]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_cross_entropy_of_bad_logits_is_nan(bad: float, dtype: type) -> None:
    loss, _ = F.cross_entropy(np.array([[0, bad], [0, 0]], dtype), np.array([0, 1]))
    assert np.isnan(loss)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_gradient_by_finite_differences(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits, u = rng.standard_normal((2, 5, 7))
    target = rng.integers(0, 7, 5)
    _, grad = F.cross_entropy(logits, target, smoothing)
    high, low = (F.cross_entropy(logits + h * u, target, smoothing)[0] for h in (1e-5, -1e-5))
    assert np.vdot(grad, u) == pytest.approx((high - low) / 2e-5, rel=1e-7)


def test_linear_gradients_by_finite_differences() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((5, 7)), rng.standard_normal((3, 7)), rng.standard_normal(3)
    dy = rng.standard_normal((5, 3))
    u = [rng.standard_normal(a.shape) for a in (x, w, b)]
    high, low = (
        np.vdot(F.linear(*(a + h * v for a, v in zip((x, w, b), u, strict=True))), dy)
        for h in (1e-5, -1e-5)
    )
    slope = sum(np.vdot(g, v) for g, v in zip(F.linear_backward(dy, x, w), u, strict=True))
    assert slope == pytest.approx((high - low) / 2e-5, rel=1e-7)


def test_relu_gradient_by_finite_differences() -> None:
    rng = np.random.default_rng(0)
    x, u, dy = rng.standard_normal((3, 50))
    x += np.copysign(0.1, x)  # away from the kink
    high, low = (np.vdot(F.relu(x + h * u), dy) for h in (1e-5, -1e-5))
    assert np.vdot(F.relu_backward(dy, F.relu(x)), u) == pytest.approx((high - low) / 2e-5)


SIZES = [(), (1,), (7, 5), (3, 2, 3, 3), (70_001,)]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_steps_follow_pytorch(shape: tuple[int, ...], decay: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    start = np.asarray(rng.standard_normal(shape)).astype(dtype)
    param, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
    leaf = torch.tensor(start, requires_grad=True)
    options = dict(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=decay)
    optimizer = torch.optim.Adam([leaf], foreach=False, **options)
    for step in range(1, 6):
        grad = np.asarray(rng.standard_normal(shape)).astype(dtype)
        kept = grad.copy()
        F.adam_step(param, grad, mean, square, step, 0.01, 0.8, 0.95, 1e-6, decay)
        np.testing.assert_array_equal(grad, kept)
        leaf.grad = torch.tensor(grad)
        optimizer.step()
    state = optimizer.state[leaf]
    pairs = (param, leaf.detach()), (mean, state["exp_avg"]), (square, state["exp_avg_sq"])
    for ours, theirs in pairs:
        tolerance = 20 * np.finfo(dtype).eps
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ],
)
def test_sgd_steps_follow_pytorch(
    shape: tuple[int, ...], options: dict[str, Any], dtype: type
) -> None:
    rng = np.random.default_rng(0)
    param = np.asarray(rng.standard_normal(shape)).astype(dtype)
    leaf = torch.tensor(param, requires_grad=True)
    optimizer = torch.optim.SGD([leaf], lr=0.1, foreach=False, **options)
    buffer = np.full_like(param, np.nan) if "momentum" in options else None
    for step in range(4):
        grad = np.asarray(rng.standard_normal(shape)).astype(dtype)
        kept = grad.copy()
        F.sgd_step(param, grad, buffer, step == 0, 0.1, **options)
        np.testing.assert_array_equal(grad, kept)
        leaf.grad = torch.tensor(grad)
        optimizer.step()
    tolerance = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(param, leaf.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_steps_update_arrays_in_any_layout(dtype: type) -> None:
    rng = np.random.default_rng(0)
    values = [abs(rng.standard_normal((4, 6))).astype(dtype) for _ in range(4)]
    straight = [v.copy() for v in values]
    turned = [layout(v.copy(), how) for v, how in zip(values, LAYOUTS, strict=False)]
    for arrays in (straight, turned):
        F.adam_step(*arrays, 3, 0.1, 0.9, 0.99, 1e-8, 0.1)
        F.sgd_step(*arrays[:3], False, 0.1, 0.9)
    for one, other in zip(straight, turned, strict=True):
        np.testing.assert_allclose(one, other, rtol=8 * np.finfo(dtype).eps)
