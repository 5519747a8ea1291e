"""What every test shares: reproducible examples, two threads for any pass, junk in fresh memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before Numba is imported: two threads must be there to compare, on a machine of one core too.
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, os.cpu_count() or 1)))
# Threads that wait should sleep, not spin: the machine may be busy with something else.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import calls
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from deconv_core import memory

settings.register_profile(
    "reproducible",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reproducible")

# The tests' shapes are small, but should be cut into tasks and shared out as large ones are.
calls.share_from(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the simulator's tests, the longest: or one process waits for the other."""
    items.sort(key=lambda item: item.path.name != "test_cuda_simulator.py")


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type:
    """Each of the two dtypes of the contract in turn."""
    return request.param


@pytest.fixture(scope="module")
def junk() -> Iterator[None]:
    """Fill fresh memory with NaN, so that a result's unwritten element shows."""
    with memory.junk(0xFF):
        yield
