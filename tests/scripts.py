"""Programs that tests run in a process of their own, and modules of the benchmark suite."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks"


def run_script(name: str, *args: str, **environment: str) -> None:
    """Run a script of this folder to its last line, "done"."""
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-W", "error", str(HERE / name), *args]
    result = subprocess.run(
        command,
        env=os.environ | environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-500:] + result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == "done"


def load(name: str) -> ModuleType:
    """Import a module of the benchmark suite, whose scripts find each other beside themselves."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module(name)
