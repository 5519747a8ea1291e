"""CIFAR-10 from the folders that its official archives unpack to.

The binary version holds records of 1 label byte and 3072 pixel bytes (red, green, blue planes of
32 x 32, row by row); the python version holds pickles of the same bytes. Both have five training
batches and one test batch of 10,000 records each.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the
description of the layouts at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconv_core.data.dataset import ImageDataset
from deconv_core.data.unpickle import loads

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
RECORD_BYTES = 1 + PIXELS
FULL_BATCH = 10_000
SPLITS = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_LARGEST_PICKLE = 64 * 2**20

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Layout:
    """One of the two official layouts: its folder, the end of its batch names, its list of names.

    Examples
    --------
    >>> BINARY.files("test")
    ('test_batch.bin',)
    """

    folder: str
    suffix: str
    names_file: str

    def files(self, split: str) -> tuple[str, ...]:
        """Return the names of the batch files of a split."""
        return tuple(name + self.suffix for name in SPLITS[split])

    def present(self, folder: Path) -> int:
        """Count how many of the six batch files are in a folder."""
        return sum((folder / name).is_file() for split in SPLITS for name in self.files(split))


BINARY = Layout("cifar-10-batches-bin", ".bin", "batches.meta.txt")
PYTHON = Layout("cifar-10-batches-py", "", "batches.meta")


def locate(directory: str | PathLike[str]) -> tuple[Path, Layout] | None:
    """Find CIFAR-10 in a folder: its batches themselves, or an official folder of them.

    Parameters
    ----------
    directory : path
        The folder, or the one above it.

    Returns
    -------
    (Path, Layout) or None
        The folder that holds most of the six batch files (the binary one where both do), or None
        where no batch file is found.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     print(locate(empty))
    None
    """
    top = Path(directory)
    places = [(top / sub, layout) for layout in (BINARY, PYTHON) for sub in ("", layout.folder)]
    best = max(places, key=lambda place: place[1].present(place[0]))
    return best if best[1].present(best[0]) else None


def read_cifar10(directory: str | PathLike[str], split: str) -> ImageDataset:
    """Read one split of CIFAR-10 into memory.

    Parameters
    ----------
    directory : path
        The folder with the batches, or the one above it; binary and python version alike.
    split : {"train", "test"}
        50,000 or 10,000 images in the official files. Smaller files of whole records are read too,
        unless others beside them are full: then one was cut short.

    Returns
    -------
    ImageDataset
        Images (N, 3, 32, 32), in the order of the files.

    Raises
    ------
    FileNotFoundError
        When there is no CIFAR-10 in the folder.
    ValueError
        For an unknown split, missing batches, and damaged or truncated files; the message names
        the file and what was expected and found.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = bytes([7]) + bytes(3072)
    ...     _ = pathlib.Path(folder, "test_batch.bin").write_bytes(record * 2)
    ...     read_cifar10(folder, "test")
    ImageDataset('cifar10', 2 images of (3, 32, 32), 10 classes)
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    found = locate(directory)
    if found is None:
        raise FileNotFoundError(
            f"no CIFAR-10 in {directory}: no {BINARY.folder} or {PYTHON.folder}, nor their batches"
        )
    folder, layout = found
    missing = [name for name in layout.files(split) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is incomplete: {', '.join(missing)} missing")
    classes = _read_classes(folder / layout.names_file)
    read = _read_binary if layout is BINARY else _read_python
    batches = {folder / name: read(folder / name) for name in layout.files(split)}
    _check_counts(batches, folder)
    images = np.concatenate([pixels for pixels, _ in batches.values()]).reshape(-1, *SHAPE)
    labels = np.concatenate([labels for _, labels in batches.values()]).astype(np.int64)
    return ImageDataset(images, labels, classes, "cifar10")


def _read_binary(path: Path) -> Batch:
    """Read the records of one binary batch."""
    size = path.stat().st_size
    if size == 0 or size % RECORD_BYTES or size > FULL_BATCH * RECORD_BYTES:
        raise ValueError(
            f"{path} is damaged: expected {FULL_BATCH * RECORD_BYTES} bytes ({FULL_BATCH} records"
            f" of {RECORD_BYTES}, or fewer whole ones), found {size}"
        )
    records = np.fromfile(path, np.uint8).reshape(-1, RECORD_BYTES)
    return records[:, 1:], _checked_labels(path, records[:, 0])


def _read_python(path: Path) -> Batch:
    """Read the arrays of one pickled batch."""
    content = _read_pickle(path)
    pixels, labels = content.get(b"data"), content.get(b"labels")
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        raise ValueError(f"{path} is damaged: it holds no array 'data' and list 'labels'")
    if pixels.shape != (len(labels), PIXELS) or not 0 < len(labels) <= FULL_BATCH:
        raise ValueError(
            f"{path} is damaged: {len(labels)} labels and pixels of shape {pixels.shape},"
            f" expected {FULL_BATCH} (or fewer) and (the same, {PIXELS})"
        )
    if not all(type(label) is int for label in labels):
        raise ValueError(f"{path} is damaged: a label is not a number")
    return pixels, _checked_labels(path, np.array(labels))


def _read_pickle(path: Path) -> dict[bytes, Any]:
    """Decode one pickled dictionary, naming the file in any error."""
    size = path.stat().st_size
    if size > _LARGEST_PICKLE:
        raise ValueError(f"{path} is damaged: {size} bytes, expected at most {_LARGEST_PICKLE}")
    try:
        return loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} ({size} bytes) is damaged: {error}") from error


def _checked_labels(path: Path, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Refuse a label that is not one of the ten."""
    wrong = np.flatnonzero((labels < 0) | (labels >= len(CLASSES)))
    if wrong.size:
        raise ValueError(
            f"{path} is damaged: record {wrong[0]} has label {labels[wrong[0]]},"
            f" expected 0..{len(CLASSES) - 1}"
        )
    return labels.astype(np.uint8)


def _check_counts(batches: dict[Path, Batch], folder: Path) -> None:
    """Refuse a batch cut between two records: one that is short where another is full."""
    full = FULL_BATCH * RECORD_BYTES
    siblings = [folder / name for split in SPLITS for name in BINARY.files(split)]
    a_full_one = any(len(labels) == FULL_BATCH for _, labels in batches.values()) or any(
        path.is_file() and path.stat().st_size == full for path in siblings
    )
    for path, (_, labels) in batches.items():
        if a_full_one and len(labels) < FULL_BATCH:
            raise ValueError(
                f"{path} is damaged: expected {FULL_BATCH} records as in the batches"
                f" beside it, found {len(labels)}"
            )


def _read_classes(path: Path) -> tuple[str, ...]:
    """Read the names of the classes; where the file is missing, they are the well-known ones."""
    if not path.is_file():
        return CLASSES
    if path.suffix == ".txt":
        names: Any = path.read_bytes()[:4096].split()
    else:
        names = _read_pickle(path).get(b"label_names", [])
    if type(names) is not list or [type(name) for name in names] != [bytes] * len(CLASSES):
        raise ValueError(f"{path} is damaged: expected a list of {len(CLASSES)} class names")
    return tuple(name.decode("ascii", "replace") for name in names)
