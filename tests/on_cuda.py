"""Calls of `functional` by way of CUDA: what every test of NumPy's results asks of the GPU's too.

``pytest -p on_cuda tests/test_functional_conv.py`` runs that module's float32 cases on the device;
float64 ones stay where they are. `simulated` marks the modules that `test_cuda_simulator.py` runs
in numba's simulator, which must be chosen before numba is imported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
import simulator  # noqa: F401

from deconv_core import device
from deconv_core import functional as F

simulated = pytest.mark.skipif(
    not numba.config.ENABLE_CUDASIM, reason="runs in the simulator: test_cuda_simulator.py"
)


def there(value: Any) -> Any:
    """Return a CUDA copy of an array, and anything else as it is."""
    if isinstance(value, np.ndarray):
        return device.to(np.array(value, order="C"), "cuda")
    return value


def here(value: Any) -> Any:
    """Return NumPy's copy of an array, a loss as a number, and anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(here, value))
    if type(value).__name__ == "Loss":
        return float(value)
    return device.plain(value)


def through_cuda(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return ``function(*args, **options)`` computed on CUDA, in NumPy; update what it updates."""
    moved, others = [there(arg) for arg in args], {n: there(v) for n, v in options.items()}
    result = here(function(*moved, **others))
    if options.get("add_to") is not None:
        options["add_to"][...] = result
        return options["add_to"]
    if function.__name__ in ("adam_step", "sgd_step"):
        for array, updated in zip(args, moved, strict=True):
            if isinstance(array, np.ndarray):
                array[...] = here(updated)
    return result


def _patched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that takes the way of CUDA whenever its arrays are float32."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        floats = {a.dtype for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
        if floats == {np.dtype(np.float32)}:
            return through_cuda(function, *args, **options)
        return function(*args, **options)

    return call


def pytest_configure() -> None:
    """Patch `functional`, when this file is given to pytest as a plugin."""
    for name in F.__all__:
        setattr(F, name, _patched(getattr(F, name)))
