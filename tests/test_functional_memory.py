"""Memory: protected pages, junk, any layout, fresh results, equal bits, bodies without the JIT."""

from __future__ import annotations

import inspect
import subprocess
import sys

import calls
import numba
import numpy as np
import pytest
from scripts import HERE, run_script
from support import LAYOUTS, call, layout

from deconv_core import functional as F
from deconv_core import geometry, memory
from deconv_core.cpu import config
from deconv_core.cpu.positions.plan import dot_plan, spread_plan


def test_the_guard_does_bite() -> None:
    script = "import guard, sys; a = guard.empty(3, 'float32', sys.argv[1]); a.fill(1); {}"
    stray = "import ctypes; ctypes.string_at(a.ctypes.data + int(sys.argv[2]), 1)"
    for where, offset in (("end", 12), ("start", -1)):
        for statement, crashes in (("pass", False), (stray, True)):
            command = [sys.executable, "-c", script.format(statement), where, str(offset)]
            result = subprocess.run(command, cwd=HERE, capture_output=True, timeout=60)
            assert (result.returncode < 0) == crashes, result.stderr


@pytest.mark.parametrize("where", ["end", "start"])
def test_nothing_is_touched_outside_of_arrays(dtype: type, where: str) -> None:
    run_script("guarded_run.py", np.dtype(dtype).name, where)


def test_plain_python_bodies_compute_the_same() -> None:
    run_script("no_jit_run.py", NUMBA_DISABLE_JIT="1")


def test_every_public_function_is_driven() -> None:
    public = {
        function
        for name, function in inspect.getmembers(F, inspect.isfunction)
        if not name.startswith("_") and function.__module__.startswith("deconv_core")
    }
    driven = {item[1] for item in calls.every_call(np.float32)}
    driven |= {item[1] for item in calls.every_step(np.float32)}
    assert driven == public


def test_same_bits_on_any_number_of_threads_and_on_repetition(dtype: type) -> None:
    before = numba.get_num_threads()
    try:
        for name, function, arrays, rest, options in calls.every_call(dtype):
            results = []
            for threads in (1, 2, 2, 1):
                numba.set_num_threads(threads)
                results.append(calls.bits(function(*arrays, *rest, **options)))
            assert results.count(results[0]) == 4, (name, options)
    finally:
        numba.set_num_threads(before)


def test_same_bits_when_small_passes_stay_on_the_calling_thread(dtype: type) -> None:
    shape = geometry.conv((1, 16, 4, 16), (16, 16, 3, 3))
    passes = [(f, a, r, o) for _, f, a, r, o in calls.every_call(dtype) if "conv" in f.__name__]
    shared = [calls.bits(function(*a, *rest, **o)) for function, a, rest, o in passes]
    assert spread_plan(shape, False, 4).workers > 1 < dot_plan(shape, 4).workers
    try:
        calls.share_from(config.SHARED_MACS)
        assert spread_plan(shape, False, 4).workers == 1 == dot_plan(shape, 4).workers
        alone = [calls.bits(function(*a, *rest, **o)) for function, a, rest, o in passes]
    finally:
        calls.share_from(0)
    assert alone == shared


def test_same_bits_on_any_number_of_threads_for_a_large_batch(dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(dtype) for s in ((19, 16, 33, 31), (24, 16, 3, 3)))
    dy = F.conv2d(x, w, padding=1)
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2, 1):
            numba.set_num_threads(threads)
            results.append(
                [
                    F.conv2d(x, w, padding=1).tobytes(),
                    F.conv2d_input_grad(dy, w, x.shape, padding=1).tobytes(),
                    F.conv2d_weight_grad(dy, x, w.shape, padding=1).tobytes(),
                    F.conv_transpose2d(dy, w, stride=2).tobytes(),
                    F.linear_weight_grad(dy.reshape(19, -1)[:, :300], x.reshape(19, -1)).tobytes(),
                ]
            )
    finally:
        numba.set_num_threads(before)
    assert results.count(results[0]) == 4


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_junk_in_fresh_memory_changes_nothing(dtype: type, byte: int) -> None:
    for name, function, arrays, rest, options in calls.every_call(dtype):
        expected = calls.bits(call(function, *arrays, *rest, **options))
        with memory.junk(byte):
            assert calls.bits(call(function, *arrays, *rest, **options)) == expected, name


@pytest.mark.parametrize("how", [name for name in LAYOUTS if name != "broadcast"])
def test_the_layout_of_inputs_changes_nothing(dtype: type, how: str) -> None:
    for name, function, arrays, rest, options in calls.every_call(dtype):
        arrays = [layout(a.copy(), how) for a in arrays]
        expected = function(*(np.array(a, order="C") for a in arrays), *rest, **options)
        result = call(function, *arrays, *rest, **options)
        tolerance = 16 * np.finfo(dtype).eps
        pairs = zip(result, expected, strict=True) if isinstance(result, tuple) else None
        for one, other in pairs or [(result, expected)]:
            np.testing.assert_allclose(
                one, other, rtol=tolerance, atol=16 * tolerance, err_msg=name
            )


def test_results_belong_to_the_caller(dtype: type) -> None:
    for name, function, arrays, rest, options in calls.every_call(dtype):
        first = function(*arrays, *rest, **options)
        kept = calls.bits(first)
        second = function(*arrays, *rest, **options)
        for a in second if isinstance(second, tuple) else (second,):
            if isinstance(a, np.ndarray):
                a.fill(77)
        assert calls.bits(first) == kept, name
