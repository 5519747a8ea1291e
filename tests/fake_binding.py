"""What `cuda.bindings.driver` is to numba-cuda, made of host memory, for fake_driver.py."""

from __future__ import annotations

import bisect
import ctypes
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)
if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator has launches of its own", allow_module_level=True)

from cuda.bindings import driver as real

OK, OUT_OF_MEMORY = real.CUresult.CUDA_SUCCESS, real.CUresult.CUDA_ERROR_OUT_OF_MEMORY
UNSUPPORTED = real.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
ALIGN, TOTAL = 512, 80 << 30
# What makes the host wait for the device, or the device for the host.
WAITING = {"cuCtxSynchronize", "cuStreamSynchronize", "cuEventSynchronize", "cuMemFree"}
WAITING |= {"cuMemcpyDtoH", "cuMemcpyDtoHAsync", "cuMemcpyHtoD"}
MAKING = {"cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate"}


class Call(NamedTuple):
    """A call of the driver, on a stream (0 for the default one), or "launch" with a kernel."""

    name: str
    stream: int
    detail: Any


class FakeBinding:
    """What `cuda.bindings.driver` is to numba-cuda: functions that return a status and a result.

    Attributes
    ----------
    log : the calls in their order, those that only ask for the context left out
    capacity : bytes of memory
    failing : functions that refuse, and with what status
    """

    def __init__(self) -> None:
        self.log: list[Call] = []
        self.capacity = TOTAL
        self.blocks: dict[int, np.ndarray] = {}  # of the device, by address
        self.places: list[int] = []  # these addresses in order
        self.pinned: dict[int, np.ndarray] = {}
        self.events: set[int] = set()
        self.handles = 1000
        self.failing: dict[str, Any] = {}
        self.capturing = 0  # the stream whose calls are recorded
        self.graphs: dict[int, list[Callable[[], Any]]] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            return getattr(real, name)  # types and constants
        function = getattr(self, f"do_{name}")

        def call(*args: Any) -> tuple[Any, ...]:
            if name in self.failing:
                return self.failing[name], None
            result = function(*args)
            return result if isinstance(result, tuple) else (OK, result)

        call.__name__ = name
        return call

    def note(self, name: str, stream: Any = 0, detail: Any = None) -> None:
        """Add a call to the log."""
        self.log.append(Call(name, int(stream), detail))

    def do(self, name: str, stream: Any, detail: Any, work: Callable[[], Any]) -> tuple[Any]:
        """Note a call and do its work, or record it where its stream is being recorded."""
        self.note(name, stream, detail)
        if self.capturing and int(stream) == self.capturing:
            self.graphs[0].append(work)
        else:
            work()
        return (OK,)

    def handle(self) -> int:
        """Return a number that was no handle before."""
        self.handles += 1
        return self.handles

    def in_use(self) -> int:
        """Return the bytes that are allocated on the device."""
        return sum(block.size - ALIGN for block in self.blocks.values())

    def holds(self, address: int, nbytes: int) -> bool:
        """Tell whether this is allocated memory of the device."""
        at = bisect.bisect_right(self.places, address) - 1
        if at < 0:
            return False
        start = self.places[at]
        return address + nbytes <= start + self.blocks[start].size - ALIGN

    def do_cuInit(self, flags: int) -> tuple[Any]:
        return (OK,)

    def do_cuCtxGetCurrent(self) -> Any:
        return real.CUcontext(1)

    def do_cuCtxGetDevice(self) -> Any:
        return 0

    def do_cuCtxPushCurrent(self, context: Any) -> tuple[Any]:
        return (OK,)

    def do_cuDeviceGetCount(self) -> int:
        return 1

    def do_cuMemGetInfo(self) -> tuple[Any, ...]:
        return OK, self.capacity - self.in_use(), self.capacity

    def do_cuMemAlloc(self, size: int) -> tuple[Any, ...]:
        self.note("cuMemAlloc", detail=size)
        if self.in_use() + size > self.capacity:
            return OUT_OF_MEMORY, None
        block = np.empty(size + ALIGN, np.uint8)
        address = -(-block.ctypes.data // ALIGN) * ALIGN
        self.blocks[address] = block
        bisect.insort(self.places, address)
        return OK, real.CUdeviceptr(address)

    def do_cuMemFree(self, address: Any) -> tuple[Any]:
        self.note("cuMemFree")
        del self.blocks[int(address)]
        self.places.remove(int(address))
        return (OK,)

    def do_cuMemHostAlloc(self, size: int, flags: int) -> int:
        self.note("cuMemHostAlloc", detail=size)
        block = np.empty(size, np.uint8)
        self.pinned[block.ctypes.data] = block
        return block.ctypes.data

    def do_cuMemFreeHost(self, address: Any) -> tuple[Any]:
        del self.pinned[int(address)]
        return (OK,)

    def copy(self, name: str, to: Any, source: Any, size: int, stream: Any = 0) -> tuple[Any]:
        """Copy `size` bytes."""
        to, source = int(to), int(source)
        kinds = name.removeprefix("cuMemcpy").removesuffix("Async").split("to")

        def work() -> None:
            for kind, address in zip(kinds, (source, to), strict=True):
                assert kind == "H" or self.holds(address, size), (name, "dangling pointer")
            ctypes.memmove(to, source, size)

        return self.do(name, stream, size, work)

    def do_cuMemcpyHtoD(self, *args: Any) -> tuple[Any]:
        return self.copy("cuMemcpyHtoD", *args)

    def do_cuMemcpyHtoDAsync(self, *args: Any) -> tuple[Any]:
        return self.copy("cuMemcpyHtoDAsync", *args)

    def do_cuMemcpyDtoH(self, *args: Any) -> tuple[Any]:
        return self.copy("cuMemcpyDtoH", *args)

    def do_cuMemcpyDtoHAsync(self, *args: Any) -> tuple[Any]:
        return self.copy("cuMemcpyDtoHAsync", *args)

    def do_cuMemcpyDtoD(self, *args: Any) -> tuple[Any]:
        return self.copy("cuMemcpyDtoD", *args)

    def do_cuMemcpyDtoDAsync(self, *args: Any) -> tuple[Any]:
        return self.copy("cuMemcpyDtoDAsync", *args)

    def do_cuMemsetD8(self, to: Any, byte: int, size: int, stream: Any = 0) -> tuple[Any]:
        address = int(to)

        def work() -> None:
            assert self.holds(address, size), "dangling pointer"
            ctypes.memset(address, byte, size)

        return self.do("cuMemsetD8", stream, size, work)

    do_cuMemsetD8Async = do_cuMemsetD8

    def do_cuStreamCreate(self, flags: int) -> Any:
        self.note("cuStreamCreate", detail=flags)
        return real.CUstream(self.handle())

    def do_cuStreamSynchronize(self, stream: Any) -> tuple[Any]:
        self.note("cuStreamSynchronize", stream)
        return (OK,)

    def do_cuStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> tuple[Any]:
        self.note("cuStreamWaitEvent", stream, int(event))
        return (OK,)

    def do_cuEventCreate(self, flags: int) -> Any:
        self.note("cuEventCreate")
        event = self.handle()
        self.events.add(event)
        return real.CUevent(event)

    def do_cuEventRecord(self, event: Any, stream: Any) -> tuple[Any]:
        assert int(event) in self.events, "a destroyed event"
        self.note("cuEventRecord", stream, int(event))
        return (OK,)

    def do_cuEventSynchronize(self, event: Any) -> tuple[Any]:
        self.note("cuEventSynchronize", detail=int(event))
        return (OK,)

    def do_cuEventDestroy(self, event: Any) -> tuple[Any]:
        self.events.remove(int(event))
        return (OK,)

    def do_cuStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any]:
        self.note("cuStreamBeginCapture", stream, mode)
        self.capturing, self.graphs[0] = int(stream), []
        return (OK,)

    def do_cuStreamEndCapture(self, stream: Any) -> int:
        assert int(stream) == self.capturing
        self.capturing, graph = 0, self.handle()
        self.note("cuStreamEndCapture", stream, graph)
        self.graphs[graph] = self.graphs.pop(0)
        return graph

    def do_cuGraphInstantiate(self, graph: int, flags: int) -> int:
        executable = self.handle()
        self.note("cuGraphInstantiate", detail=executable)
        self.graphs[executable] = self.graphs[graph]
        return executable

    def do_cuGraphDestroy(self, graph: int) -> tuple[Any]:
        self.note("cuGraphDestroy", detail=graph)
        del self.graphs[graph]
        return (OK,)

    def do_cuGraphExecDestroy(self, executable: int) -> tuple[Any]:
        self.note("cuGraphExecDestroy", detail=executable)
        del self.graphs[executable]
        return (OK,)

    def do_cuGraphLaunch(self, executable: int, stream: Any) -> tuple[Any]:
        self.note("cuGraphLaunch", stream, executable)
        for work in self.graphs[executable]:
            work()
        return (OK,)
