"""Devices where there is no CUDA: nothing touches it, and who asks for it is told what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deconv_core as dc
from deconv_core import device
from deconv_core import functional as F

X, W = np.ones((1, 2, 4, 4), np.float32), np.ones((3, 2, 3, 3), np.float32)


def cuda_is_here() -> bool:
    """Return whether CUDA can be used."""
    try:
        device.check("cuda")
    except ImportError:
        return False
    return True


def test_nothing_imports_cuda_until_it_is_asked_for() -> None:
    code = """
import sys
import numpy as np
import deconv_core as dc
net = dc.DDNet(image_size=8).to("cpu")
step = (net, dc.CrossEntropyLoss(), dc.Adam(net.parameters()))
print([name for name in sys.modules if "cuda" in name and "deconv_core" in name])
print([name for name in sys.modules if name.startswith(("numba.cuda", "numba_cuda", "cuda"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_asking_for_cuda_without_it_says_what_is_missing() -> None:
    if cuda_is_here():
        pytest.skip("CUDA can be used here")
    net = dc.Linear(2, 1, rng=0)
    with pytest.raises(ImportError, match=r"CUDA needs.* pip install 'deconv_core\[cuda\]'"):
        net.to("cuda")
    assert device.of(net.weight.data) == "cpu"
    with pytest.raises(ImportError, match="CUDA needs"):
        device.to(X, "cuda")
    with pytest.raises(ImportError, match="CUDA needs"):
        next(iter(device.feed([(X, X)], "cuda")))


def test_without_its_package_the_error_names_it() -> None:
    code = """
import sys
sys.modules["numba_cuda"] = None  # as if it were not installed
import deconv_core as dc
try:
    dc.Linear(2, 1, rng=0).to("cuda")
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "CudaUnavailable CUDA needs the package numba-cuda, which is not installed: "
        "pip install 'deconv_core[cuda]'\n"
    )


def test_the_gpu_benchmark_says_so_too() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--precision" in done.stdout
    if not cuda_is_here():
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
        assert done.returncode == 1 and "CUDA needs" in done.stderr


@pytest.mark.parametrize("name", ["gpu", "CUDA", None, 0])
def test_an_unknown_device(name: object) -> None:
    with pytest.raises(ValueError, match=f"device must be one of cpu, cuda, got {name!r}"):
        dc.Linear(2, 1, rng=0).to(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["tf32", "3xtf32"])
def test_numpy_s_arrays_have_a_precision_of_their_own(precision: str) -> None:
    calls = (
        lambda p: F.conv2d(X, W, precision=p),
        lambda p: F.conv_transpose2d(X, W[:2], precision=p),
        lambda p: F.linear(X[0, 0], X[0, 1], precision=p),
        lambda p: dc.Linear(2, 1, rng=0).to("cpu", precision=p),
    )
    for call in calls:
        with pytest.raises(ValueError, match=f"precision '{precision}' is for CUDA"):
            call(precision)
        call("float32")
        with pytest.raises(ValueError, match="precision must be one of float32.*'exact'"):
            call("exact")


def test_moving_to_where_it_is_changes_nothing() -> None:
    net = dc.Linear(2, 1, rng=0)
    data, grad = net.weight.data, net.weight.grad
    assert net.to("cpu") is net and net.weight.data is data and net.weight.grad is grad
    assert list(device.feed([(1, 2)], "cpu")) == [(1, 2)]
