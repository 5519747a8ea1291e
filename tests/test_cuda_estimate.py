"""What a training step should cost on a GPU that is not at hand, by benchmarks/cuda_estimate.py."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest
from scripts import BENCHMARKS

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)
if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator does not compile", allow_module_level=True)

from deconv_core.cuda import offline

if offline.find_tool("ptxas") is None:
    pytest.skip("ptxas is not installed: pip install nvidia-cuda-nvcc", allow_module_level=True)


def estimate(folder: Path, *options: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any], str]:
    """Return the rows by name, the summary, and what is printed, of a step that is small."""
    small = ["--batch-size", "2", "--image-size", "8", "--json", str(folder / "rows.json")]
    command = [sys.executable, str(BENCHMARKS / "cuda_estimate.py"), *small, *options]
    paths = os.pathsep.join(filter(None, [str(BENCHMARKS.parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    content = json.loads((folder / "rows.json").read_text())
    return {row["name"]: row for row in content["rows"]}, content["summary"], done.stdout


@pytest.mark.parametrize("precision, mmas", [("tf32", 1), ("3xtf32", 3)])
def test_the_instructions_of_a_tile_are_counted(precision: str, mmas: int, tmp_path: Path) -> None:
    only = ["--precision", precision, "--layer-by-layer", "--only", "conv1: forward"]
    found, summary, printed = estimate(tmp_path, *only)
    first, last = found["conv1: forward, 2 images"], found["deconv1: forward, 2 images"]
    assert len(found) == 2
    rows, columns, depth, taps, warps, product = 32, 128, 8, 9, 4, 16 * 8 * 8
    assert first["tile"] == f"{rows}x{columns}x{depth}" and first["units"] == precision
    assert first["blocks"] == 2 * 8 * 8 / columns
    assert first["products"] == mmas * taps * rows * columns * depth / product
    assert first["padding"] == pytest.approx(depth / 3 - 1)
    assert first["occupancy"] == first["resident"] * 32 * warps / 2048
    assert first["products"] < first["instructions"] < 25 * first["products"] + 2000 * warps
    # 128 channels by 9 taps, in four phases.
    assert last["products"] == mmas * 128 * taps / 4 * 64 * columns / product
    # The only block has a multiprocessor of an H100 to itself.
    assert first["limit"] == "issue"
    assert first["seconds"] == pytest.approx(first["instructions"] / (4 * 1.98e9))
    assert f"{first['seconds'] * 1e6:.1f} (issue)" in printed
    assert summary["seconds"] == pytest.approx(first["seconds"] + last["seconds"])
    assert first["roofline"] < first["seconds"]


def test_a_kernel_that_multiplies_nothing_is_copying(tmp_path: Path) -> None:
    found, _, _ = estimate(tmp_path, "--only", "adam", "--capability", "8.0")
    features = 3 * 57 * 57
    weights = 9 * 2 * (3 * 32 + 32 * 64 + 64 * 128) + 10 * features
    moved = found["adam"]["seconds"] * 1.8e12 / (7 * 4)
    assert weights < moved < weights + 14 * 128  # biases, and gaps between parameters
    assert found["adam"]["limit"] == "copy" and found["adam"]["times"] == 1


@pytest.mark.parametrize("tail", [[], ["--layer-by-layer"]])
def test_launches_are_those_of_the_step(tail: list[str], tmp_path: Path) -> None:
    options = ["--batch-size", "128", "--only", "add", *tail]
    found, summary, _ = estimate(tmp_path, *options)
    layers = 7
    assert list(found) == ["add_chunks", "add"]
    assert (found["add"]["times"] == 2 * layers) == bool(tail)
    assert summary["launches"] > 60
    assert summary["replayed"]["cuGraphLaunch"] == summary["replayed"]["launch"] == 1
