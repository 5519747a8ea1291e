"""A CUDA driver made of host memory: all that numba-cuda does up to the driver's calls is real.

Memory is allocated, copied and set on the host; kernels are neither compiled nor run, but each
launch converts its arguments and is noted. ``pytest -p fake_driver tests/test_cuda_launches.py``
installs it, for the life of the process and before `deconv_core.cuda` is imported.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from cuda.bindings import driver as real
from fake_binding import Call, FakeBinding
from numba.cuda import dispatcher, types
from numba.cuda.cudadrv import driver as numba_driver
from numba.cuda.typing.typeof import Purpose, typeof


class Launch(NamedTuple):
    """A kernel's name, the types that it was compiled for, and its blocks and threads."""

    kernel: str
    types: tuple[Any, ...]
    blocks: int
    threads: int


class FakeKernel:
    """A kernel that is never compiled: its launches convert and check the arguments."""

    launch_config_sensitive = False
    extensions: tuple[()] = ()
    _prepare_args = dispatcher._Kernel._prepare_args

    def __init__(self, name: str, argument_types: tuple[Any, ...]) -> None:
        self.name, self.argument_types = name, argument_types

    def launch(self, args: Any, grid: Any, block: Any, stream: Any = 0, shared: int = 0) -> None:
        """Convert the arguments as a real launch does, and note it."""
        assert len(args) == len(self.argument_types), self.name
        arrays = []
        for kind, value in zip(self.argument_types, args, strict=True):
            converted: list[Any] = []
            self._prepare_args(kind, value, stream, [], converted)
            if isinstance(kind, types.Array):
                assert typeof(value, Purpose.argument) == kind, (self.name, kind)
                arrays.append((converted[4], value.nbytes))
        assert min(grid) > 0 and max(grid) < 2**31 and 0 < block[0] <= 1024, (grid, block)

        def run() -> None:
            assert all(binding.holds(*array) for array in arrays), (self.name, "dangling pointer")

        launch = Launch(self.name, self.argument_types, grid[0], block[0])
        binding.do("launch", stream, launch, run)


def _compile(self: Any, signature: Any) -> FakeKernel:
    """Stand in for `CUDADispatcher.compile`."""
    kinds = tuple(getattr(signature, "args", signature))
    return self.overloads.setdefault(kinds, FakeKernel(self.py_func.__name__, kinds))


class FakeDevice(numba_driver.Device):
    """A GPU of compute capability 9.0."""

    def __init__(self, number: int) -> None:
        self.id, self.name, self.compute_capability = number, "made of host memory", (9, 0)
        self.primary_context: Any = None

    def get_primary_context(self) -> Any:
        """Return numba's context, the only one."""
        if self.primary_context is None:
            self.primary_context = numba_driver.Context(weakref.proxy(self), real.CUcontext(1))
        return self.primary_context


def _stream(stream: Any) -> int:
    """Return a stream's handle, in place of what a real launch takes."""
    assert isinstance(stream, numba_driver.Stream) or stream == 0, stream
    return int(stream)


def calls_of(task: Callable[[], Any]) -> list[Call]:
    """Return the driver's calls while a task runs."""
    start = len(binding.log)
    task()
    return binding.log[start:]


def count(calls: list[Call]) -> Counter[str]:
    """Return how often each function was called."""
    return Counter(call.name for call in calls)


binding = FakeBinding()
installed = False


def pytest_configure() -> None:
    """Install the driver, when this file is given to pytest as a plugin."""
    global installed
    installed = True
    numba_driver.binding = binding
    numba_driver.Device = FakeDevice
    numba_driver._to_core_stream = _stream
    dispatcher.CUDADispatcher.compile = _compile
    driver = numba_driver.driver
    driver.is_initialized, driver.initialization_error = False, None
