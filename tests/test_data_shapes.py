"""The embedded data set: repeatable, balanced, and learnable without being trivial."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_core.data import make_shapes
from deconv_core.data.shapes import SHAPES


def test_default_counts_classes_and_balance():
    train, test = make_shapes("train"), make_shapes("test")
    assert train.images.shape == (10_000, 3, 32, 32) and test.images.shape == (2_000, 3, 32, 32)
    assert np.bincount(train.labels).tolist() == [1000] * 10
    assert np.bincount(test.labels).tolist() == [200] * 10
    assert train.classes == tuple(SHAPES) and len(set(train.classes)) == 10


def test_the_seed_decides_everything_and_the_splits_share_nothing():
    first = make_shapes("train", count=300, seed=3)
    again = make_shapes("train", count=300, seed=3)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    other, test = make_shapes("train", count=300, seed=4), make_shapes("test", count=300, seed=3)
    pictures = np.concatenate([d.images for d in (first, other, test)]).reshape(900, -1)
    assert len(np.unique(pictures, axis=0)) == 900


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 600), st.integers(8, 40))
def test_a_smaller_set_is_the_start_of_a_larger_one(count, size):
    small, large = make_shapes("test", size, count), make_shapes("test", size, 600)
    np.testing.assert_array_equal(small.images, large.images[:count])
    np.testing.assert_array_equal(small.labels, large.labels[:count])
    assert small.images.shape == (count, 3, size, size)


def test_a_shape_function_is_negative_inside_and_positive_far_outside():
    inside = {"ring": (0.72, 0.0), "crescent": (-0.6, 0.0), "corner": (-0.5, -0.5)}
    for name, shape in SHAPES.items():
        u, v = (np.full((1, 1, 1), c, np.float32) for c in inside.get(name, (0.0, 0.0)))
        assert shape(u, v).item() < 0, name
        for angle in np.linspace(0, 6, 13):
            far = shape(*(np.full((1, 1, 1), 1.3 * f(angle), np.float32) for f in (np.cos, np.sin)))
            assert far.item() > 0, name


def test_the_class_is_not_given_away_by_the_pixels_one_by_one():
    """Least squares on raw pixels beats chance (10 %), but not by much."""
    train, test = make_shapes("train", 16, 4000), make_shapes("test", 16, 1000)
    x, x_test = (d.images.mean(axis=1).reshape(len(d), -1) / 255 for d in (train, test))
    weights = np.linalg.lstsq(x, np.eye(10)[train.labels] - 0.1, rcond=None)[0]
    accuracy = ((x_test @ weights).argmax(axis=1) == test.labels).mean()
    assert 0.12 < accuracy < 0.3


def test_the_class_can_be_learnt():
    """A few dozen numbers that do not depend on place or turn tell most of them."""

    def features(dataset):
        grey = dataset.images.mean(axis=1)
        bright = grey > (grey.min(axis=(1, 2)) + grey.max(axis=(1, 2)))[:, None, None] / 2
        grid = np.arange(32)
        area = bright.sum(axis=(1, 2)) + 1
        cx, cy = (bright * grid).sum(axis=(1, 2)) / area, (bright.sum(axis=2) @ grid) / area
        radius = np.hypot(grid - cx[:, None, None], grid[:, None] - cy[:, None, None])
        rings = [(bright * (np.abs(radius - r) < 1)).sum(axis=(1, 2)) for r in range(0, 16, 2)]
        edges = np.abs(np.diff(bright.astype(int))).sum(axis=(1, 2))
        rows = np.stack([*rings, area, edges, np.ones_like(area)], axis=1).astype(float)
        return np.concatenate([rows, rows**2, np.sqrt(rows)], axis=1)

    train, test = make_shapes("train", count=3000), make_shapes("test", count=1000)
    x = features(train)
    weights = np.linalg.lstsq(x, np.eye(10)[train.labels], rcond=None)[0]
    accuracy = ((features(test) @ weights).argmax(axis=1) == test.labels).mean()
    assert accuracy > 0.7


def test_pixels_use_the_range_and_differ_from_their_neighbours():
    images = make_shapes("test", count=500).images.astype(int)
    assert images.min() == 0 and images.max() == 255
    assert 3 < np.abs(np.diff(images, axis=3)).mean() < 60


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "valid"}, "train, test, not 'valid'"),
        ({"size": 7}, "size must be at least 8, got 7"),
        ({"count": -1}, "count must be at least 0, got -1"),
        ({"seed": -2}, "seed must be at least 0, got -2"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_shapes(**{"split": "train"} | kwargs)
    with pytest.raises(TypeError):
        make_shapes("train", count=2.5)
