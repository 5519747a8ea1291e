"""Blocks of device memory: what one step gives back, the next one takes again.

Allocating device memory waits for the device, so a step must not do it. Blocks are allocated once,
lent out, and return to the pool when whoever has one drops its lease. All kernels run on one
stream, in order: a block may be lent again while kernels that use it are still to run, for whatever
uses it next runs after them. What a recorded step uses is kept apart, in a reserve, for it is used
again by every replay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba.cuda.cudadrv.driver import CudaAPIError

from .driver import cuda, require

SMALLEST = 512  # bytes of a block: the alignment of what the driver allocates

_lock = threading.RLock()  # re-entrant: a lease may be dropped while another is taken
_idle: dict[int, list[Any]] = {}  # blocks by size
# Those in use, by identity. A block that its lease alone held would be garbage with it where that
# is part of a cycle, and numba would free its memory before the lease gives it back.
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


class Lease:
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


def block_size(nbytes: int) -> int:
    """Round up to one of eight sizes per octave, so that near sizes share blocks."""
    step = max(1 << max((nbytes - 1).bit_length() - 4, 0), SMALLEST)
    return -(-nbytes // step) * step


def take(size: int) -> Lease:
    """Lend an idle block of `size` bytes, or a new one."""
    global _idle_bytes, _lent_bytes
    reserve = _open.reserve
    with _lock:
        if reserve is not None and reserve.idle and reserve.idle.get(size):
            return Lease(reserve.idle[size].pop(), size, reserve)
        blocks = _idle.get(size)
        if blocks:
            _idle_bytes -= size
        block = blocks.pop() if blocks else _allocate(size)
        _lent[id(block)] = block
        _lent_bytes += size
        return Lease(block, size, reserve)


def _allocate(size: int) -> Any:
    """Allocate a block."""
    return granted(lambda: cuda.device_array(size, np.uint8), size)


def granted(allocate: Callable[[], Any], size: int, kind: str = "") -> Any:
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
