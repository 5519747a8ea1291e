"""The modules that need the fake driver, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import pytest

TESTS = Path(__file__).parent
MODULES = sorted(
    path.name
    for path in TESTS.glob("test_cuda_*.py")
    if re.search(r"^pytestmark = faked$", path.read_text(), re.MULTILINE)
)


def test_there_are_modules_to_run() -> None:
    assert MODULES == ["test_cuda_launches.py", "test_cuda_recording.py"]


@pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)
@pytest.mark.skipif(numba.config.ENABLE_CUDASIM, reason="the simulator has launches of its own")
@pytest.mark.parametrize("module", MODULES)
def test_on_the_fake_driver(module: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "fake_driver"]
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, str(TESTS / module)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
