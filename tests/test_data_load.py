"""Choosing the data set: CIFAR-10 where it can be had, shapes with a loud word where not."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from deconv_core import data


def write_copy(folder, records=2):
    folder.mkdir(parents=True)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (folder / f"{name}.bin").write_bytes(bytes(3073 * records))
    return folder


@pytest.fixture
def offline(monkeypatch):
    """No network: every attempt to download fails, and is counted."""
    tries = []

    def fail(archive, place, progress):
        tries.append(place)
        raise OSError("the cable is cut")

    monkeypatch.setattr("deconv_core.data.download._fetch", fail)
    return tries


@pytest.mark.parametrize("name", ["auto", "cifar10"])
def test_a_copy_that_is_there_is_read_and_its_fingerprint_told(name, tmp_path, offline):
    write_copy(tmp_path / "cifar-10-batches-bin")
    said = []
    train, test = data.load(name, tmp_path, said.append)
    assert (train.name, len(train), len(test)) == ("cifar10", 10, 2)
    assert offline == []
    (line,) = said
    assert re.fullmatch(rf"CIFAR-10 in {tmp_path}.*: 12 images, [0-9a-f]{{8}}", line)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1  # a pixel
    path.write_bytes(content)
    data.load(name, tmp_path, said.append)
    assert said[1] != line


def test_auto_falls_back_with_one_loud_message(tmp_path, offline):
    said = []
    train, test = data.load("auto", tmp_path / "nothing", said.append)
    assert (train.name, len(train), len(test)) == ("shapes", 10_000, 2_000)
    assert len(said) == 1 and said[0].count("\n") >= 2
    for word in ("CIFAR-10", "shapes", "the cable is cut", str(tmp_path / "nothing")):
        assert word in said[0]
    assert offline == [tmp_path / "nothing"]


def test_auto_falls_back_when_the_packages_are_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    said = []
    assert data.load("auto", tmp_path, said.append)[0].name == "shapes"
    assert "pip install deconv-core[train]" in said[0]


def test_cifar10_never_falls_back(tmp_path, offline):
    with pytest.raises(data.DownloadError, match="the cable is cut"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["auto", "cifar10"])
@pytest.mark.parametrize("damage", ["truncated", "label", "missing"])
def test_a_broken_copy_is_an_error_and_never_passed_over(name, damage, tmp_path, offline):
    path = write_copy(tmp_path / "cifar") / "data_batch_3.bin"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(bytes(3000) if damage == "truncated" else b"\xff" * 3073)
    with pytest.raises(ValueError, match="data_batch_3.bin"):
        data.load(name, tmp_path / "cifar", pytest.fail)
    assert offline == []


def test_shapes_looks_for_nothing(offline):
    train, test = data.load("shapes", "/nonexistent", pytest.fail)
    assert (train.name, test.name) == ("shapes", "shapes") and offline == []


def test_another_name_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="auto, cifar10, shapes, not 'mnist'"):
        data.load("mnist")


def test_importing_brings_no_optional_package():
    code = (
        "import sys, deconv_core.data; "
        "print([m for m in ('pooch', 'requests', 'tqdm', 'PIL', 'torch') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
