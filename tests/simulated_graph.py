"""CUDA graphs in the simulator, which has none: what is put on the recording stream is kept.

As in a CUDA graph, what is kept of an array is where it lies: a replay reads and writes these
addresses, whoever has them by then.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numba.cuda.simulator import kernel
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

from deconv_core.cuda import graph, memory

STREAM = 7


def _unowned(value: Any) -> Any:
    """Return a view of an array that does not keep its memory, and anything else as it is."""
    if not isinstance(value, FakeCUDAArray) or not value.size:
        return value
    nbytes = math.prod(value.shape) * value.dtype.itemsize
    raw = (ctypes.c_byte * nbytes).from_address(value._ary.ctypes.data)
    return FakeCUDAArray(np.frombuffer(raw, value.dtype).reshape(tuple(value.shape)))


class Driver:
    """The part of the driver that records and replays.

    Attributes
    ----------
    works : by graph, what it does
    replays : number of launches of a graph
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.works: dict[int, list[Callable[[], Any]]] = {}
        self.recording: list[Callable[[], Any]] | None = None
        self.replays = 0
        modes = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)
        binding = SimpleNamespace(CUstreamCaptureMode=modes)
        patch.setattr(graph, "AVAILABLE", True)
        patch.setattr(graph, "driver", self)
        patch.setattr(graph.numba_driver, "binding", binding, raising=False)
        patch.setattr(graph, "beside", lambda _: STREAM)
        launch, configure = kernel.FakeCUDAKernel.__call__, kernel.FakeCUDAKernel.__getitem__

        def configured(made: Any, configuration: Any) -> Any:
            made.stream = configuration[2]
            return configure(made, configuration)

        def launched(made: Any, *args: Any) -> None:
            if made._device or kernel._kernel_context or made.stream != STREAM:
                return launch(made, *args)
            form, views = (made.grid_dim, made.block_dim), list(map(_unowned, args))

            def run() -> None:
                made.grid_dim, made.block_dim = form
                made.stream = 0
                launch(made, *views)

            self.keep(run)

        patch.setattr(kernel.FakeCUDAKernel, "__getitem__", configured)
        patch.setattr(kernel.FakeCUDAKernel, "__call__", launched)
        for owner, name in ((memory, "device_memset"), (FakeCUDAArray, "copy_to_device")):
            patch.setattr(owner, name, self.recorded(getattr(owner, name)))

    def keep(self, work: Callable[[], Any]) -> None:
        """Keep what a replay is to do."""
        assert self.recording is not None, "the stream is used only while it is recorded"
        self.recording.append(work)

    def recorded(self, function: Callable[..., None]) -> Callable[..., None]:
        """Return a function that is kept for later when its stream, a last argument, is ours."""

        def call(*args: Any, stream: Any = 0) -> None:
            views = list(map(_unowned, args))
            if STREAM not in (stream, args[-1] if type(args[-1]) is int else 0):
                return function(*args)
            return self.keep(lambda: function(*views))

        return call

    def cuStreamBeginCapture(self, stream: int, mode: int) -> None:
        assert (stream, mode, self.recording) == (STREAM, 2, None)
        self.recording = []

    def cuStreamEndCapture(self, stream: int) -> int:
        assert self.recording is not None
        number = 1 + max(self.works, default=0)
        self.works[number], self.recording = self.recording, None
        return number

    def cuGraphInstantiate(self, number: int, flags: int) -> int:
        self.works[-number] = self.works[number]
        return -number

    def cuGraphDestroy(self, number: int) -> None:
        del self.works[number]

    cuGraphExecDestroy = cuGraphDestroy

    def cuGraphLaunch(self, number: int, stream: int) -> None:
        assert stream == 0
        self.replays += 1
        for work in self.works[number]:
            work()
