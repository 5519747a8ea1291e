"""Data sets for the nets: CIFAR-10, an embedded set of shapes, transforms and a loader."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike

from deconv_core.data.cifar10 import read_cifar10
from deconv_core.data.dataset import ImageDataset, fingerprint
from deconv_core.data.download import (
    CIFAR10_BINARY,
    CIFAR10_PYTHON,
    Archive,
    find_or_download_cifar10,
)
from deconv_core.data.loader import Loader
from deconv_core.data.resume import DownloadError
from deconv_core.data.shapes import make_shapes
from deconv_core.data.transforms import Compose, Normalize, Resize, ToUnit

__all__ = [
    "CHOICES",
    "CIFAR10_BINARY",
    "CIFAR10_PYTHON",
    "Archive",
    "Compose",
    "DownloadError",
    "ImageDataset",
    "Loader",
    "Normalize",
    "Resize",
    "ToUnit",
    "find_or_download_cifar10",
    "fingerprint",
    "load",
    "make_shapes",
    "read_cifar10",
]

CHOICES = ("auto", "cifar10", "shapes")

_FALLBACK = """\
*** CIFAR-10 is not to be had: going on with the embedded data set "shapes" instead. ***
*** Why: {why}
*** What it prints is about drawn shapes, and says nothing about CIFAR-10.
*** For CIFAR-10, name a folder that holds cifar-10-batches-bin or cifar-10-batches-py."""


def load(
    dataset: str = "auto",
    root: str | PathLike[str] | None = None,
    announce: Callable[[str], object] = print,
) -> tuple[ImageDataset, ImageDataset]:
    """Return the training and the test images of a data set.

    Parameters
    ----------
    dataset : {"auto", "cifar10", "shapes"}
        "cifar10" is found in ``root`` or downloaded to it; "shapes" is drawn on the spot; "auto"
        is CIFAR-10 where it can be had, else shapes.
    root : path, optional
        See `find_or_download_cifar10`.
    announce : callable
        Told the `fingerprint` of a copy of CIFAR-10 that was read (there is no published one to
        compare its files with), or, in several lines, why "auto" goes on without CIFAR-10.

    Returns
    -------
    (ImageDataset, ImageDataset)
        The training and the test images.

    Raises
    ------
    ValueError
        For another name, and for a copy of CIFAR-10 that is damaged: "auto" never passes over it.
    DownloadError, ImportError
        When "cifar10" is not there and cannot be downloaded.

    Examples
    --------
    >>> train, test = load("shapes")
    >>> train.name, len(train), len(test)
    ('shapes', 10000, 2000)
    """
    if dataset not in CHOICES:
        raise ValueError(f"dataset must be one of {', '.join(CHOICES)}, not {dataset!r}")
    if dataset == "shapes":
        return make_shapes("train"), make_shapes("test")
    try:
        folder = find_or_download_cifar10(root)
    except (DownloadError, ImportError) as error:
        if dataset == "cifar10":
            raise
        announce(_FALLBACK.format(why=error))
        return make_shapes("train"), make_shapes("test")
    train, test = read_cifar10(folder, "train"), read_cifar10(folder, "test")
    announce(f"CIFAR-10 in {folder}: {fingerprint(train, test)}")
    return train, test
