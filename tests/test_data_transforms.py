"""Transforms against Pillow on whole pictures and against PyTorch."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deconv_core.data import Compose, Normalize, Resize, ToUnit

SIDES = st.integers(1, 40)


def pictures(seed, n, channels, height, width):
    return np.random.default_rng(seed).integers(0, 256, (n, channels, height, width), np.uint8)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 3))
def test_resize_is_what_pillow_does_to_the_whole_rgb_picture(height, width, new_h, new_w, seed):
    x = pictures(seed, 2, 3, height, width)
    expected = [
        np.asarray(
            Image.fromarray(picture.transpose(1, 2, 0).copy()).resize(
                (new_w, new_h), Image.BILINEAR
            )
        ).transpose(2, 0, 1)
        for picture in x
    ]
    np.testing.assert_array_equal(Resize((new_h, new_w))(x), np.stack(expected))


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([1, 3, 4]))
def test_resize_agrees_with_torch_within_the_rounding(height, width, new_h, new_w, channels):
    x = pictures(0, 2, channels, height, width)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x).double(), (new_h, new_w), mode="bilinear", antialias=True
    )
    error = np.abs(Resize((new_h, new_w))(x) - expected.numpy())
    assert error.max() <= 1.01  # two passes, each rounded to a whole number: half and half


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES)
def test_one_number_is_the_length_of_the_shorter_side(height, width, size):
    result = Resize(size)(pictures(0, 1, 1, height, width))
    assert min(result.shape[2:]) == size
    if height <= width:
        assert result.shape[3] == int(size * width / height)
    else:
        assert result.shape[2] == int(size * height / width)


def test_the_same_size_is_the_identity_and_needs_no_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    x = pictures(0, 2, 3, 6, 6)
    assert Resize(6)(x) is x
    with pytest.raises(ImportError, match=r"pip install deconv-core\[train\]"):
        Resize(7)(x)


def test_resize_takes_views_and_empty_batches():
    x = pictures(0, 4, 3, 8, 10)
    view = x[::2, :, ::-1, 1:9]
    np.testing.assert_array_equal(Resize(5)(view), Resize(5)(view.copy()))
    assert Resize(5)(x[:0]).shape == (0, 3, 5, 6)


def test_to_unit_is_exactly_torchvisions():
    values = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    result = ToUnit()(values)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, torch.from_numpy(values).float().div(255).numpy())


@pytest.mark.parametrize(
    ("mean", "std"),
    [(0.5, 0.5), ([0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]), (0.1, [1, 2, 3])],
)
def test_normalize_is_exactly_torchs_sub_and_div(mean, std):
    x = ToUnit()(pictures(1, 3, 3, 5, 4))
    before = x.copy()
    mean_t, std_t = (torch.tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (mean, std))
    expected = torch.from_numpy(x).sub(mean_t).div(std_t).numpy()
    np.testing.assert_array_equal(Normalize(mean, std)(x), expected)
    np.testing.assert_array_equal(x, before)


def test_compose_runs_in_order_and_leaves_its_input_alone():
    x = pictures(2, 2, 3, 6, 6)
    before = x.copy()
    y = Compose([Resize(9), ToUnit(), Normalize(0.5, 0.25)])(x)
    expected = (Resize(9)(before).astype(np.float32) / np.float32(255) - np.float32(0.5)) * 4
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(x, before)


def test_compose_never_writes_to_an_array_that_a_function_passed_on():
    x = np.ones((1, 1, 2, 2), np.float32)
    y = Compose([lambda batch: batch[:, :, ::-1], Normalize(1.0, 2.0), Normalize(0.5, 1.0)])(x)
    assert (x == 1).all() and (y == -0.5).all()


def test_a_subclass_of_a_transform_is_called_as_it_is() -> None:
    class Double(Normalize):
        def __call__(self, x: np.ndarray) -> np.ndarray:  # type: ignore[override]
            return 2 * x

    x = np.full((1, 1, 2, 2), 255, np.uint8)
    assert (Compose([ToUnit(), Double(0.0, 1.0)])(x) == 2).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Resize(0), ValueError, "at least 1, got 0"),
        (lambda: Resize((3, 4, 5)), ValueError, r"\(3, 4, 5\)"),
        (lambda: Resize(2.5), TypeError, "size must be an integer, got 2.5"),
        (lambda: Resize((2, 2.5)), TypeError, "size must be an integer, got 2.5"),
        (lambda: Normalize(0.5, 0.0), ValueError, "std must be positive"),
        (lambda: Normalize(float("nan"), 1.0), ValueError, "mean must be"),
        (lambda: Normalize([[1.0]], 1.0), ValueError, "mean must be"),
        (lambda: Normalize([], []), ValueError, "mean must be"),
        (lambda: Normalize(0, 1e50), ValueError, "std must be one finite float32 number"),
        (lambda: Normalize([1, 2], [1, 2, 3]), ValueError, "mean has 2 channels but std 3"),
        (lambda: Compose([3]), TypeError, "callable, not 3"),
        (lambda: Resize(4)(np.zeros((1, 1, 2, 2), np.float32)), TypeError, "uint8, not float32"),
        (lambda: Resize(4)(np.zeros((1, 2, 2), np.uint8)), ValueError, r"\(1, 2, 2\)"),
        (lambda: Resize(4)(np.zeros((1, 1, 0, 2), np.uint8)), ValueError, "without pixels"),
        (lambda: ToUnit()(np.zeros((1, 1, 2, 2))), TypeError, "uint8, not float64"),
        (lambda: ToUnit()([1]), TypeError, "uint8, not list"),
        (
            lambda: Normalize([1, 2], 1)(np.zeros((1, 3, 2, 2), np.float32)),
            ValueError,
            "mean of 2 channels, the batch has 3",
        ),
        (
            lambda: Normalize(0, 1)(np.zeros((1, 1, 2, 2), np.uint8)),
            TypeError,
            "float32, not uint8",
        ),
        (
            lambda: Normalize(0, 1)(*[np.zeros((1, 1, 2, 2), t) for t in (np.float32, np.float64)]),
            TypeError,
            "out takes a batch of float32, not float64",
        ),
        (
            lambda: Normalize(0, 1)(*[np.zeros((n, 1, 2, 2), np.float32) for n in (1, 3)]),
            ValueError,
            r"out has shape \(3, 1, 2, 2\), the batch has \(1, 1, 2, 2\)",
        ),
    ],
)
def test_what_clashes_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
