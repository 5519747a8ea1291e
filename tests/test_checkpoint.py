"""Checkpoints: whole or not at all, and nothing else is ever taken for one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from deconv_core import checkpoint

ARRAYS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "double": np.linspace(0, 1, 5),
    "labels": np.arange(3),
    "scalar": np.full((), 2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}
STATE = {"step": 7, "options": {"lr": 1e-3, "out": None}, "betas": [0.9, 0.999]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint that was saved."""
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, ARRAYS, STATE)
    return path


def test_what_is_saved_is_loaded(path: Path) -> None:
    arrays, state = checkpoint.load(path)
    assert state == STATE and list(arrays) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_file_is_plain_safetensors(path: Path) -> None:
    arrays = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(arrays["weight"], ARRAYS["weight"])


def test_arrays_of_any_layout_are_saved_by_value(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(4, 6)
    checkpoint.save(tmp_path / "c", {"strided": array[::2, 1::2].T, "back": array[::-1]}, {})
    arrays, _ = checkpoint.load(tmp_path / "c")
    np.testing.assert_array_equal(arrays["strided"], array[::2, 1::2].T)
    np.testing.assert_array_equal(arrays["back"], array[::-1])


def test_a_file_cut_anywhere_is_refused_by_name(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="checkpoint.safetensors is not a checkpoint"):
            checkpoint.load(path)


def test_an_altered_byte_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    padding = len(whole[:header]) - len(whole[:header].rstrip(b" "))
    for position in [*range(header - padding), *range(header, len(whole))]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ValueError, match="is not a checkpoint"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "old, new",
    [
        (b'"weight"', b'"height"'),  # a name
        (b'"shape":[3,4]', b'"shape":[4,3]'),
        (b'\\"step\\": 7', b'\\"step\\": 8'),
        (b'"F64"', b'"I64"'),
    ],
)
def test_an_altered_record_is_noticed(path: Path, old: bytes, new: bytes) -> None:
    whole = path.read_bytes()
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(ValueError, match="checksum differs"):
        checkpoint.load(path)


def test_another_kind_is_refused(path: Path) -> None:
    checkpoint.save(path, ARRAYS, STATE, checkpoint.WEIGHTS)
    with pytest.raises(ValueError, match="is not a run's checkpoint: it is a net's weights"):
        checkpoint.load(path, checkpoint.RUN)
    assert checkpoint.load(path, checkpoint.WEIGHTS)[1] == STATE


@pytest.mark.parametrize(
    "form, message",
    [
        ({"step": int}, "its state must have step, got"),
        ({"step": float, "options": dict, "betas": list}, "its state's step must be float, got 7"),
        ({"step": int, "options": {"lr": float}, "betas": list}, "options must have lr, got"),
    ],
)
def test_a_state_of_another_form_is_refused(path: Path, form: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint.load(path, form=form)
    checkpoint.load(path, form={"step": int, "options": dict, "betas": list})


def test_the_same_content_makes_the_same_bytes(path: Path) -> None:
    before = path.read_bytes()
    names, keys = reversed(list(ARRAYS)), reversed(list(STATE))
    checkpoint.save(path, {n: ARRAYS[n] for n in names}, {k: STATE[k] for k in keys})
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="needs a umask")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", ARRAYS, STATE)
    (tmp_path / "plain").touch()
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_other_dtypes_are_refused(path: Path) -> None:
    for array in (np.zeros(2, ">f4"), np.zeros(2, np.complex64)):
        with pytest.raises(TypeError, match="only float32, float64 and int64"):
            checkpoint.save(path, {"weight": array}, {})
    assert checkpoint.load(path)[1] == STATE


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no checkpoint at all", b"\0" * 100])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="foreign is not a checkpoint"):
        checkpoint.load(path)


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="not written by deconv_core"):
        checkpoint.load(path)
    about = {"format": "deconv_core 99", "kind": "a checkpoint", "state": {}}
    metadata = {"deconv_core": json.dumps({"about": about, "crc32": 0})}
    safetensors.numpy.save_file({"weight": np.zeros(3)}, path, metadata)
    with pytest.raises(ValueError, match="format deconv_core 99"):
        checkpoint.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_not_saved(path: Path, value: float) -> None:
    before = path.read_bytes()
    with pytest.raises(FloatingPointError, match="not finite in bad"):
        checkpoint.save(path, {"good": np.zeros(3), "bad": np.array([1.0, value])}, {})
    assert path.read_bytes() == before


def test_values_that_are_not_finite_are_not_loaded(path: Path) -> None:
    bad = {"weight": np.array([np.nan], np.float32)}
    about = {"format": checkpoint.FORMAT, "kind": "a checkpoint", "state": {}}
    record = {"about": about, "crc32": checkpoint._checksum(bad, about)}
    safetensors.numpy.save_file(bad, path, {"deconv_core": json.dumps(record)})
    with pytest.raises(ValueError, match=f"{path.name} is not a checkpoint.*not finite in weight"):
        checkpoint.load(path)


def test_state_that_json_cannot_carry_is_refused_before_anything_is_written(path: Path) -> None:
    before = path.read_bytes()
    for state in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            checkpoint.save(path, ARRAYS, state)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        checkpoint.load(tmp_path / "nothing")
    with pytest.raises(OSError, match="folder"):
        checkpoint.load(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        checkpoint.save(tmp_path / "nowhere" / "c", ARRAYS, STATE)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize("limit", [0, 100, 5_000])
def test_a_full_disk_leaves_the_old_file(path: Path, limit: int) -> None:
    before = path.read_bytes()
    code = f"""
import json, resource, numpy as np
from deconv_core import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    checkpoint.save({str(path)!r}, {{"weight": np.ones(10_000, np.float32)}}, {{}})
except OSError as error:
    print(json.dumps(str(error)))
"""
    root = str(Path(checkpoint.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, timeout=60, cwd=root
    )
    assert "cannot be written" in json.loads(result.stdout), result.stderr
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_an_interruption_while_saving_leaves_the_old_file(
    path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def interrupted(*_: object) -> None:
        assert path.with_name(path.name + ".part").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(f"deconv_core.checkpoint.{step}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"weight": np.zeros(3)}, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_leftover_of_a_killed_save_does_no_harm(path: Path) -> None:
    part = path.with_name(path.name + ".part")
    part.mkdir()
    (part / ".tmp0a1b2c").write_bytes(b"half a file, and a long one" * 1000)
    checkpoint.save(path, ARRAYS, {"step": 8})
    assert checkpoint.load(path)[1] == {"step": 8}
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_of_somebody_else_is_not_removed(path: Path) -> None:
    before, part = path.read_bytes(), path.with_name(path.name + ".part")
    part.mkdir()
    (part / "precious").write_text("kept")
    with pytest.raises(OSError, match=r"\.part, its workspace, holds something else"):
        checkpoint.save(path, ARRAYS, {})
    assert (part / "precious").read_text() == "kept" and path.read_bytes() == before


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"__metadata__": np.ones(2)}, ValueError, "__metadata__"),
        ({"w": np.ma.ones(2)}, TypeError, "w is a masked array"),
    ],
)
def test_arrays_that_would_not_be_read_back_are_refused(
    path: Path, arrays: dict, error: type, message: str
) -> None:
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        checkpoint.save(path, arrays, {})
    assert path.read_bytes() == before
