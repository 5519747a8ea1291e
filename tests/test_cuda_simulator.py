"""The CUDA kernels in numba's simulator, each module in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MODULES = sorted(
    path.name
    for path in TESTS.glob("test_cuda_*.py")
    if re.search(r"^pytestmark = .*\bsimulated\b", path.read_text(), re.MULTILINE)
)
# Modules of NumPy's tests whose float32 calls take their way over CUDA, and which of their tests
# the simulator has the time for; test_gpu.py runs all of them.
BY_WAY_OF_CUDA = {
    "test_functional_bad_input.py": "not only_the_cpu",
    "test_functional_pool.py": "",
    "test_functional_small.py": "not linear",
    "test_functional_conv.py": "by_hand",
    "test_functional_conv_transpose.py": "by_hand",
}
needs_numba_cuda = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)


def run(*arguments: str) -> str:
    """Run pytest in the simulator and return its last line."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": path()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def path() -> str:
    """Return where Python looks for modules, the tests' folder included."""
    return os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))


def test_there_are_modules_to_run() -> None:
    assert {"test_cuda_elementwise.py", "test_cuda_net.py"} <= set(MODULES)


@needs_numba_cuda
@pytest.mark.parametrize("module", MODULES)
def test_in_the_simulator(module: str) -> None:
    summary = run(str(TESTS / module))
    assert "passed" in summary and "skipped" not in summary, summary


@needs_numba_cuda
@pytest.mark.parametrize("module", BY_WAY_OF_CUDA)
def test_what_holds_for_numpy_holds_in_the_simulator(module: str) -> None:
    summary = run("-p", "on_cuda", str(TESTS / module), "-k", BY_WAY_OF_CUDA[module])
    assert "passed" in summary and "skipped" not in summary, summary


@needs_numba_cuda
def test_docstring_examples_run_in_the_simulator() -> None:
    summary = run(str(TESTS / "test_docs.py"), "-k", "docstring_examples and deconv_core.cuda")
    assert "passed" in summary and "skipped" not in summary, summary
