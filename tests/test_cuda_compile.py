"""The small CUDA kernels compiled without a GPU: by ptxas, whose report is read."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import numba
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)
if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator does not compile", allow_module_level=True)

from numba.cuda import types

from deconv_core.cuda import driver, elementwise, fold, loss, offline, pool, update

PTXAS = offline.find_tool("ptxas")
F4, F8, I8 = (types.Array(t, 1, "C") for t in (types.float32, types.float64, types.int64))
RANGES = types.Array(types.int64, 2, "C")
N, S, D, B = types.int64, types.float32, types.float64, types.boolean
# Each kernel as it is called: the types of its arguments.
KERNELS = {
    elementwise._relu_forward: (F4, F4),
    elementwise._relu_backward: (F4, F4, F4),
    elementwise._chunk_sums: (F4, N, N, N, N, F8),
    elementwise._channel_sums: (F8, N, F4),
    elementwise._add: (F4, F4),
    elementwise._scale: (F4, S),
    pool._max_forward: (F4, F4, I8, *[N] * 10),
    pool._row_ranges: (I8, N, N, RANGES),
    pool._max_backward: (F4, I8, RANGES, F4, *[N] * 4),
    pool._average_forward: (F4, F4, *[N] * 10),
    pool._average_backward: (F4, F4, *[N] * 10),
    fold._im2col: (F4, F4, *[N] * 12),
    fold._col2im: (F4, F4, *[N] * 12),
    loss._row_losses: (F4, I8, D, N, F4, F8),
    loss._mean: (F8, F8),
    update._adam: (F4, F4, F4, F4, *[S] * 8),
    update._sgd: (F4, F4, S, S),
    update._momentum: (F4, F4, F4, B, S, S, S, S, B),
}


def test_no_kernel_is_left_out() -> None:
    modules = (elementwise, fold, loss, pool, update)
    kernels = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type(elementwise._add)) and not value.targetoptions.get("device")
    }
    assert kernels == set(KERNELS)


@pytest.mark.parametrize("cc", [(7, 5), (8, 0), (9, 0)], ids=["sm75", "sm80", "sm90"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_a_kernel_needs_no_local_memory(kernel: Any, cc: tuple[int, int]) -> None:
    if PTXAS is None:
        pytest.skip("ptxas is not installed: pip install nvidia-cuda-nvcc")
    ptx = offline.compile_ptx(kernel.py_func, types.void(*KERNELS[kernel]), cc, driver.THREADS)
    report = offline.assemble(ptx, cc, driver.THREADS, PTXAS)
    assert (report.stack, report.spills) == (0, 0)
    assert report.occupancy >= 0.375, report.registers
    assert not re.search(r"^\s*(@%p\d+ )?(atom|red)\.", ptx, re.MULTILINE)
