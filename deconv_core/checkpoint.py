"""Checkpoints: one safetensors file, replaced as a whole or not at all.

The arrays are the file's tensors; everything else is JSON in the same file's metadata, so that the
two can never be of different moments.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from deconv_core.data.extras import require

FORMAT = "deconv_core checkpoint 1"


def save(
    path: str | PathLike[str], arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint: at any moment `path` is the old file or the new one, whole.

    It is written beside `path`, brought to the disk, and then takes the old one's place.

    Parameters
    ----------
    path : of the file; its folder must exist
    arrays : by name; floating ones must be finite
    state : anything that JSON can carry

    Raises
    ------
    ValueError
        When an array has values that are not finite; nothing is written.
    OSError
        When it cannot be written, for want of space, say; an old file is still there, whole.
    ImportError
        When safetensors is not installed (the extra ``train``).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/net", {"weight": np.ones(2, np.float32)}, {"epoch": 3})
    ...     arrays, state = load(f"{folder}/net")
    >>> arrays["weight"].tolist(), state
    ([1.0, 1.0], {'epoch': 3})
    """
    path = Path(path)
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    _check_finite(arrays, f"{path} is not written, an older one is kept")
    metadata = {
        "format": FORMAT,
        "crc32": str(_checksum(arrays)),
        "state": json.dumps(state, allow_nan=False),
    }
    part = path.with_name(path.name + ".part")
    try:
        _write(part, arrays, metadata)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    _sync(path.parent)


def load(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], Any]:
    """Read a checkpoint and return its arrays and its state.

    Raises
    ------
    ValueError
        When the file is not a whole and unaltered checkpoint, or has values that are not finite.
    OSError
        When it cannot be read.
    ImportError
        When safetensors is not installed (the extra ``train``).
    """
    safetensors = require("safetensors")
    with open(path, "rb"):
        pass  # a missing or forbidden file is an OSError that names it
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        state = json.loads(metadata["state"])
        if metadata["crc32"] != str(_checksum(arrays)):
            raise ValueError("its arrays are not those that were written")
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a whole checkpoint of deconv_core: {error}") from error
    _check_finite(arrays, f"{path} cannot be used")
    return arrays, state


def _check_finite(arrays: Mapping[str, np.ndarray], outcome: str) -> None:
    """Raise ValueError if a floating array has values that are not finite."""
    bad = [n for n, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
    if bad:
        raise ValueError(f"{outcome}: there are values that are not finite in {', '.join(bad)}")


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the CRC-32 of all arrays' bytes, in the order of their names."""
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(arrays[name].data, value)
    return value


def _write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write the file and bring it to the disk."""
    error_type = require("safetensors").SafetensorError
    try:
        require("safetensors.numpy").save_file(arrays, str(path), metadata)
    except error_type as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    _sync(path)


def _sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk."""
    if path.is_dir() and os.name != "posix":
        return  # only POSIX systems open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
