"""Checkpoints: one safetensors file, replaced as a whole or not at all.

The arrays are the file's tensors; everything else is JSON in the same file's metadata, so that the
two can never be of different moments. One checksum covers both, with all names, dtypes and shapes.
The same arrays and state make the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from deconv_core import device
from deconv_core.extras import require

FORMAT = "deconv_core 2"
RUN, WEIGHTS = "a run's checkpoint", "a net's weights"
DTYPES = (np.float32, np.float64, np.int64)


def save(
    path: str | PathLike[str],
    arrays: Mapping[str, np.ndarray],
    state: Mapping[str, Any],
    kind: str = "a checkpoint",
) -> None:
    """Write a checkpoint: at any moment `path` is the old file or the new one, whole.

    It is written in ``<path>.part``, brought to the disk, and then takes the old one's place.

    Parameters
    ----------
    path : of the file; its folder must exist
    arrays : by name, on any device: float32, float64 or int64; floating ones must be finite
    state : anything that JSON can carry: numbers as names become strings, tuples lists
    kind : what `load` must be asked for

    Raises
    ------
    FloatingPointError
        When an array has values that are not finite; nothing is written.
    TypeError, ValueError
        For another dtype, and for a state that JSON cannot carry; nothing is written.
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
    if "__metadata__" in arrays:
        raise ValueError('"__metadata__" is no name for an array: the format has its own')
    for name, array in arrays.items():
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array: its mask would not be saved")
    arrays = {name: np.asarray(device.plain(a), order="C") for name, a in arrays.items()}
    for name, array in arrays.items():
        if array.dtype not in DTYPES:
            raise TypeError(f"{name} is {array.dtype}: only float32, float64 and int64 are saved")
    bad = _not_finite(arrays)
    if bad:
        raise FloatingPointError(
            f"{path} is not written, an older one is kept: there are values that are not finite"
            f" in {bad}"
        )
    about = {"format": FORMAT, "kind": kind, "state": state}
    record = {"about": about, "crc32": _checksum(arrays, about)}
    metadata = {"deconv_core": json.dumps(record, sort_keys=True)}
    safetensors = require("safetensors.numpy")
    part = path.with_name(path.name + ".part")  # a folder: one that a killed save left goes first
    found = {file.name for file in part.iterdir()} if part.is_dir() else set()
    if not all(name == path.name or name.startswith(".tmp") for name in found):  # safetensors' own
        raise OSError(f"{path} cannot be written: {part}, its workspace, holds something else")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        whole = part / path.name
        safetensors.save_file(arrays, whole, metadata)
        whole.chmod(part.stat().st_mode & 0o666)  # what the umask grants, not a private file
        _sync(whole)
        os.replace(whole, path)
    except (OSError, require("safetensors").SafetensorError) as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _sync(path.parent)


def load(
    path: str | PathLike[str], kind: str = "a checkpoint", form: Any = dict
) -> tuple[dict[str, np.ndarray], Any]:
    """Read a checkpoint of this kind and return its arrays and its state.

    Parameters
    ----------
    path : of the file
    kind : as `save` was told
    form : what the state must be: a type, or a mapping of all its names to such forms

    Raises
    ------
    ValueError
        When the file is not whole and unaltered, of another kind or form, or has values that are
        not finite.
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
            about, checksum = _record(file.metadata())
            if about["format"] != FORMAT or about["kind"] != kind:
                raise ValueError(f"it is {about['kind']}, of format {about['format']}")
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        if checksum != _checksum(arrays, about):
            raise ValueError("it is not what was written: its checksum differs")
        _check_form("its state", about["state"], form)
        if bad := _not_finite(arrays):
            raise ValueError(f"there are values that are not finite in {bad}")
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is not {kind}: {error}") from error
    return arrays, about["state"]


def _record(metadata: Any) -> tuple[dict[str, Any], Any]:
    """Return what a file says about itself, and its checksum."""
    try:
        record = json.loads(metadata["deconv_core"])
        about = record["about"]
        return {key: about[key] for key in ("format", "kind", "state")}, record["crc32"]
    except (KeyError, TypeError, ValueError):
        raise ValueError("it was not written by deconv_core") from None


def _check_form(name: str, value: Any, form: Any) -> None:
    """Raise ValueError unless a value is of a type, or a mapping of the names and types given."""
    if isinstance(form, dict):
        if not isinstance(value, dict) or value.keys() != form.keys():
            raise ValueError(f"{name} must have {', '.join(sorted(form))}, got {value!r}")
        for key in form:
            _check_form(f"{name}'s {key}", value[key], form[key])
    elif type(value) is not form or (form is int and value < 0):
        raise ValueError(f"{name} must be {form.__name__}, got {value!r}")


def _not_finite(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the names of the floating arrays that have values that are not finite."""
    bad = [n for n, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
    return ", ".join(bad)


def _checksum(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> int:
    """Return the CRC-32 of the record, of all names, dtypes and shapes, and of the bytes."""
    names = sorted(arrays)
    forms = [(name, arrays[name].dtype.str, arrays[name].shape) for name in names]
    value = zlib.crc32(json.dumps([about, forms], sort_keys=True, allow_nan=False).encode())
    for name in names:
        value = zlib.crc32(arrays[name].data, value)
    return value


def _sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk."""
    if os.name != "posix":
        return  # only POSIX systems open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
