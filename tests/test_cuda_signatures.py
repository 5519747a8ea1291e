"""The CPU's kernels and CUDA's side by side: names, arguments, defaults and results."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from on_cuda import here, simulated, there

from deconv_core import cpu, device, geometry

pytestmark = simulated
KERNELS = [name for name in cpu.__all__ if name != "on_compile"]


def shared(function: Any) -> list[tuple[str, Any, Any]]:
    """Return names, kinds and defaults of the arguments, but for what only CUDA takes."""
    return [
        (p.name, p.kind, p.default)
        for p in inspect.signature(function).parameters.values()
        if p.name != "precision"
    ]


def normal(*shape: int) -> np.ndarray:
    """Return normal values, the same ones for a shape."""
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def arguments() -> dict[str, list[Any]]:
    """Return for each kernel the arguments of one small call."""
    conv = geometry.conv((2, 2, 5, 4), (3, 2, 3, 2), (2, 1), 1)
    axes = geometry.pool((1, 2, 5, 4), (3, 2), (2, 1), 1)
    x, w, dy = normal(2, 2, 5, 4), normal(3, 2, 3, 2), normal(*conv.output_shape)
    picture, pooled = normal(1, 2, 5, 4), normal(1, 2, axes[0].out, axes[1].out)
    a, b, c = normal(3, 4), normal(2, 4), normal(3, 2)
    places = cpu.max_pool_forward(picture, *axes)[1]
    columns = cpu.im2col(picture, *axes)
    return {
        "conv_forward": [x, w, normal(3), conv],
        "conv_input_grad": [dy, w, normal(2), conv],
        "conv_weight_grad": [x, dy, conv],
        "linear_forward": [a, b, normal(2)],
        "linear_input_grad": [c, b],
        "linear_weight_grad": [c, a],
        "linear_backward": [c, a, b],
        "bias_grad": [dy],
        "relu_forward": [a],
        "relu_backward": [a, np.maximum(normal(3, 4), 0)],
        "max_pool_forward": [picture, *axes],
        "max_pool_backward": [pooled, places, picture.shape],
        "avg_pool_forward": [picture, *axes],
        "avg_pool_backward": [pooled, picture.shape, *axes],
        "im2col": [picture, *axes],
        "col2im": [columns, *axes],
        "cross_entropy": [c, np.array([1, 0, 1]), 0.1],
        "adam_step": [a, normal(3, 4) + 1, abs(a), a**2, 3, 0.1, 0.9, 0.99, 1e-8, 0.1],
        "sgd_step": [a, normal(3, 4) + 1, abs(a), False, 0.1, 0.9, 0.2, 0.1, False],
    }


def test_both_have_the_same_kernels() -> None:
    assert device.cuda().__all__ == cpu.__all__
    assert set(arguments()) == set(KERNELS)


@pytest.mark.parametrize("name", KERNELS)
def test_arguments_and_defaults_are_the_same(name: str) -> None:
    on_cuda = getattr(device.cuda(), name)
    assert shared(on_cuda) == shared(getattr(cpu, name))
    precision = inspect.signature(on_cuda).parameters.get("precision")
    assert precision is None or (precision.kind, precision.default) == (
        precision.KEYWORD_ONLY,
        None,
    )


@pytest.mark.parametrize("name", KERNELS)
def test_results_are_the_same(name: str) -> None:
    given = arguments()[name]
    moved = [there(argument) for argument in given]
    expected = getattr(cpu, name)(*given)
    result = here(getattr(device.cuda(), name)(*moved))
    if expected is None:  # in place
        expected, result = tuple(given[:3]), tuple(here(a) for a in moved[:3])
    pairs = zip(expected, result, strict=True) if type(expected) is tuple else [(expected, result)]
    for one, other in pairs:
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
        assert np.asarray(other).dtype == np.asarray(one).dtype
