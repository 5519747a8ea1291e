"""What a training step of DDNet launches on a GPU, found where there is none.

The step is run on the driver made of host memory that the tests have (tests/fake_driver.py). All of
it but the kernels themselves is real, so what is launched, how, and on which arrays is what a GPU
would be given. That driver replaces the real one for the rest of the process.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import ddnet_case
import numpy as np
from numba.cuda import dispatcher, types
from scaling import LAYERS

import deconv_core as dc
from deconv_core import device
from deconv_core.cuda import conv, graph, launch, linear
from deconv_core.cuda.config import Tile
from deconv_core.geometry import ConvGeometry

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import fake_driver

SETTING_UP = 3  # steps: the first moves the parameters, the last is recorded
PASSES = {  # of the convolution, of the transposed one, of the linear layer that it is the pass of
    "forward": ("forward", "input grad", "input grad"),
    "adjoint": ("input grad", "forward", "weight grad"),
    "dot": ("weight grad", "weight grad", "forward"),
}


@dataclass(frozen=True)
class Launch:
    """One launch.

    Attributes
    ----------
    name : the layer and the pass, or the kernel's own where it serves them all
    kernel : its function, the types of its arguments, and the blocks that its registers allow for
    tile, precision : of a kernel that has them
    arguments : of such a kernel; its plan is the last, and floats are zeros that take no memory
    nbytes : of its arrays
    """

    name: str
    kernel: tuple[Callable[..., None], tuple[Any, ...], int]
    tile: Tile | None
    precision: str
    arguments: list[Any]
    blocks: int
    threads: int
    nbytes: int


@dataclass
class Step:
    """What one step asks of the driver.

    Attributes
    ----------
    launches : of the step when it is not recorded
    calls : how often each of the driver's functions is called then
    moved : bytes set and copied between kernels, by function
    replayed : calls of the same step from its record
    """

    launches: list[Launch] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    replayed: Counter[str] = field(default_factory=Counter)


class Watch:
    """Notes launches, and whose they are."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.tiles: dict[Callable[..., None], tuple[Tile, str]] = {}
        self.name: str | None = None

    def tiled(self, maker: Any, signature: Any, tile: Tile, precision: str) -> Any:
        """Do what `launch.tiled` does, and note the tile."""
        made = launch.tiled(maker, signature, tile, precision)
        self.tiles[made.py_func] = tile, precision if tile.tensor else "float32"
        return made

    def spread(self, *args: Any) -> Any:
        """Do what `conv._spread` does, and note the pass."""
        self.name = name_of(args[5], "adjoint" if args[6] else "forward")
        return SPREAD(*args)

    def dot(self, *args: Any) -> Any:
        """Do what `conv.dot` does, and note the pass."""
        self.name = name_of(args[3], "dot")
        return DOT(*args)

    def note(self, kernel: Any, args: Any, blocks: int, threads: int) -> None:
        """Note a launch."""
        tile, precision = self.tiles.get(kernel[0], (None, "float32"))
        sizes = {  # by address: an unused argument may be any array
            value.device_ctypes_pointer.value: value.nbytes
            for kind, value in zip(kernel[1], args, strict=True)
            if isinstance(kind, types.Array)
        }
        name = self.name if tile else kernel[0].__name__.lstrip("_")
        arguments = list(map(_kept, kernel[1], args)) if tile else []
        nbytes = sum(sizes.values())
        self.launches.append(
            Launch(str(name), kernel, tile, precision, arguments, blocks, threads, nbytes)
        )


def _kept(kind: Any, value: Any) -> Any:
    """Return what is kept of an argument: of large arrays the size."""
    floats = isinstance(kind, types.Array) and kind.dtype == types.float32
    return np.broadcast_to(np.float32(0), value.size) if floats else value


SPREAD, DOT = conv._spread, conv.dot
watch = Watch()


class Kernel(fake_driver.FakeKernel):
    """A kernel that is not run: its launches are checked and noted."""

    def __init__(self, of: Any, kinds: tuple[Any, ...]) -> None:
        super().__init__(of.py_func.__name__, kinds)
        _, blocks = of.targetoptions.get("launch_bounds") or (0, 1)
        self.made = of.py_func, kinds, blocks

    def launch(self, args: Any, grid: Any, block: Any, *rest: Any) -> None:
        """Note a launch."""
        super().launch(args, grid, block, *rest)
        watch.note(self.made, args, grid[0], block[0])


def _compile(self: Any, signature: Any) -> Kernel:
    """Stand in for `CUDADispatcher.compile`."""
    kinds = tuple(getattr(signature, "args", signature))
    return self.overloads.setdefault(kinds, Kernel(self, kinds))


def name_of(shape: ConvGeometry, what: str) -> str:
    """Name a pass as DDNet's users know it: its linear layers are 1x1 convolutions."""
    if shape.rows.kernel == 1:
        layer, kind, images = f"linear {shape.in_channels}x{shape.cols.size}", 2, shape.out_channels
    else:
        layer = LAYERS[shape.in_channels, shape.out_channels, shape.rows.step]
        kind, images = int(layer.startswith("deconv")), shape.batch
    return f"{layer}: {PASSES[what][kind]}, {images} image{'s' if images > 1 else ''}"


def of_a_step(batch: int, size: int, precision: str, collapse: bool, cc: tuple[int, int]) -> Step:
    """Return what a step asks of the driver of a GPU of this compute capability."""
    fake_driver.pytest_configure()
    patch = mock.patch.object
    with (
        patch(dispatcher.CUDADispatcher, "compile", _compile),
        patch(launch, "capability", lambda: cc),
        patch(conv, "tiled", watch.tiled), patch(conv, "_spread", watch.spread),
        patch(conv, "dot", watch.dot), patch(linear, "dot", watch.dot),
    ):  # fmt: skip
        case = ddnet_case.training(batch, size)
        net = dc.DDNet(image_size=size).to("cuda", precision=precision)
        criterion, optimizer = dc.CrossEntropyLoss(), dc.Adam(net.parameters())
        x, target = (device.to(case[name], "cuda") for name in ("x", "target"))

        def step() -> list[Any]:
            watch.launches = []
            return fake_driver.calls_of(
                lambda: dc.train_step(net, criterion, optimizer, x, target, collapse=collapse)
            )

        found = Step()
        with patch(graph, "AVAILABLE", False):
            step()
            calls = step()
        found.launches, found.calls = watch.launches, fake_driver.count(calls)
        for call in calls:
            if call.name.startswith("cuMem"):
                found.moved[call.name] += call.detail
        for _ in range(SETTING_UP):
            found.replayed = fake_driver.count(step())
    return found
