"""Pooled memory: large arrays from recycled, page-aligned blocks, so that no step faults pages in.

The first touch of freshly mapped memory costs more than most kernels here (some 2 GB/s against 30).
So blocks are mapped once, with huge pages where the system grants them, lent out as ordinary NumPy
arrays, and return to the pool when the last view of the array is dropped.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import operator
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SMALL = 1 << 16  # bytes below which NumPy's own allocator serves better
HUGE_PAGE = 1 << 21

Block = tuple[mmap.mmap, int]  # and where its array begins

_lock = threading.Lock()  # held by whoever changes what is idle
_idle: dict[int, list[Block]] = {}  # by size, the size longest unused first
_leases: dict[int, tuple[weakref.ref[Any], int, Block]] = {}  # by the reference's identity
_idle_bytes = 0
_returned: deque[tuple[int, Block]] = deque()  # blocks of dropped arrays that are not idle yet
_junk: int | None = None


def _idle_limit() -> int:
    """Bytes that may wait in the pool: a quarter of the memory that this process may use."""
    try:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not a POSIX system
        return 1 << 30
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            limit = min(limit, int(Path(path).read_text()))
    return limit // 4


_IDLE_LIMIT = _idle_limit()


def _block_size(nbytes: int) -> int:
    """Round up to one of eight sizes per octave, so that near sizes share blocks."""
    step = max(1 << (nbytes - 1).bit_length() - 4, mmap.PAGESIZE)
    return -(-nbytes // step) * step


def _map(size: int) -> Block:
    """Map `size` bytes of this process's own; an array in a large block begins at a huge page."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size), 0
    large = size >= HUGE_PAGE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    block = mmap.mmap(-1, size + HUGE_PAGE if large else size, flags=flags)
    if not large:
        return block, 0
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            block.madvise(mmap.MADV_HUGEPAGE)
    return block, -np.frombuffer(block, np.uint8).ctypes.data % HUGE_PAGE


def _take(size: int) -> tuple[Block, int]:
    """Return an idle block of `size` bytes, or of up to twice as many, or map one; and its size."""
    global _idle_bytes
    with _lock:
        _settle()
        near = size if size in _idle else min((s for s in _idle if size < s <= 2 * size), default=0)
        if near:
            blocks = _idle.pop(near)
            block = blocks.pop()
            _idle_bytes -= near
            if blocks:
                _idle[near] = blocks
            return block, near
    try:
        return _map(size), size
    except (OSError, OverflowError):
        trim()
    try:
        return _map(size), size
    except (OSError, OverflowError) as error:
        raise MemoryError(f"an array of {size} bytes: {error}") from None


def _give_back(lease: weakref.ref[Any]) -> None:
    """Return the block of a dropped array to the pool.

    Garbage may be collected at any moment, while this very thread is changing what is idle too:
    then the block waits for whoever does so next.
    """
    _, size, block = _leases.pop(id(lease))
    _returned.append((size, block))
    if _lock.acquire(blocking=False):
        try:
            _settle()
        finally:
            _lock.release()


def _settle() -> None:
    """Make idle what was returned; a full pool drops its oldest sizes. The lock must be held."""
    global _idle_bytes
    while _returned:
        size, block = _returned.popleft()
        _idle.setdefault(size, []).append(block)
        _idle_bytes += size
    while _idle_bytes > _IDLE_LIMIT:
        oldest = next(iter(_idle))
        _idle_bytes -= oldest * len(_idle.pop(oldest))


def _dims(shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return a shape as a tuple."""
    return tuple(shape) if isinstance(shape, Sequence) else (operator.index(shape),)


def empty(shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """Return an uninitialised C-contiguous array from the pool.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : a NumPy dtype

    Returns
    -------
    ndarray
        The caller's own; its memory goes back to the pool when its last view is dropped.

    Raises
    ------
    MemoryError
        When the system has no such block left, even after what waits in the pool is returned.

    Examples
    --------
    >>> empty((2, 3)).shape
    (2, 3)
    """
    dtype = np.dtype(dtype)
    dims = shape if type(shape) is tuple else _dims(shape)
    nbytes = math.prod(map(operator.index, dims)) * dtype.itemsize
    if nbytes < SMALL or dtype.hasobject:
        array = np.empty(dims, dtype)
    else:
        block, size = _take(_block_size(nbytes))
        array = np.ndarray(dims, dtype, *block)  # keeps the block; every view keeps the array
        lease = weakref.ref(array, _give_back)
        _leases[id(lease)] = lease, size, block
    if _junk is not None:
        array.reshape(-1).view(np.uint8).fill(_junk)
    return array


def zeros(shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """Return an array of zeros from the pool (see `empty`)."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def trim() -> int:
    """Give every idle block back to the system and return the number of bytes.

    Examples
    --------
    >>> trim() >= 0
    True
    """
    global _idle_bytes
    with _lock:
        _settle()
        freed, _idle_bytes = _idle_bytes, 0
        _idle.clear()
    return freed


@contextmanager
def junk(byte: int) -> Iterator[None]:
    """Fill whatever `empty` returns with `byte`, so that an element left unwritten shows.

    Examples
    --------
    >>> with junk(0xFF):
    ...     bool(np.isnan(empty(3)).all())
    True
    """
    global _junk
    before, _junk = _junk, byte
    try:
        yield
    finally:
        _junk = before
