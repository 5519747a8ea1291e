"""The main job as a user starts it, in a process of its own or as a module."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "train_ddnet.py"
# 102 steps an epoch: the last batch holds one image, and step 100 prints its line.
OPTIONS = ["--dataset", "shapes", "--epochs", "2", "--batch-size", "2", "--seed", "3"]
OPTIONS += ["--limit-train", "203", "--limit-test", "20"]
OPTIONS += ["--image-size", "8", "--variant", "pooled"]


def start(*arguments: object) -> subprocess.Popen:
    """Start the script in a process of its own."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Wait for the end; return the exit status, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def load() -> ModuleType:
    """Return the script as a module, for runs that end before they train."""
    spec = importlib.util.spec_from_file_location("train_ddnet", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
