"""Compiling kernels where there is no GPU: to PTX, and on to ptxas, which says what they use.

Registers, shared memory, spills and the instructions themselves are known before a kernel ever
runs; the tests and `benchmarks/cuda_estimate.py` read them here.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from .driver import cuda

REGISTERS, SHARED_BYTES = 65536, {(7, 5): 64 << 10, (8, 0): 164 << 10, (9, 0): 228 << 10}
THREADS = {(7, 5): 1024, (8, 0): 2048, (9, 0): 2048}  # of one multiprocessor
RESERVED = 1024  # bytes of shared memory that the system takes for each block, from 8.0 on


@dataclass(frozen=True)
class Report:
    """What ptxas says of a kernel compiled for one compute capability; sizes in bytes.

    Attributes
    ----------
    stack, spills : local memory, which is slow: arrays that did not fit the registers, and numbers
    """

    ptx: str
    cc: tuple[int, int]
    threads: int
    registers: int
    shared: int
    stack: int
    spills: int

    @property
    def blocks(self) -> int:
        """Blocks that fit on one multiprocessor at the same time."""
        warps = -(-self.threads // 32)
        granted = -(-self.registers // 8) * 8 * 32 * warps  # registers come in eights, to warps
        shared = self.shared + (RESERVED if self.cc >= (8, 0) else 0)
        return min(
            REGISTERS // granted, SHARED_BYTES[self.cc] // max(1, shared),
            THREADS[self.cc] // (32 * warps),
        )  # fmt: skip

    @property
    def occupancy(self) -> float:
        """Share of a multiprocessor's threads that these blocks are."""
        return self.blocks * self.threads / THREADS[self.cc]


def find_tool(name: str) -> str | None:
    """Return the path of a tool of the CUDA toolkit: of one of NVIDIA's wheels, on PATH, or None.

    Examples
    --------
    >>> find_tool("no such tool") is None
    True
    """
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations or [] if spec else []:
        for path in sorted(Path(root).glob(f"*/bin/{name}")):
            return str(path)
    return shutil.which(name)


def compile_ptx(
    function: Callable[..., None],
    signature: Any,
    cc: tuple[int, int],
    threads: int,
    blocks: int = 1,
) -> str:
    """Return a kernel's PTX; `threads` and `blocks` as `launch.bounded` takes them."""
    device = SimpleNamespace(compute_capability=cc)  # numba asks it for nothing else
    with mock.patch("numba.cuda.dispatcher.get_current_device", lambda: device):
        ptx, _ = cuda.compile_ptx(function, signature, cc=cc, launch_bounds=(threads, blocks))
    return str(ptx)


def assemble(ptx: str, cc: tuple[int, int], threads: int, ptxas: str) -> Report:
    """Run ptxas and return its report.

    Raises
    ------
    RuntimeError
        With what ptxas says, when it refuses the code.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [ptxas, "-v", f"-arch=sm_{cc[0]}{cc[1]}", str(source), "-o", f"{source}.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ptxas failed: {done.stderr}")
    said = done.stderr

    def number(pattern: str) -> int:
        return sum(int(found) for found in re.findall(pattern, said))

    return Report(
        ptx, cc, threads,
        registers=number(r"Used (\d+) registers"),
        shared=number(r"(\d+) bytes smem"),
        stack=number(r"(\d+) bytes stack frame"),
        spills=number(r"(\d+) bytes spill"),
    )  # fmt: skip
