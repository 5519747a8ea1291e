"""Run folders, progress and stop requests: what the main job is built of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deconv_core import checkpoint, pictures
from deconv_core.data import fingerprint, make_shapes
from deconv_core.linear import Linear
from deconv_core.optim import SGD, Adam, Optimizer
from deconv_core.progress import Progress, StopRequest, peak_memory
from deconv_core.runlog import Position, Run


def trained(inputs: int = 4) -> tuple[Linear, Optimizer]:
    """Return a net and an optimizer that has made two steps."""
    net = Linear(inputs, 3, rng=0)
    optimizer = Adam(net.parameters(), lr=0.5)
    for parameter in net.parameters():
        parameter.grad += 1
    optimizer.step()
    optimizer.step()
    return net, optimizer


def save_run(folder: Path) -> Linear:
    """Write a run with two lines of metrics, and a third after its checkpoint."""
    net, optimizer = trained()
    with Run(folder) as run:
        options = run.settle({"lr": 0.5, "epochs": 3}, {}, free=())
        run.begin(net, optimizer, options, "some images", 9)
        run.log(step=1)
        run.log(step=2)
        run.position = Position(1, 5)
        run.save()
        run.log(step=3)
    return net


def test_a_run_goes_on_where_its_checkpoint_was(tmp_path: Path) -> None:
    net = save_run(tmp_path)
    fresh = Linear(4, 3, rng=9)
    optimizer = Adam(fresh.parameters())
    with Run(tmp_path, resume=True) as run:
        assert run.position == Position(1, 5) and str(run.position) == "epoch 2, step 6"
        assert run.records() == [{"step": 1}, {"step": 2}, {"step": 3}]
        options = run.settle({"lr": 1.0, "seed": 8}, {"epochs": 4}, free=("epochs",))
        assert options == {"lr": 0.5, "epochs": 4, "seed": 8}
        run.begin(fresh, optimizer, options, "some images", 9)
        assert run.records() == [{"step": 1}, {"step": 2}]
        run.log(step=4)
        assert run.records()[2:] == [{"step": 4}]
    assert optimizer.steps == 2 and optimizer.options["lr"] == 0.5
    np.testing.assert_array_equal(fresh.weight.data, net.weight.data)


def test_what_does_not_fit_the_checkpoint_is_refused_and_kept(tmp_path: Path) -> None:
    save_run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with Run(tmp_path, resume=True) as run:
        with pytest.raises(ValueError, match="other images: some images, not other images"):
            run.begin(*trained(), {}, "other images", 9)
        with pytest.raises(
            ValueError, match=r"checkpoint.*another net.*weight.*\(3, 4\).*\(3, 5\)"
        ):
            run.begin(*trained(5), {}, "some images", 9)
        net = Linear(4, 3, rng=0)
        with pytest.raises(ValueError, match="another optimizer"):
            run.begin(net, SGD(net.parameters()), {}, "some images", 9)
        with pytest.raises(ValueError, match="--epochs is 4 but was 3"):
            run.settle({}, {"epochs": 4}, free=())
        with pytest.raises(ValueError, match="not a run's checkpoint: its option lr is 0.5"):
            run.settle({"lr": "much"}, {}, free=())
        with pytest.raises(ValueError, match="stands at epoch 2, step 6 but an epoch has 4"):
            run.begin(*trained(), {}, "some images", 4)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_metrics_that_were_cut_are_noticed(tmp_path: Path) -> None:
    save_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl has 12 bytes but .* 24"):
        Run(tmp_path, resume=True)


@pytest.mark.parametrize("line", [b'{"step": 2 ', b'{"size": 2}', b"[12345678]", b'{"step":"2"}'])
def test_metrics_that_were_altered_are_noticed(tmp_path: Path, line: bytes) -> None:
    save_run(tmp_path)
    content = b'{"step": 1}\n' + line + b'\n{"step": 3}\n'
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: .* is no record"):
        Run(tmp_path, resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content


def test_a_checkpoint_without_all_of_its_state_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    arrays, state = checkpoint.load(path, checkpoint.RUN)
    for change in ({"metrics_bytes": -1}, {"position": {"epoch": 1}}, {"position": 7}, {"data": 0}):
        checkpoint.save(path, arrays, state | change, checkpoint.RUN)
        with pytest.raises(ValueError, match=f"is not a run's checkpoint: .*{next(iter(change))}"):
            Run(tmp_path, resume=True)
    del state["metrics_bytes"]
    checkpoint.save(path, arrays, state, checkpoint.RUN)
    with pytest.raises(ValueError, match="must have data, metrics_bytes"):
        Run(tmp_path, resume=True)
    checkpoint.save(path, arrays, {}, checkpoint.WEIGHTS)
    with pytest.raises(ValueError, match="is not a run's checkpoint: it is a net's weights"):
        Run(tmp_path, resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("name", ["metrics.jsonl", "weights.safetensors", "confusion.png"])
def test_results_without_a_checkpoint_are_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine\n")
    for resume in (False, True):
        with pytest.raises(ValueError, match=f"holds {name} of another run: it has no checkpoint"):
            Run(tmp_path, resume)
    assert (tmp_path / name).read_bytes() == b"mine\n"


@pytest.mark.skipif(os.name != "posix", reason="needs file locks")
def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with Run(tmp_path), pytest.raises(ValueError, match="in use"):
        Run(tmp_path)
    Run(tmp_path).close()


def test_a_run_that_failed_before_it_began_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    Run(tmp_path / "a").close()
    assert not list((tmp_path / "a").iterdir())
    (tmp_path / "a" / "metrics.jsonl").touch()  # as when killed between metrics and checkpoint
    with Run(tmp_path / "a") as run:
        run.begin(*trained(), {}, "", 1)


def test_weights_that_are_not_finite_never_replace_a_checkpoint(tmp_path: Path) -> None:
    net, optimizer = trained()
    with Run(tmp_path) as run:
        run.begin(net, optimizer, {}, "", 1)
        before = run.path.read_bytes()
        net.weight.data[0, 0] = np.nan
        with pytest.raises(FloatingPointError, match="an older one is kept.*net.weight"):
            run.save()
        assert run.path.read_bytes() == before


def test_checkpoints_are_spread_out_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("deconv_core.runlog.time.monotonic", lambda: now[0])
    with Run(tmp_path, checkpoint_seconds=30) as run:
        assert not run.due
        now[0] = 130.0
        assert run.due

        def slow(*_: object) -> None:
            now[0] += 3.0

        monkeypatch.setattr(checkpoint, "save", slow)
        run.begin(*trained(), {}, "", 1)
        now[0] += 59.0  # three seconds may come but once a minute
        assert not run.due
        now[0] += 1.1
        assert run.due


def test_fingerprint_tells_images_and_labels_apart() -> None:
    one, two = make_shapes("test", count=4), make_shapes("test", count=5)
    assert fingerprint(one) == fingerprint(make_shapes("test", count=4))
    assert len({fingerprint(one), fingerprint(two), fingerprint(one, two)}) == 3


def test_fingerprint_is_that_of_the_values_however_they_lie() -> None:
    one = make_shapes("test", count=4)
    other = replace(one, images=np.asfortranarray(one.images), labels=one.labels.repeat(2)[::2])
    assert fingerprint(other) == fingerprint(one)


def test_progress_counts_after_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr("deconv_core.progress.time.perf_counter", lambda: now[0])
    with Progress(100, started=-1.5) as progress:
        assert progress.rate == ""
        for moment, images in ((5.0, 10), (6.0, 10), (7.0, 10)):
            now[0] = moment
            progress.step(images, 1.0)
        assert (progress.images, progress.seconds, progress.rate) == (20, 2.0, "10 images/s, ")
        batches = [(np.zeros((3, 1)), np.zeros(3, int))] * 2
        assert list(progress.testing(batches, 6)) == batches
        now[0] = 50.0
        progress.step(10, 1.0)
        assert progress.seconds == 2.0
    assert capsys.readouterr().out == "First step after 6.5 s\n"


def test_testing_is_shown_on_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    with Progress(100) as progress:
        monkeypatch.setattr(progress._bar, "set_postfix_str", shown.append)
        for _ in progress.testing([(np.zeros((3, 1)),), (np.zeros((2, 1)),)], 5):
            pass
    assert shown == ["testing 0/5", "testing 3/5", ""]


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_a_first_signal_is_noted_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []
    with StopRequest() as stop:
        with pytest.raises(KeyboardInterrupt):
            for item in stop.watch([1, 2, 3]):
                seen.append(item)
                if item == 2:
                    os.kill(os.getpid(), signal.SIGINT)
        assert stop.made
    assert seen == [1, 2]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_a_second_signal_ends_the_process_at_once() -> None:
    code = """
import os, signal
from deconv_core.progress import StopRequest
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    print("noted", stop.made, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
    root = str(Path(checkpoint.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60
    )
    assert result.returncode == -signal.SIGINT
    assert result.stdout == "noted True\n" and "once more" in result.stderr


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    held = np.ones(max(before, 1 << 24) // 8 + (1 << 23))  # more than ever before
    assert peak_memory() >= before + (1 << 24)
    del held


def test_pictures_of_a_run_without_lines_can_be_drawn(tmp_path: Path) -> None:
    pictures.save_curves(tmp_path / "c.png", [])
    pictures.save_curves(tmp_path / "d.png", [{"step": 1, "loss": 2.0}])
    pictures.save_confusion(tmp_path / "e.png", np.zeros((2, 2), np.int64), ["a", "b"])
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "c.png"
    pictures.save_curves(old, [])
    before = old.read_bytes()

    def full(figure: object, path: Path, **options: object) -> None:
        path.write_bytes(b"torso")
        raise OSError("no space left")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="no space"):
        pictures.save_curves(old, [])
    assert old.read_bytes() == before and list(tmp_path.iterdir()) == [old]
