"""On an NVIDIA GPU: ``pytest -m gpu``. Elsewhere these are skipped, by name.

The property suite runs once more with every float32 call of `functional` taking its way over the
device (on_cuda.py); nets follow PyTorch; runs repeat themselves bit for bit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_run import finish, start
from on_cuda import there
from test_models import VARIANTS, both

import deconv_core as dc
from deconv_core import device

TESTS = Path(__file__).parent
# Modules of NumPy's tests that hold on a GPU too, and which of their tests.
PROPERTIES = {
    "test_functional_conv.py": "",
    "test_functional_conv_transpose.py": "",
    "test_functional_pool.py": "",
    "test_functional_small.py": "",
    "test_functional_extremes.py": "",
    "test_functional_memory.py": "junk or layout or belong",
    "test_functional_bad_input.py": "not only_the_cpu",
}
# Those and steps of whole nets, as compute-sanitizer should see them.
SANITIZED = PROPERTIES | {"test_gpu.py": "follow_pytorch or repeat or steady_step"}


@pytest.fixture(scope="module", autouse=True)
def gpu() -> None:
    """Skip where there is no GPU."""
    try:
        device.check("cuda")
    except ImportError as error:
        pytest.skip(str(error))
    if device.cuda().driver.SIMULATED:
        pytest.skip("the simulator is no GPU")


pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600)]


def on_the_device(module: str, which: str, *before: str) -> None:
    """Run a module's tests, of any length, with their float32 calls on the device."""
    command = [*before, sys.executable, "-m", "pytest", "-q", "-p", "on_cuda", "--timeout", "0"]
    command += [str(TESTS / module), "-k", which]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert " passed" in done.stdout, done.stdout


@pytest.mark.parametrize("module", PROPERTIES)
def test_the_property_suite_holds(module: str) -> None:
    on_the_device(module, PROPERTIES[module])


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("module", SANITIZED)
def test_compute_sanitizer_finds_nothing(module: str, tool: str) -> None:
    from deconv_core.cuda import offline

    sanitizer = offline.find_tool("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed: pip install 'deconv_core[sanitizer]'")
    options = ["--tool", tool, "--error-exitcode", "1"]
    on_the_device(module, SANITIZED[module], sanitizer, *options)


def losses_of(net: dc.Sequential, x: np.ndarray, target: np.ndarray) -> list[float]:
    """Take a step of Adam on each batch and return the losses."""
    optimizer, criterion = dc.Adam(net.parameters(), lr=1e-3), dc.CrossEntropyLoss()
    steps = [
        dc.train_step(net, criterion, optimizer, *batch)
        for batch in zip(map(there, x), map(there, target), strict=True)
    ]
    return [float(loss) for loss in steps]


@pytest.mark.parametrize(
    "precision, tolerance", [("float32", 3e-3), ("3xtf32", 3e-3), ("tf32", 3e-2)]
)
@pytest.mark.parametrize("variant, size", VARIANTS)
def test_twenty_adam_steps_follow_pytorch(
    variant: str, size: int, precision: str, tolerance: float
) -> None:
    ours, theirs = both(variant, size, np.float32)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (20, 6, 3, size, size)).astype(np.float32)
    target = rng.integers(0, 3, (20, 6))
    try:
        losses = losses_of(ours.to("cuda", precision=precision), x, target)
    except ValueError as error:  # a GPU without TF32
        pytest.skip(str(error))
    optimizer, criterion = torch.optim.Adam(theirs.parameters()), torch.nn.CrossEntropyLoss()
    expected = []
    for batch, labels in zip(x, target, strict=True):
        optimizer.zero_grad()
        loss = criterion(theirs(torch.from_numpy(batch)), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses, expected, rtol=tolerance)


def trained(seed: int) -> tuple[list[float], list[bytes]]:
    """Return the losses and the weights' bits of a few steps at the real size."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, 32, 3, 32, 32)).astype(np.float32)
    net = dc.DDNet().to("cuda")
    losses = losses_of(net, x, rng.integers(0, 10, (4, 32)))
    return losses, [array.tobytes() for array in net.state_dict().values()]


def test_runs_repeat_bit_for_bit() -> None:
    first = trained(0)
    assert all(trained(0) == first for _ in range(3))
    assert trained(1) != first


def test_recorded_steps_are_the_launched_ones_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, replays = device.cuda().graph, []
    replay = graph.Record.replay
    monkeypatch.setattr(graph.Record, "replay", lambda *a: (replays.append(a), replay(*a))[1])
    recorded = trained(0)
    assert len(replays) == 1
    monkeypatch.setattr(graph, "AVAILABLE", False)
    assert trained(0) == recorded
    assert len(replays) == 1


def test_nothing_is_allocated_in_a_steady_step(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = device.cuda().blocks
    net = dc.DDNet().to("cuda")
    step = (net, dc.CrossEntropyLoss(), dc.Adam(net.parameters()))
    x, target = there(np.ones((16, 3, 32, 32), np.float32)), there(np.zeros(16, np.int64))
    for _ in range(4):  # the third is recorded
        dc.train_step(*step, x, target)
    made: list[Any] = []
    monkeypatch.setattr(blocks.cuda, "device_array", made.append)
    dc.train_step(*step, x, target)
    assert not made


@pytest.mark.slow
def test_the_listing_s_configuration_fits() -> None:
    """224x224 at batch 128 on a card of 80 GB."""
    net = dc.DDNet(image_size=224).to("cuda")
    x = there(np.zeros((128, 3, 224, 224), np.float32))
    step = (dc.CrossEntropyLoss(), dc.Adam(net.parameters()), x, there(np.zeros(128, np.int64)))
    assert float(dc.train_step(net, *step)) == pytest.approx(np.log(10), rel=0.1)


def test_the_benchmark_validates_and_times_the_step() -> None:
    if not torch.cuda.is_available():
        pytest.skip("the installed PyTorch cannot use the GPU")
    script = TESTS.parent / "benchmarks" / "gpu.py"
    options = ["--step", "--batch-size", "8", "--repeats", "1"]
    done = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tensor = torch.cuda.get_device_capability() >= (8, 0)
    assert done.stdout.count("DDNet step, batch 8") == (6 if tensor else 2)


def test_the_example_trains(tmp_path: Path) -> None:
    options = ["--dataset", "shapes", "--epochs", "2", "--limit-train", "512", "--limit-test", "64"]
    status, stdout, stderr = finish(start(*options, "--device", "cuda", "--out", tmp_path))
    assert status == 0, stderr
    assert "Accuracy of the DDNet on the 64 test images" in stdout
