"""Launches as numba-cuda makes them, on a driver made of host memory (fake_driver.py).

The simulator replaces numba-cuda's launches and arrays; here they are the real ones, up to the
calls of the driver, and the kernels alone do nothing.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)
if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator has launches of its own", allow_module_level=True)

import fake_driver
import test_cuda_compile
import test_cuda_signatures
from fake_driver import MAKING, WAITING, binding, calls_of, count
from on_cuda import there

import deconv_core as dc
from deconv_core import device
from deconv_core.cuda import conv, elementwise, memory, pack

TESTS = Path(__file__).parent
faked = pytest.mark.skipif(
    not fake_driver.installed, reason="needs the fake driver: test_on_the_fake_driver"
)
TILED = {"spread": conv.SPREAD, "dot": conv.DOT, "add_chunks": conv.ADD_CHUNKS, "pack": pack.PACK}


@pytest.mark.skipif(fake_driver.installed, reason="this is the run that it starts")
def test_on_the_fake_driver() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "fake_driver"]
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, __file__],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "1 skipped" in done.stdout and "passed" in done.stdout


@faked
def test_kernels_are_called_with_the_types_that_are_compiled_in_the_tests() -> None:
    """Every kernel of the package is launched, and none with other arguments."""
    compiled = {k.py_func.__name__: t for k, t in test_cuda_compile.KERNELS.items()} | TILED
    launched: dict[str, set[Any]] = {}

    def launch_all() -> None:
        for name, arguments in test_cuda_signatures.arguments().items():
            getattr(device.cuda(), name)(*map(there, arguments))
        a, b = (there(np.ones((2, 3), np.float32)) for _ in range(2))
        device.cuda().sgd_step(a, b, None, True, 0.1, 0.0, 0.0, 0.0, False)
        elementwise.add(a, b)
        elementwise.scale(a, 2)
        conv.conv_weight_grad(
            there(np.ones((64, 3, 32, 32), np.float32)),
            there(np.ones((64, 3, 32, 32), np.float32)),
            dc.geometry.conv((64, 3, 32, 32), (3, 3, 1, 1)),
        )

    for call in calls_of(launch_all):
        if call.name == "launch":
            launched.setdefault(call.detail.kernel, set()).add(call.detail.types)
    assert launched == {name: {tuple(kinds)} for name, kinds in compiled.items()}


def steady_step(**options: Any) -> Any:
    """Return DDNet's training step, after a few steps."""
    net = dc.DDNet().to("cuda")
    step = (net, dc.CrossEntropyLoss(), dc.Adam(net.parameters()))
    x, target = there(np.ones((8, 3, 32, 32), np.float32)), there(np.zeros(8, np.int64))

    def run() -> Any:
        return dc.train_step(*step, x, target, **options)

    for _ in range(4):
        run()
    return run


@faked
@pytest.mark.parametrize("collapse", [False, True], ids=["layer by layer", "tail as a matrix"])
def test_a_steady_step_neither_allocates_nor_waits(collapse: bool) -> None:
    calls = count(calls_of(steady_step(collapse=collapse)))
    assert not (MAKING | WAITING) & set(calls), calls
    assert calls["launch"] > 50


@faked
def test_out_of_memory_names_the_request_and_frees_what_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, dropped = memory.empty(1 << 20, np.uint8), memory.empty(1 << 21, np.uint8)
    monkeypatch.setattr(binding, "capacity", binding.in_use() + (1 << 19))
    del dropped
    block = memory.empty(2_500_000, np.uint8)
    assert binding.in_use() <= binding.capacity, "what was idle made room"
    expected = (
        r"out of memory: 65,536\.0 MiB were asked for; this process's arrays hold [\d.]+ MiB, and "
        r"[\d.]+ MiB of the device's [\d.]+ MiB are free"
    )
    with pytest.raises(MemoryError, match=expected):
        memory.empty(1 << 36, np.uint8)
    assert kept.size and block.size
