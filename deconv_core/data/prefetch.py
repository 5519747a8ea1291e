"""Prepare the next items in a background thread while the present one is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

Job = TypeVar("Job")
Item = TypeVar("Item")


class _Failure:
    """An exception on its way from the thread to the consumer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(prepare: Callable[[Job], Item], jobs: Sequence[Job], depth: int = 2) -> Iterator[Item]:
    """Yield ``prepare(job)`` for each job, prepared in order and ahead of time.

    Parameters
    ----------
    prepare : callable
        Runs in one background thread (never a forked process).
    jobs : sequence
        What to prepare.
    depth : int
        How many items at most wait for the consumer, the one in preparation included.

    Yields
    ------
    item
        In the order of the jobs. An exception of ``prepare`` is raised here, with its traceback.
        The thread starts with the first item asked for, and ends when the generator is
        exhausted, closed or dropped.

    Examples
    --------
    >>> list(prefetch(str.upper, ["a", "b"]))
    ['A', 'B']
    """
    items: SimpleQueue[Item | _Failure] = SimpleQueue()
    slots = threading.Semaphore(depth)
    stop = threading.Event()

    def work() -> None:
        try:
            for job in jobs:
                slots.acquire()
                if stop.is_set():
                    return
                items.put(prepare(job))
        except BaseException as error:
            items.put(_Failure(error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in jobs:
            item = items.get()
            slots.release()
            if isinstance(item, _Failure):
                raise item.error
            yield item
            del item  # while the next one is awaited, this one is the consumer's alone
    finally:
        stop.set()
        slots.release()
        if thread is not threading.current_thread():  # the collector may run in any thread
            thread.join()
