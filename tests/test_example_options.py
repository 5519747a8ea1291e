"""Options of the main job that cannot be: refused by name, before anything is read."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import example_run
import pytest
from example_run import OPTIONS


@pytest.fixture
def script() -> ModuleType:
    """The script as a module, for runs that end before they train."""
    return example_run.load()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--epochs", "0"], "must be at least 1, got 0"),
        (["--batch-size", "two"], "invalid integer value: 'two'"),
        (["--seed", "-1"], "must be at least 0, got -1"),
        (["--dataset", "mnist"], "invalid choice: 'mnist'"),
        (["--lr", "-1"], "--lr: must be finite and not negative, got -1"),
        (["--lr", "nan"], "--lr: must be finite and not negative, got nan"),
        (["--lr", "1e39"], "--lr: must be within float32, got 1e39"),
        (["--checkpoint-seconds", "inf"], "--checkpoint-seconds: must be finite"),
        (["--threads", "100000"], "--threads: must be at most"),
        (["--out", ""], "--out: must name a folder"),
    ],
)
def test_wrong_options_exit_with_status_2(
    script: ModuleType, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_size_that_the_variant_cannot_take_is_refused_before_the_images_are_read(
    tmp_path: Path,
    script: ModuleType,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(script.data, "load", pytest.fail)
    arguments = ["--variant", "pooled", "--image-size", "9", "--out", str(tmp_path)]
    assert script.main(arguments) == 2
    assert "image_size must be a multiple of 8" in capsys.readouterr().err


def test_stopped_before_anything_is_saved_it_names_the_same_command(
    tmp_path: Path,
    script: ModuleType,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script.data, "load", stop)
    arguments = ["--lr", "0.01", "--epochs", "3", "--out", str(tmp_path / "run")]
    assert script.main(arguments) == 130
    assert capsys.readouterr().err.rstrip().endswith(" ".join(arguments))


def test_an_out_that_cannot_be_written_is_refused_first(
    tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert script.main([*OPTIONS, "--out", str(tmp_path / "file" / "run")]) == 1
    output = capsys.readouterr()
    assert f"--out {tmp_path / 'file' / 'run'} cannot be written" in output.err
    assert output.out == ""
