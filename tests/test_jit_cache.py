"""The kernels' cache on disk: announced, never stale, never trusted when damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import deconv_core
from deconv_core.cpu.runtime import jit

SCRIPT = """
import sys
import numpy as np
import deconv_core as dc
dc.on_compile(lambda: print("compiling"))
y = dc.functional.relu(np.array([-1.0, 2.0], np.float32))
assert y.tolist() == [0.0, 2.0]
dc.functional.relu(y)
"""


def run(folder: Path, package: Path, script: str = SCRIPT) -> list[str]:
    """Run a script on a package with its cache in a folder; return what it printed."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env=environment, cwd=package, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package."""
    source = Path(deconv_core.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, tmp_path / "copy" / "deconv_core", ignore=ignored)
    return tmp_path / "copy"


def test_compiled_once_announced_once_and_again_after_an_edit(
    tmp_path: Path, package: Path
) -> None:
    cache = tmp_path / "cache"
    assert run(cache, package) == ["compiling"]
    assert run(cache, package) == []
    with (package / "deconv_core/cpu/vectors/rows.py").open("a") as file:
        file.write("# an edit in another file than the kernel's\n")
    assert run(cache, package) == ["compiling"]
    assert len(list(cache.rglob("elementwise._relu_forward*.nbc"))) == 1  # the stale entry is gone


def test_nothing_is_kept_of_a_package_in_an_archive(tmp_path: Path, package: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", package))
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(archive), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, env=environment, cwd=empty, capture_output=True, text=True, check=True
    )
    assert not list(tmp_path.rglob("*.nbc")), done.stdout


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_entry_is_compiled_again(
    tmp_path: Path, package: Path, damage: bytes | None
) -> None:
    cache = tmp_path / "cache"
    run(cache, package)
    (entry,) = cache.rglob("elementwise._relu_forward*.nbc")
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert run(cache, package) == ["compiling"]
    assert run(cache, package) == []


def test_two_processes_may_compile_at_once(tmp_path: Path, package: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", SCRIPT]
    processes = [subprocess.Popen(command, env=environment, cwd=package) for _ in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    assert run(tmp_path, package) == []
    assert not list(tmp_path.rglob("*.tmp"))


AFTER_LOADING = (
    SCRIPT
    + """
y = dc.functional.relu(np.array([-1.0, 2.0]))
assert y.tolist() == [0.0, 2.0] and y.dtype == np.float64
"""
)


def test_what_is_not_on_disk_is_compiled_after_what_is_was_loaded(
    tmp_path: Path, package: Path
) -> None:
    cache = tmp_path / "cache"
    assert run(cache, package) == ["compiling"]
    assert run(cache, package, AFTER_LOADING) == ["compiling"]
    assert run(cache, package, AFTER_LOADING) == []
    assert len(list(cache.rglob("elementwise._relu_forward*.nbc"))) == 2


LINKED = """
import threading
import numpy as np
import deconv_core as dc
dc.on_compile(lambda: print("compiling"))
def run(dtype):
    x, w = np.ones((1, 2, 17, 17), dtype), np.ones((2, 2, 3, 3), dtype)
    assert (dc.functional.conv2d(x, w, stride=2) == 18).all()
threads = [threading.Thread(target=run, args=[dtype]) for dtype in (np.float32, np.float64)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
run(np.float32)
"""


def test_what_is_called_by_name_is_known_before_its_callers_are_loaded(
    tmp_path: Path, package: Path
) -> None:
    cache = tmp_path / "cache"
    assert run(cache, package, LINKED) == ["compiling"]
    assert len(list(cache.rglob("*.deal_rows*.nbc"))) == 2
    assert run(cache, package, LINKED) == []
    for entry in cache.rglob("*.deal_rows*.nbc"):
        entry.unlink()
    assert run(cache, package, LINKED) == ["compiling"]


OUTSIDE = """
import numpy as np
from deconv_core.cpu.runtime.jit import kernel
from deconv_core.cpu.runtime.launch import launched, linked
@linked
@kernel
def part(y):
    y[0] = 1
@launched
def whole(worker, workers, y):
    part(y)
y = np.zeros(1)
whole(1, y)
print(int(y[0]))
"""


def test_kernels_of_other_folders_are_never_stale(tmp_path: Path, package: Path) -> None:
    script = tmp_path / "outside.py"
    start = f"import runpy; runpy.run_path({str(script)!r}, run_name='outside')"
    for text, expected in (
        (OUTSIDE, "1"), (OUTSIDE, "1"), (OUTSIDE.replace("= 1", "= 5"), "5"),
        (OUTSIDE.replace("part", "bit"), "1"),
    ):  # fmt: skip
        script.write_text(text)
        assert run(tmp_path / "cache", package, start) == [expected]


def test_kernels_of_no_module_are_compiled_each_time(tmp_path: Path, package: Path) -> None:
    script = tmp_path / "outside.py"
    script.write_text(OUTSIDE)
    start = f"exec(compile(open({str(script)!r}).read(), {str(script)!r}, 'exec'), {{}})"
    assert [run(tmp_path / "cache", package, start) for _ in range(2)] == [["1"], ["1"]]


def test_a_body_compiled_with_other_options_is_another_entry() -> None:
    dispatcher = numba.njit(_body)
    codegen = dispatcher.targetctx.codegen()
    plain, parallel = jit.KernelCache(_body, {}), jit.KernelCache(_body, {"parallel": True})
    assert plain._file("signature", codegen) != parallel._file("signature", codegen)
    assert plain._file("signature", codegen) == jit.KernelCache(_body, {})._file(
        "signature", codegen
    )


def _body(x: float) -> float:
    """Stand for a kernel."""
    return x


def test_the_digest_covers_every_source() -> None:
    assert len(jit.DIGEST) == 16
    assert jit.DIGEST == jit._digest()
