"""Device memory from a pool: what one step gives back, the next one takes again.

Allocating device memory waits for the device, so a step must not do it. Blocks are allocated once,
lent out as numba.cuda's device arrays, and return to the pool when the last view of the array is
dropped. All kernels run on one stream, in order: a block may be lent again while kernels that use
it are still to run, for whatever uses it next runs after them. What a recorded step uses is kept
apart, in a reserve, for it is used again by every replay.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba.cuda.cudadrv.driver import CudaAPIError, device_memset

from .. import memory as host
from .driver import SIMULATED, cuda, require
from .streams import current

SMALLEST = 512  # bytes of a block: the alignment of what the driver allocates

_lock = threading.RLock()  # re-entrant: a lease may be dropped while another is taken
_idle: dict[int, list[Any]] = {}  # blocks by size
# Those in use, by identity. Were they held by leases alone, then to a cycle of garbage with a lease
# in it they would belong, and their memory would be freed before the lease gives them back.
_lent: dict[int, Any] = {}
_lent_bytes = _idle_bytes = 0


class Reserve:
    """Blocks kept together, and arrays kept alive, for as long as the reserve lives.

    While it is open, this thread's arrays take their blocks from it, and from the pool only where
    it has none; all come back to it. They go to the pool when it is dropped.
    """

    def __init__(self) -> None:
        self.idle: dict[int, list[Any]] | None = {}  # blocks by size; they count as lent
        self.held: list[Any] = []

    def __del__(self) -> None:
        idle, self.idle = self.idle or {}, None
        for size, blocks in idle.items():
            for block in blocks:
                _give_back(block, size)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let this thread's arrays use the reserve."""
        _open.reserve = self
        try:
            yield
        finally:
            _open.reserve = None


class _Open(threading.local):
    """The reserve that this thread's arrays use now."""

    reserve: Reserve | None = None


_open = _Open()


def hold(array: Any) -> Any:
    """Return an array that others may drop; the reserve that is open, if any, keeps it."""
    if _open.reserve is not None:
        _open.reserve.held.append(array)
    return array


class _Lease:
    """A block in use: whoever views it holds the lease, and its end gives the block back."""

    def __init__(self, block: Any, size: int, home: Reserve | None) -> None:
        self.block, self.size, self.home = block, size, home

    def __del__(self) -> None:
        with _lock:
            if self.home is None or self.home.idle is None:  # they may be garbage together
                _give_back(self.block, self.size)
            else:
                self.home.idle.setdefault(self.size, []).append(self.block)


def _give_back(block: Any, size: int) -> None:
    """Return a block to the pool."""
    global _lent_bytes, _idle_bytes
    with _lock:
        _idle.setdefault(size, []).append(_lent.pop(id(block)))
        _lent_bytes -= size
        _idle_bytes += size


def _block_size(nbytes: int) -> int:
    """Round up to one of eight sizes per octave, so that near sizes share blocks."""
    step = max(1 << max((nbytes - 1).bit_length() - 4, 0), SMALLEST)
    return -(-nbytes // step) * step


def _take(size: int) -> _Lease:
    """Lend an idle block of `size` bytes, or a new one."""
    global _idle_bytes, _lent_bytes
    reserve = _open.reserve
    with _lock:
        if reserve is not None and reserve.idle and reserve.idle.get(size):
            return _Lease(reserve.idle[size].pop(), size, reserve)
        blocks = _idle.get(size)
        if blocks:
            _idle_bytes -= size
        block = blocks.pop() if blocks else _allocate(size)
        _lent[id(block)] = block
        _lent_bytes += size
        return _Lease(block, size, reserve)


def _allocate(size: int) -> Any:
    """Allocate a block."""
    return _granted(lambda: cuda.device_array(size, np.uint8), size, "")


def _granted(allocate: Callable[[], Any], size: int, kind: str) -> Any:
    """Return what `allocate` does; where there is no room, give the idle blocks back first."""
    require()
    try:
        return allocate()
    except CudaAPIError as error:
        if "OUT_OF_MEMORY" not in str(error):
            raise
    trim()
    try:
        return allocate()
    except CudaAPIError as error:
        free, total = _free_and_total()
        raise MemoryError(
            f"CUDA is out of memory: {_mib(size)}{kind} were asked for; this process's arrays hold "
            f"{_mib(_lent_bytes)}, and {_mib(free)} of the device's {_mib(total)} are free"
        ) from error


def _free_and_total() -> tuple[int, int]:
    """Return the bytes of the device that are free, and all."""
    free, total = cuda.current_context().get_memory_info()
    return free, total


def _mib(nbytes: float) -> str:
    """Return a number of bytes in words."""
    return f"{nbytes / 2**20:,.1f} MiB"


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
    array = _view(_take(_block_size(nbytes)), dims, dtype)
    if host._junk is not None:
        fill_bytes(array, host._junk)
    return array


def _view(lease: _Lease, shape: tuple[int, ...], dtype: np.dtype) -> Any:
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
    return _granted(lambda: cuda.pinned_array(shape, dtype), size, " of pinned memory")


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


def in_use() -> int:
    """Return the bytes of the blocks that are lent out, or kept in a reserve."""
    return _lent_bytes


def trim() -> int:
    """Give every idle block back to the driver and return the number of bytes."""
    global _idle_bytes
    with _lock:
        freed, _idle_bytes = _idle_bytes, 0
        _idle.clear()
    return freed
