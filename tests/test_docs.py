"""The documentation runs: examples in docstrings, Python blocks of the pages."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import deconv_core
from deconv_core import device, functional

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(deconv_core.__path__, "deconv_core.")
    if not module.name.endswith("__main__")
)


def python_blocks(page: str) -> list[str]:
    """Return a page's Python blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["deconv_core", *MODULES])
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name.startswith("deconv_core.cuda"):
        try:
            device.check("cuda")
        except ImportError as error:  # without a GPU they run in the simulator
            pytest.skip(str(error))
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(module, optionflags=options).failed == 0


@pytest.mark.parametrize("page", ["README.md", "docs/kernels.md"])
def test_python_blocks_run_in_order(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    blocks = python_blocks(page)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_every_public_function_has_an_example() -> None:
    public = [
        (name, function)
        for name, function in inspect.getmembers(functional, inspect.isfunction)
        if name in functional.__all__ and function.__module__.startswith(functional.__name__)
    ]
    assert len(public) >= 20
    without = [name for name, function in public if ">>> " not in (function.__doc__ or "")]
    assert not without
