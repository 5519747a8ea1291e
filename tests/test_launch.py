"""Kernels that others launch and call by name."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from numba import config
from numba.core.errors import TypingError

from deconv_core.cpu.runtime.jit import entry, kernel
from deconv_core.cpu.runtime.launch import launch, launched, linked

PAIR = np.dtype([("low", np.int64), ("high", np.int64)])


@linked
@kernel
def _fill_row(row, y, scale, pair):
    """Write one row: its number times `scale`, in columns low to high."""
    y[row, pair[0].low : pair[0].high] = scale * row


@kernel
def _fill_rows(worker, workers, y, scale, pair):
    """Write the worker's rows."""
    for row in range(worker, y.shape[0], workers):
        _fill_row(row, y, scale, pair)


@entry
def _fill(workers, y, scale, pair):
    """Write all rows."""
    launch(_fill_rows, workers, y, scale, pair)


@launched
def _count(worker, workers, seen, sizes, halve):
    """Note who came, with a tuple and a flag among the arguments."""
    seen[worker] += workers * sizes[0] // (2 if halve else 1)


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_each_worker_runs_once(workers: int) -> None:
    seen = np.zeros(8, np.int64)
    _count(workers, seen, (6, 1), False)
    assert seen.tolist() == [6 * workers] * workers + [0] * (8 - workers)
    _count(workers, seen, (6, 1), True)
    assert seen.tolist() == [9 * workers] * workers + [0] * (8 - workers)


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_launched_kernel_calls_another(dtype: type, workers: int, threads: int) -> None:
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, config.NUMBA_NUM_THREADS))
    y = np.zeros((5, 4), dtype)
    try:
        _fill(workers, y, dtype(0.5), np.array([(1, 3)], PAIR))
    finally:
        numba.set_num_threads(before)
    expected = np.zeros((5, 4))
    expected[:, 1:3] = np.arange(5)[:, None] / 2
    np.testing.assert_array_equal(y, expected)


def test_a_kernel_is_compiled_once_for_arguments_alike() -> None:
    y, pair = np.zeros((3, 4), np.float32), np.array([(0, 4)], PAIR)
    _fill(2, y, np.float32(1), pair)
    _fill(np.int32(3), y, np.float32(1), pair)
    compiled = [types for types in _fill_rows.overloads if types[2].dtype == numba.float32]
    assert len(compiled) == 1


@linked
@kernel(_nrt=True)
def _ask(size, out):
    """Ask for memory, and use it."""
    out[0] = np.zeros(size)[0]


@launched
def _ask_if_last(worker, workers, size, out):
    """Ask for memory on one worker."""
    if worker == workers - 1:
        _ask(size, out)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_told(workers: int) -> None:
    _ask_if_last(workers, 10, np.ones(1))
    with pytest.raises(RuntimeError, match="a kernel failed"):
        _ask_if_last(workers, 1 << 50, np.ones(1))
    _ask_if_last(workers, 10, np.ones(1))


def test_a_kernel_defined_anew_is_another_one() -> None:
    def made(number: int) -> Any:
        @launched
        def fill(worker, workers, y):
            y[worker] = number

        return fill

    first, second = made(1), made(2)
    y = np.zeros(2)
    for fill, number in ((first, 1), (second, 2), (first, 1)):
        fill(2, y)
        assert y.tolist() == [number] * 2


@linked
@kernel
def _answer(y):
    """Return something, which a linked kernel must not."""
    return y[0]


@entry
def _ask_answer(y):
    """Call it."""
    _answer(y)


def test_linked_kernels_return_nothing() -> None:
    with pytest.raises(TypingError, match="_answer returns a value"):
        _ask_answer(np.ones(1))


def test_python_cannot_call_a_kernel_for_kernels() -> None:
    arguments = np.zeros((1, 4)), 1.0, np.array([(0, 4)], PAIR)
    _fill(1, *arguments)
    with pytest.raises(TypeError, match="_fill_rows is a kernel for other kernels"):
        _fill_rows(0, 1, *arguments)


def test_arrays_must_be_contiguous() -> None:
    with pytest.raises(TypingError, match="must be contiguous"):
        _fill(1, np.zeros((8, 8))[::2, ::2], 1.0, np.array([(0, 4)], PAIR))
