"""Device arrays, in blocks from the pool that go back to it when the last view is dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba.cuda.cudadrv.driver import device_memset

from .. import memory as host
from .blocks import SMALLEST, Lease, block_size, granted, take
from .driver import SIMULATED, cuda, require
from .streams import current


def empty(shape: int | Sequence[int], dtype: Any = np.float32) -> Any:
    """Return an uninitialised C-contiguous device array from the pool.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : a NumPy dtype

    Returns
    -------
    numba.cuda device array
        The caller's own; its memory goes back to the pool when its last view is dropped.

    Raises
    ------
    MemoryError
        Naming the request and what is in use.
    CudaUnavailable
        When CUDA cannot be used here.
    """
    dtype = np.dtype(dtype)
    dims = tuple(map(int, shape)) if isinstance(shape, Sequence) else (int(shape),)
    nbytes = math.prod(dims) * dtype.itemsize
    if not nbytes:
        require()
        return cuda.device_array(dims, dtype)
    array = _view(take(block_size(nbytes)), dims, dtype)
    if host._junk is not None:
        fill_bytes(array, host._junk)
    return array


def _view(lease: Lease, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Return a device array at the start of a leased block, which it holds."""
    block = lease.block
    if SIMULATED:
        lease.__array_interface__ = {  # type: ignore[attr-defined]
            **block.__array_interface__, "shape": shape, "typestr": dtype.str,
        }  # fmt: skip
        return type(block)(np.asarray(lease))
    about = {**block.__cuda_array_interface__, "shape": shape, "typestr": dtype.str}
    return cuda.from_cuda_array_interface(about, owner=lease)


def zeros(shape: int | Sequence[int], dtype: Any = np.float32) -> Any:
    """Return a device array of zeros from the pool (see `empty`)."""
    array = empty(shape, dtype)
    fill_bytes(array, 0)
    return array


def fill_bytes(array: Any, byte: int) -> None:
    """Set every byte of a contiguous device array."""
    if array.size:
        device_memset(array.reshape(-1), byte, array.nbytes, current())


def copy(array: Any, values: Any) -> None:
    """Copy a device array into another one of its shape and dtype."""
    if array.size:
        array.copy_to_device(values, stream=current())


def pinned(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Return an uninitialised NumPy array in pinned memory, from which copies run by themselves.

    Raises
    ------
    MemoryError
        Naming the request and what is in use.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return granted(lambda: cuda.pinned_array(shape, dtype), size, " of pinned memory")


def to_device(array: np.ndarray) -> Any:
    """Return a copy of a NumPy array, in pooled device memory."""
    copied = empty(array.shape, array.dtype)
    if array.size:
        copied.copy_to_device(np.asarray(array, order="C"))
    return copied


def concatenate(arrays: Sequence[Any]) -> Any:
    """Return device arrays joined along their first axis."""
    joined = empty((sum(len(a) for a in arrays), *arrays[0].shape[1:]), arrays[0].dtype)
    at = 0
    for array in arrays:
        copy(joined[at : at + len(array)], array)
        at += len(array)
    return joined


def pack(arrays: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Copy device arrays of one dtype into one array, each at a multiple of SMALLEST bytes.

    Returns
    -------
    the array, of one dimension and with zeros between, and a view of it for each array
    """
    dtype = arrays[0].dtype
    step = SMALLEST // dtype.itemsize
    starts = [0]
    for array in arrays:
        starts.append(starts[-1] + -(-array.size // step) * step)
    whole, views = zeros(starts[-1], dtype), []
    for start, array in zip(starts, arrays, strict=False):
        views.append(whole[start : start + array.size].reshape(*array.shape))
        copy(views[-1], array)
    return whole, views
