"""Kernels that loops call by address."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numba import prange, types

from deconv_core.cpu.launch import address, array, call

PAIR = np.dtype([("low", np.int64), ("high", np.int64)])


@numba.njit
def _fill_row(row, y, scale, pair):
    """Write one row: its number times `scale`, in columns low to high."""
    y[row, pair[0].low : pair[0].high] = scale * row


def _fill(run, y, scale, pair):
    """Write all rows with the kernel at the address `run`."""
    for row in prange(y.shape[0]):
        call(run, row, y, scale, pair)


@pytest.mark.parametrize("options", [{}, {"parallel": True}])
def test_a_loop_calls_the_kernel_at_an_address(dtype: type, options: dict[str, bool]) -> None:
    fill = numba.njit(_fill, **options)
    scalar = types.float32 if dtype is np.float32 else types.float64
    run = address(_fill_row, types.int64, array(dtype, 2), scalar, array(PAIR))
    y = np.zeros((5, 4), dtype)
    fill(run, y, dtype(0.5), np.array([(1, 3)], PAIR))
    expected = np.zeros((5, 4))
    expected[:, 1:3] = np.arange(5)[:, None] / 2
    np.testing.assert_array_equal(y, expected)


def test_a_kernel_is_compiled_once_for_the_same_types() -> None:
    kinds = types.int64, array(np.float32, 2), types.float32, array(PAIR)
    assert address(_fill_row, *kinds) == address(_fill_row, *kinds)
    assert address(_fill_row, *kinds) != address(
        _fill_row, types.int64, array(np.float64, 2), types.float64, array(PAIR)
    )
