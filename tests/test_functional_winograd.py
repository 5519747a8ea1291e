"""3x3 convolutions by Winograd's tiles: the identity, the results, their error."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch.nn.functional as torch_F
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_core import functional as F
from deconv_core import geometry
from deconv_core.cpu import winograd
from deconv_core.cpu.blocking import dot_plan, spread_plan

KERNEL = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2  # G


def plans(shape: geometry.ConvGeometry, itemsize: int = 4) -> list[Any]:
    """Return the plans of the three passes."""
    return [
        spread_plan(shape, False, itemsize),
        spread_plan(shape, True, itemsize),
        dot_plan(shape, itemsize),
    ]


def errors(x: np.ndarray, w: np.ndarray, dy: np.ndarray, **options: Any) -> list[list[float]]:
    """Return, for each pass, our error and PyTorch's, relative to the largest element."""
    truth = [oracle.run(torch_F.conv2d, [x, w], np.float64, **options)]
    truth += oracle.grads(torch_F.conv2d, [x, w], dy, np.float64, **options)
    theirs = [oracle.run(torch_F.conv2d, [x, w], **options)]
    theirs += oracle.grads(torch_F.conv2d, [x, w], dy, **options)
    ours = [
        F.conv2d(x, w, **options),
        F.conv2d_input_grad(dy, w, x.shape, **options),
        F.conv2d_weight_grad(dy, x, w.shape, **options),
    ]
    return [
        [float(np.abs(one - exact).max() / np.abs(exact).max()) for one in (our, their)]
        for exact, our, their in zip(truth, ours, theirs, strict=True)
    ]


def test_the_transforms_are_winograds_identity() -> None:
    rng = np.random.default_rng(0)
    source, kernel, grad = (rng.standard_normal(size) for size in ((4, 4), (3, 3), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(source, (3, 3))
    tile = np.array(winograd.SOURCE) @ source @ np.array(winograd.SOURCE).T
    products = tile * (KERNEL @ kernel @ KERNEL.T)
    result = np.array(winograd.RESULT) @ products @ np.array(winograd.RESULT).T
    np.testing.assert_allclose(result, np.einsum("ijkl,kl->ij", windows, kernel), atol=1e-13)
    products = tile * (np.array(winograd.GRAD) @ grad @ np.array(winograd.GRAD).T)
    weight_grad = np.einsum("ij,ijkl->kl", grad, windows)
    np.testing.assert_allclose(KERNEL.T @ products @ KERNEL, weight_grad, atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 19]),
    groups=st.sampled_from([1, 1, 2]),
    channels=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    size=st.tuples(st.integers(6, 40), st.integers(6, 40)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_size_padding_and_groups(
    batch: int,
    groups: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    padding: tuple[int, int],
    dtype: type,
    seed: int,
) -> None:
    batch *= 1 + 1024 // (size[0] * size[1] * batch)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, groups * channels[0], *size)).astype(dtype)
    w = rng.standard_normal((groups * channels[1], channels[0], 3, 3)).astype(dtype)
    shape = geometry.conv(x.shape, w.shape, 1, padding, 1, groups)
    dy = rng.standard_normal(shape.output_shape).astype(dtype)
    limit = 5e-6 if dtype == np.float32 else 1e-14
    for ours, _ in errors(x, w, dy, padding=padding, groups=groups):
        assert ours < limit


@pytest.mark.parametrize("channels", [(16, 16), (64, 128), (256, 256)])
def test_error_is_at_most_twice_pytorchs(channels: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, channels[0], 16, 16), np.float32)
    w = rng.standard_normal((channels[1], channels[0], 3, 3), np.float32)
    dy = rng.standard_normal((4, channels[1], 16, 16), np.float32)
    assert all(plan.numbers["tiled"] for plan in plans(geometry.conv(x.shape, w.shape, 1, 1))[:2])
    for ours, theirs in errors(x, w, dy, padding=1):
        assert ours <= 2 * theirs


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((8, 32, 16, 16), (32, 32, 3, 3), {"stride": 2}),
        ((8, 32, 16, 16), (32, 32, 3, 3), {"dilation": 2}),
        ((8, 32, 16, 16), (32, 32, 5, 5), {}),
        ((8, 3, 16, 16), (32, 3, 3, 3), {}),  # too few channels to pay for the transforms
        ((2000, 32, 3, 3), (32, 32, 3, 3), {}),  # a single pixel would be a whole tile
        ((1, 32, 16, 16), (32, 32, 3, 3), {}),  # too few pixels
    ],
)
def test_all_others_are_direct(x_shape: Any, w_shape: Any, options: dict[str, Any]) -> None:
    shape = geometry.conv(x_shape, w_shape, **options)
    assert not any(plan.numbers["tiled"] for plan in plans(shape))
