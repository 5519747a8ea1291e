"""The loader: batches, orders, resuming, and a thread that always ends."""

from __future__ import annotations

import gc
import threading
import time
import traceback

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_core.data import ImageDataset, Loader, Normalize


def numbered(count):
    """A data set whose picture i is full of i, and has the label i."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 2, 2), np.uint8)
    return ImageDataset(images, np.arange(count), tuple(map(str, range(count))), "numbered")


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 2))
def test_an_epoch_is_every_image_once_cut_into_batches(count, size, shuffle, drop_last, epoch):
    loader = Loader(numbered(count), size, shuffle=shuffle, seed=7, drop_last=drop_last)
    batches = list(loader.epoch(epoch))
    assert len(batches) == len(loader)
    labels = [label for _, y in batches for label in y.tolist()]
    left = count % size if drop_last else 0
    assert len(labels) == len(set(labels)) == count - left
    sizes = [len(y) for _, y in batches]
    assert all(n == size for n in sizes[:-1]) and sum(sizes) == count - left
    if not shuffle:
        assert labels == list(range(count - left))
    for x, y in batches:
        assert x.dtype == np.float32 and y.dtype == np.int64 and x.shape == (len(y), 1, 2, 2)
        np.testing.assert_array_equal(x[:, 0, 1, 1], y.astype(np.float32) / np.float32(255))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 3), st.data())
def test_a_resumed_epoch_is_the_rest_of_the_whole_one(count, size, epoch, data):
    loader = Loader(numbered(count), size, shuffle=True, seed=1)
    start = data.draw(st.integers(0, len(loader)))
    whole = list(loader.epoch(epoch))
    rest = list(Loader(numbered(count), size, shuffle=True, seed=1).epoch(epoch, start))
    assert len(rest) == len(whole) - start
    for (x, y), (x2, y2) in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


def labels_of(batches):
    return [label for _, y in batches for label in y.tolist()]


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    first, second = (Loader(numbered(40), 8, shuffle=True, seed=5) for _ in range(2))
    assert labels_of(second.epoch(2)) == labels_of(first.epoch(2))
    orders = [labels_of(first.epoch(number)) for number in range(3)]
    orders.append(labels_of(Loader(numbered(40), 8, shuffle=True, seed=6).epoch(0)))
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(40)) for order in orders)


def test_iterating_again_and_again_is_epoch_after_epoch():
    loader = Loader(numbered(20), 6, shuffle=True)
    expected = [labels_of(loader.epoch(number)) for number in range(3)]
    assert [labels_of(loader) for _ in range(3)] == expected


def test_batches_belong_to_the_caller():
    dataset = numbered(6)
    for x, y in Loader(dataset, 4):
        x += 1
        y += 1
    np.testing.assert_array_equal(dataset.labels, np.arange(6))
    assert dataset.images.max() == 5


def test_work_is_done_ahead_in_another_thread_but_not_far():
    made = []

    def slow(x):
        made.append(threading.current_thread().name)
        return x.astype(np.float32)

    batches = Loader(numbered(10), 1, transform=slow).epoch(0)
    assert made == []
    next(batches)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert made == ["prefetch"] * 3  # the one in use and two that wait
    batches.close()


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_closing_or_dropping_an_iterator_ends_its_thread(taken):
    closed = Loader(numbered(50), 5).epoch(0)
    dropped = Loader(numbered(50), 5).epoch(1)
    for _ in range(taken):
        next(closed), next(dropped)
    assert len(threads()) == 2
    closed.close()
    assert len(threads()) == 1
    del dropped
    gc.collect()
    assert not threads()


def test_breaking_off_a_loop_ends_the_thread():
    for x, _ in Loader(numbered(50), 5):
        assert len(x) == 5
        break
    gc.collect()
    assert not threads()


def test_an_error_in_the_thread_reaches_the_consumer_with_its_traceback():
    def picky(x):
        if x.max() >= 4:
            raise RuntimeError("a picture I do not like")
        return x.astype(np.float32)

    batches = Loader(numbered(9), 2, transform=picky).epoch(0)
    next(batches), next(batches)
    with pytest.raises(RuntimeError, match="do not like") as caught:
        next(batches)
    assert "picky" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert list(batches) == []


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        (lambda x: x, TypeError, "float32, not uint8"),
        (lambda x: None, TypeError, "float32, not NoneType"),
        (lambda x: x[1:].astype(np.float32), ValueError, "made 1 images of 2"),
        (Normalize(0, 1), TypeError, "float32, not uint8"),
    ],
)
def test_a_transform_of_another_result_is_an_error(transform, error, message):
    with pytest.raises(error, match=message):
        next(Loader(numbered(4), 2, transform=transform).epoch(0))


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: Loader(numbered(4), 0), ValueError, "at least 1, got 0"),
        (lambda: Loader(numbered(4), 1.5), TypeError, "must be an integer, got"),
        (lambda: Loader(numbered(4), 1, seed=-1), ValueError, "-1"),
        (lambda: Loader(numbered(4), 2).epoch(-1), ValueError, "-1"),
        (lambda: Loader(numbered(4), 2).epoch(0, 3), ValueError, r"at most 2 \(batches\), not 3"),
        (lambda: Loader(numbered(4), 2).epoch(0, -1), ValueError, "-1"),
        (lambda: Loader(numbered(4), 2).epoch("0"), TypeError, "must be an integer, got"),
        (lambda: Loader([1, 2], 2), TypeError, "dataset must be an ImageDataset, got list"),
        (lambda: Loader(numbered(4), 2, transform=5), TypeError, "transform must be .*, got 5"),
    ],
)
def test_bad_arguments_are_refused_at_once(use, error, message):
    with pytest.raises(error, match=message):
        use()
