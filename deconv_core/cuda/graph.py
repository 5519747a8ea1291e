"""A training step as a CUDA graph: recorded once, and then launched as a whole.

A step of a small net is some hundred launches, which the host needs longer for than the GPU. They
are the same from step to step, so the driver can record them instead of running them, and run the
record in one call. A record has the addresses of all that it reads and writes in it. So a batch is
copied into arrays of the record's own first, its temporary arrays come from a reserve that nobody
else uses, and it stands only for the very parameters and gradients that it was made with.
"""

from __future__ import annotations

import operator
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from numba.cuda.cudadrv import driver as numba_driver
from numba.cuda.cudadrv.driver import CudaAPIError, driver

from .blocks import Reserve
from .driver import SIMULATED
from .loss import Loss
from .memory import copy, empty
from .streams import beside, working_on

Task = Callable[[Any, Any], Loss]
AVAILABLE = not SIMULATED


class Step:
    """What a step does, so that it can be told from another.

    Parameters
    ----------
    kind : what decides its launches, but for the arrays
    arrays : those that are there before the step and after it
    batch : the arrays that differ from step to step
    """

    def __init__(self, kind: Any, arrays: Sequence[Any], batch: Sequence[Any]) -> None:
        self.kind = kind, [(a.shape, a.strides, a.dtype) for a in batch]
        self.arrays = arrays

    def is_like(self, other: Step | None) -> bool:
        """Tell whether it launches the same kernels on the same arrays, the batch excepted."""
        return (
            other is not None
            and self.kind == other.kind
            and len(self.arrays) == len(other.arrays)
            and all(map(operator.is_, self.arrays, other.arrays))
        )


class Record:
    """A step as a graph, and all memory that its kernels point to, which is kept as long.

    Parameters
    ----------
    step : what it does
    batch : arrays of the batch's form
    """

    def __init__(self, step: Step, batch: Sequence[Any]) -> None:
        self.step, self._reserve = step, Reserve()
        with self._reserve.open():
            self._batch = [empty(array.shape, array.dtype) for array in batch]

    def make(self, task: Task, batch: Sequence[Any]) -> Loss:
        """Run the step on a batch, kernel by kernel, record it, and return the run's loss.

        After the run all is there that the record needs: kernels are compiled and loaded, and the
        reserve has the very blocks.
        """
        self._fill(batch)
        with self._reserve.open():
            loss = task(*self._batch)
        kept = loss.copy()
        del loss  # it lies where the record's will
        with self._reserve.open():
            self._graph, self._loss = _record(lambda: task(*self._batch))
        weakref.finalize(self, driver.cuGraphExecDestroy, self._graph).atexit = False
        return kept

    def replay(self, batch: Sequence[Any]) -> Loss:
        """Run the step on a batch, as a whole, and return its loss, not read yet."""
        self._fill(batch)
        driver.cuGraphLaunch(self._graph, 0)
        return self._loss.copy()

    def _fill(self, batch: Sequence[Any]) -> None:
        """Copy a batch to where the kernels look for it."""
        for own, given in zip(self._batch, batch, strict=True):
            copy(own, given)


def _record(task: Callable[[], Loss]) -> tuple[Any, Loss]:
    """Return a graph, ready to be launched, of what a task launches, and what the task returns."""
    stream = beside("recording")
    # What else is done meanwhile, by other threads say, is neither recorded nor an error.
    relaxed = numba_driver.binding.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    driver.cuStreamBeginCapture(int(stream), relaxed)
    try:
        with working_on(stream):
            result = task()
    except BaseException:
        with suppress(CudaAPIError):  # where the error was the driver's, there is no graph
            driver.cuGraphDestroy(driver.cuStreamEndCapture(int(stream)))
        raise
    graph = driver.cuStreamEndCapture(int(stream))
    try:
        return driver.cuGraphInstantiate(graph, 0), result
    finally:
        driver.cuGraphDestroy(graph)


class _Past:
    """What is known of a net's steps: the last one, and the one on record."""

    last: Step | None = None
    record: Record | None = None
    refused = False


_pasts: dict[int, _Past] = {}  # by the identity of a net that lives


def forget(net: Any) -> None:
    """Drop what is known of a net's steps, and the record with its memory."""
    _pasts.pop(id(net), None)


def run(net: Any, kind: Any, arrays: Sequence[Any], task: Task, batch: Sequence[Any]) -> Loss:
    """Return ``task(*batch)``, from the record of such a step where there is one.

    A step like the one before it is recorded, and its record takes the place of another. So
    the last batch of an epoch, which may be smaller, is launched kernel by kernel. A record, with
    all of the memory that a step takes, is dropped when its net is, or leaves the device. Where the
    driver cannot record a step, or there is no memory for it, a RuntimeWarning says why, and the
    net's steps are launched kernel by kernel.

    Parameters
    ----------
    net : whose steps these are
    kind, arrays : see `Step`
    task : launches the step on a batch; what else it does is not done by replays
    batch : device arrays, which are copied
    """
    if id(net) not in _pasts:
        _pasts[id(net)] = _Past()
        weakref.finalize(net, _pasts.pop, id(net), None).atexit = False
    past, step = _pasts[id(net)], Step(kind, arrays, batch)
    if past.record is not None and step.is_like(past.record.step):
        past.last = None
        return past.record.replay(batch)
    again, past.last = step.is_like(past.last), step
    if again and AVAILABLE and not past.refused:
        past.record = None  # its memory serves the next one
        try:
            record = Record(step, batch)
            loss = record.make(task, batch)
        except (CudaAPIError, MemoryError) as error:
            past.refused = True
            warnings.warn(f"no CUDA graph of the training step: {error}", RuntimeWarning, 4)
        else:
            past.record, past.last = record, None
            return loss
    return task(*batch)
