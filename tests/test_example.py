"""The main job as a user runs it: its output, every interruption, and every refusal."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import example_run
import numpy as np
import pytest
import safetensors.numpy
import torch
from example_run import OPTIONS, SCRIPT, contents, finish, start

from deconv_core import checkpoint

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals"),
]


def wait_for_lines(process: subprocess.Popen, out: Path, count: int) -> None:
    """Wait until the run has logged `count` lines."""
    metrics = out / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "made" / "for it"
    status, stdout, stderr = finish(start(*OPTIONS, "--out", out))
    assert status == 0, stderr
    return out, stdout


@pytest.fixture
def script() -> ModuleType:
    """The script as a module, for runs that end before they train."""
    return example_run.load()


def records(out: Path) -> list[dict]:
    """Return the metrics."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(out: Path, whole: Path) -> None:
    """Weights, optimizer, metrics and pictures' data are the same, bit for bit."""
    ours, _ = checkpoint.load(out / "checkpoint.safetensors", checkpoint.RUN)
    theirs, _ = checkpoint.load(whole / "checkpoint.safetensors", checkpoint.RUN)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name
    assert (out / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_output_is_the_listings(whole: tuple[Path, str]) -> None:
    out, stdout = whole
    lines = stdout.splitlines()
    steps = [line for line in lines if "Step" in line]
    assert len(steps) == 2
    for epoch, line in enumerate(steps, start=1):
        assert re.fullmatch(rf"Epoch \[{epoch}/2\], Step \[100/102\], Loss: \d+\.\d{{4}}", line)
    (accuracy,) = (line for line in lines if line.startswith("Accuracy"))
    assert re.fullmatch(r"Accuracy of the DDNet on the 20 test images: \d+\.\d%", accuracy), (
        accuracy
    )
    assert f"{records(out)[-1]['accuracy']:.1%}" in accuracy
    assert re.search(r"First step after \d+\.\d s", stdout)
    assert re.search(r"[1-9]\d* images/s, peak memory \d\.\d\d GiB", stdout)
    assert "\r" not in stdout  # a bar belongs on a terminal


def test_metrics_have_a_line_for_each_step_and_each_epoch(whole: tuple[Path, str]) -> None:
    losses = [record for record in records(whole[0]) if "loss" in record]
    assert [record["step"] for record in losses] == list(range(1, 205))
    assert [record["epoch"] for record in losses] == [1] * 102 + [2] * 102
    scores = [record for record in records(whole[0]) if "accuracy" in record]
    assert [(record["epoch"], record["step"]) for record in scores] == [(1, 102), (2, 204)]
    assert np.mean([r["loss"] for r in losses[-50:]]) < np.mean([r["loss"] for r in losses[:50]])


def test_pictures_and_weights_are_written(whole: tuple[Path, str]) -> None:
    out = whole[0]
    for name in ("curves.png", "confusion.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    weights = safetensors.numpy.load_file(out / "weights.safetensors")
    names = [f"{n}{i}" for n in ("conv", "deconv") for i in (1, 2, 3)] + ["fc"]
    assert sorted(weights) == sorted(f"{n}.{kind}" for n in names for kind in ("weight", "bias"))
    conv1 = torch.nn.Conv2d(3, 32, 3)
    conv1.load_state_dict({k: torch.from_numpy(weights[f"conv1.{k}"]) for k in ("weight", "bias")})


def test_a_run_killed_again_and_again_ends_in_the_same_bits(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments: list[object] = [*OPTIONS, "--out", out, "--checkpoint-seconds", 0]
    for lines in (20, 95, 150):
        process = start(*arguments)
        wait_for_lines(process, out, lines)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        # From here on the folder knows the options, and other threads make the same bits.
        arguments = ["--resume", "--out", out, "--checkpoint-seconds", 0, "--threads", 1]
    status, _, stderr = finish(start(*arguments))
    assert status == 0, stderr
    assert_same_run(out, whole[0])


def test_ctrl_c_finishes_the_step_and_says_how_to_go_on(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "a run's folder"
    arguments: list[object] = [*OPTIONS, "--out", out]
    for number, lines in ((signal.SIGINT, 30), (signal.SIGTERM, 120)):
        process = start(*arguments)
        wait_for_lines(process, out, lines)
        process.send_signal(number)
        status, _, stderr = finish(process)
        assert status == 130, stderr
        hint = re.search(r"To go on: (.*)", stderr)
        assert hint is not None
        interpreter, name, *rest = shlex.split(hint[1])
        assert (interpreter, name) == (sys.executable, str(SCRIPT))
        arguments = list(rest)
        _, state = checkpoint.load(out / "checkpoint.safetensors", checkpoint.RUN)
        assert state["metrics_bytes"] == (out / "metrics.jsonl").stat().st_size
        assert state["optimizer"]["steps"] == records(out)[-1]["step"] >= lines - 1
    status, _, stderr = finish(start(*arguments))
    assert status == 0, stderr
    assert_same_run(out, whole[0])


def test_a_complete_run_can_be_resumed_and_made_longer(
    whole: tuple[Path, str], tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    shorter = [*OPTIONS, "--out", str(out)]
    shorter[3] = "1"
    assert script.main(shorter) == 0
    capsys.readouterr()
    before = checkpoint.load(out / "checkpoint.safetensors", checkpoint.RUN)[0]
    assert script.main(["--resume", "--out", str(out)]) == 0
    again = capsys.readouterr().out
    assert "Accuracy of the DDNet on the 20 test images" in again and "Step" not in again
    after = checkpoint.load(out / "checkpoint.safetensors", checkpoint.RUN)[0]
    assert all(array.tobytes() == after[name].tobytes() for name, array in before.items())
    assert script.main(["--resume", "--out", str(out), "--epochs", "2"]) == 0
    assert_same_run(out, whole[0])
    assert script.main(["--resume", "--out", str(out), "--epochs", "1"]) == 1
    assert "--epochs is 1 but the run has finished 2 epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--lr", "0.5"], "--lr is 0.5 but was 0.001"),
        (["--seed", "4", "--batch-size", "9"], "--seed is 4 but was 3"),
        (["--seed", "4", "--batch-size", "9"], "--batch-size is 9 but was 2"),
        (["--image-size", "16"], "--image-size is 16 but was 8"),
        (["--variant", "listing"], "--variant is listing but was pooled"),
        (["--dataset", "cifar10"], "--dataset is cifar10 but was shapes"),
        (["--limit-train", "7"], "--limit-train is 7 but was 203"),
    ],
)
def test_resuming_with_contradicting_options_is_refused(
    whole: tuple[Path, str],
    script: ModuleType,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    before = contents(whole[0])
    assert script.main(["--resume", "--out", str(whole[0]), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert contents(whole[0]) == before


def test_another_runs_folder_is_not_overwritten(
    whole: tuple[Path, str], script: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    before = contents(whole[0])
    assert script.main([*OPTIONS, "--out", str(whole[0])]) == 1
    error = capsys.readouterr().err
    assert "holds checkpoint.safetensors of another run: --resume goes on with it" in error
    assert contents(whole[0]) == before


def test_resume_without_a_run_starts_one(
    tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    options = [*OPTIONS, "--epochs", "1", "--limit-train", "4", "--out", str(tmp_path)]
    assert script.main([*options, "--resume"]) == 0
    assert f"no run in {tmp_path} to resume" in capsys.readouterr().out
    assert records(tmp_path)[-1]["step"] == 2


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(
    tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    assert script.main([*OPTIONS, "--lr", "1e30", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert re.search(r"(finite|nan|inf).* at epoch 1, step \d+\. The last good", error)
    assert "To start again with a lower rate: --out OTHER --lr 1e+29" in error
    arrays, _ = checkpoint.load(tmp_path / "checkpoint.safetensors", checkpoint.RUN)
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_damaged_checkpoint_is_refused(
    whole: tuple[Path, str], tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    for name, content in contents(whole[0]).items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert script.main(["--resume", "--out", str(tmp_path)]) == 1
    assert f"{path} is not a run's checkpoint" in capsys.readouterr().err


def test_the_same_weights_make_the_same_file(
    whole: tuple[Path, str], tmp_path: Path, script: ModuleType
) -> None:
    for name, content in contents(whole[0]).items():
        (tmp_path / name).write_bytes(content)
    assert script.main(["--resume", "--out", str(tmp_path), "--threads", "1", "--data", "no"]) == 0
    name = "weights.safetensors"
    assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes()
    _, state = checkpoint.load(tmp_path / name, checkpoint.WEIGHTS)
    assert not {"data", "threads", "epochs"} & state["options"].keys()


def test_a_reader_that_goes_away_ends_the_run_quietly(tmp_path: Path) -> None:
    process = start(*OPTIONS, "--out", tmp_path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.wait(timeout=300), process.stderr.read()) == (1, "")
    process.stderr.close()


def test_compiling_is_told(
    tmp_path: Path,
    script: ModuleType,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(script.dc, "on_compile", lambda callback: callback())
    options = [*OPTIONS, "--epochs", "1", "--limit-train", "4", "--out", str(tmp_path)]
    assert script.main(options) == 0
    assert "\nCompiling kernels (first run only) ...\nFirst step" in capsys.readouterr().out
