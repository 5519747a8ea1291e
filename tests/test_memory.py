"""Pooled memory: recycled, never shared, and out of memory said in NumPy's way."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest

from deconv_core import memory

LARGE = (4, 64, 1024)  # well above memory.SMALL


def test_a_block_comes_back_when_the_last_view_is_dropped() -> None:
    memory.trim()
    array = memory.empty(LARGE)
    address, view = array.ctypes.data, array[1:, ::2]
    del array
    other = memory.empty(LARGE)
    assert other.ctypes.data != address
    del view
    assert memory.empty(LARGE).ctypes.data == address


def test_a_block_serves_arrays_down_to_half_its_size() -> None:
    memory.trim()
    array = memory.empty(LARGE)
    address = array.ctypes.data
    del array
    less_than_half = memory.empty((4, 24, 1024))
    assert less_than_half.ctypes.data != address
    half = memory.empty((4, 32, 1024))
    assert half.ctypes.data == address
    del half
    assert memory.empty(LARGE).ctypes.data == address  # as large as it was


def test_arrays_in_use_never_overlap() -> None:
    arrays = [memory.empty(LARGE) for _ in range(5)]
    for value, array in enumerate(arrays):
        array.fill(value)
    assert [array.min() for array in arrays] == [array.max() for array in arrays] == [0, 1, 2, 3, 4]
    assert all(array.ctypes.data % 64 == 0 for array in arrays)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_writes_to_its_own_copy() -> None:
    array = memory.zeros(LARGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork; the child exits
        child = os.fork()
    if not child:
        array[:] = 9
        os._exit(0)
    os.waitpid(child, 0)
    assert array.max() == 0


@pytest.mark.parametrize("count", [1 << 50, 1 << 62])
def test_out_of_memory_is_a_memory_error(count: int) -> None:
    with pytest.raises(MemoryError, match="bytes"):
        memory.empty(count)


def test_a_full_pool_drops_its_oldest_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    memory.trim()
    monkeypatch.setattr(memory, "_IDLE_LIMIT", 1 << 20)
    for count in range(100_000, 200_000, 5_000):
        memory.empty(count)
    assert 0 < memory.trim() <= 1 << 20


def test_arrays_in_cycles_may_be_dropped_while_another_is_taken() -> None:
    class Node:
        itself: object
        array: np.ndarray

    for count in np.random.default_rng(0).integers(20_000, 700_000, 5_000):
        node = Node()
        node.itself, node.array = node, memory.empty(int(count))


@pytest.mark.parametrize("shape", [(), 5, np.int64(5), [2, 3], (0, 4)])
def test_shapes_are_numpys(shape: object) -> None:
    assert memory.zeros(shape).shape == np.zeros(shape).shape  # type: ignore[arg-type, call-overload]
