"""On which stream work runs, and in how many blocks.

All work goes to the default stream, in order, but for copies from and to the host, which run beside
it, and for a step that is being recorded (graph.py).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from numba.cuda.cudadrv.driver import driver

from .driver import BLOCKS, SIMULATED, THREADS, cuda

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class _Current(threading.local):
    """The stream that this thread puts its work on; 0 is the default one."""

    stream: Any = 0


_current = _Current()


def current() -> Any:
    """Return the stream that work goes to."""
    return _current.stream


@contextmanager
def working_on(stream: Any) -> Iterator[None]:
    """Let this thread put its work on another stream than the default one."""
    _current.stream = stream
    try:
        yield
    finally:
        _current.stream = 0


@cache
def beside(purpose: str) -> Any:
    """Return the stream for a purpose, beside the default one: numba's own would wait for that."""
    if SIMULATED:
        return cuda.stream()
    cuda.current_context()
    return cuda.external_stream(int(driver.cuStreamCreate(NON_BLOCKING)))


def grid(blocks: int, threads: int) -> tuple[int, int, Any]:
    """Return how a kernel is launched: blocks, threads of each, and the stream."""
    return blocks, threads, _current.stream


def strided(count: int) -> tuple[int, int, Any]:
    """Return how a grid-stride loop over `count` elements is launched.

    Examples
    --------
    >>> blocks, threads, stream = strided(1000)
    >>> blocks * threads >= min(1000, BLOCKS * THREADS), stream
    (True, 0)
    """
    return grid(max(1, min(-(-count // THREADS), BLOCKS)), THREADS)
