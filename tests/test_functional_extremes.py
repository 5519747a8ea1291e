"""Legal and far from usual: strides beyond the picture, very wide rows, no features."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as TF

from deconv_core import functional as F

CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 8, 8, 8), (8, 8, 1, 1), {"stride": 1000}),
    ((1, 1, 8, 8), (1, 1, 3, 3), {"padding": 5000, "dilation": 5000}),
    ((1, 2, 9, 1000), (3, 2, 2, 2), {"stride": (2, 40)}),
    ((2, 5, 56, 56), (7, 5, 1, 1), {"stride": 2}),  # three phases of four are never read
    ((2, 4, 9, 9), (3, 4, 3, 3), {"stride": 2, "dilation": 2, "padding": 2}),
    ((1, 3, 1, 70001), (5, 3, 1, 9), {"padding": (0, 4)}),  # rows in several blocks of columns
    ((2, 4, 3, 9001), (6, 4, 3, 7), {"stride": (1, 3), "padding": (1, 2)}),
    ((1, 3, 2, 9001), (2, 3, 2, 4), {"stride": (1, 2), "padding": (0, 1)}),
    ((1, 130, 40, 1500), (9, 130, 3, 3), {"padding": 1}),
]


@pytest.mark.parametrize(("shape", "weight_shape", "options"), CASES)
def test_convolution_against_pytorch(
    shape: tuple[int, ...], weight_shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    x, weight = (
        rng.standard_normal(shape, np.float32),
        rng.standard_normal(weight_shape, np.float32),
    )
    x64 = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    weight64 = torch.from_numpy(weight.astype(np.float64)).requires_grad_()
    y64 = TF.conv2d(x64, weight64, **options)
    grad = rng.standard_normal(tuple(y64.shape), np.float32)
    y64.backward(torch.from_numpy(grad.astype(np.float64)))
    pairs = [
        (F.conv2d(x, weight, **options), y64.detach()),
        (F.conv2d_input_grad(grad, weight, shape, **options), x64.grad),
        (F.conv2d_weight_grad(grad, x, weight_shape, **options), weight64.grad),
    ]
    for ours, truth in pairs:
        assert truth is not None
        scale = max(1.0, float(truth.abs().max()))
        np.testing.assert_allclose(ours / scale, truth.numpy() / scale, atol=1e-5)


@pytest.mark.parametrize("stride", [500, 10**6])
def test_a_stride_beyond_a_single_pixel_costs_nothing(stride: int) -> None:
    x, weight = np.ones((1, 8, 1, 1), np.float32), np.ones((8, 8, 1, 1), np.float32)
    F.conv_transpose2d(x, weight)  # compiled before the memory is looked at
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert F.conv_transpose2d(x, weight, stride=stride).ravel().tolist() == [8.0] * 8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_linear_without_features_is_the_bias() -> None:
    x, weight, bias = np.zeros((2, 0)), np.zeros((3, 0)), np.array([1.0, 2.0, 3.0])
    assert F.linear(x, weight, bias).tolist() == [[1.0, 2.0, 3.0]] * 2
    assert F.linear(x, weight).tolist() == [[0.0, 0.0, 0.0]] * 2


def test_arrays_that_mean_more_than_their_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="MaskedArray"):
        F.relu(np.ma.ones((2, 2)))


def test_options_may_be_arrays_but_not_booleans() -> None:
    x, weight = np.ones((1, 1, 5, 5)), np.ones((1, 1, 3, 3))
    assert F.conv2d(x, weight, stride=np.array([2, 1])).shape == (1, 1, 2, 3)
    with pytest.raises(TypeError, match="stride.*True"):
        F.conv2d(x, weight, stride=True)


def test_adams_first_step_is_as_exact_as_pytorchs() -> None:
    grad = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    mean, square = np.zeros_like(grad), np.zeros_like(grad)
    F.adam_step(np.zeros_like(grad), grad, mean, square, 1, 1e-3, 0.9, 0.999, 1e-8, 0.0)
    truth = 0.001 * grad.astype(np.float64) ** 2
    assert np.max(np.abs(square / truth - 1)) < 1e-6
