"""Images and their labels, checked once when they are put together."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deconv_core.arguments import integer


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset:
    """Labelled images in memory.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, C, H, W)
        The pictures, channels first.
    labels : ndarray of int64, shape (N,)
        One class number per picture, from 0 to ``len(classes) - 1``.
    classes : tuple of str
        The names of the classes; label ``i`` means ``classes[i]``.
    name : str
        What the set is called, for messages.

    Raises
    ------
    TypeError
        For arrays of another dtype.
    ValueError
        For shapes that disagree or a label without a class.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((3, 1, 2, 2), np.uint8)
    >>> animals = ImageDataset(images, np.array([0, 1, 0]), ("cat", "dog"), "animals")
    >>> animals
    ImageDataset('animals', 3 images of (1, 2, 2), 2 classes)
    >>> len(animals.take(2))
    2
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        _check_array("images", self.images, np.uint8, 4)
        _check_array("labels", self.labels, np.int64, 1)
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if wrong.size:
            first = int(wrong[0])
            raise ValueError(
                f"label {self.labels[first]} of image {first} is outside"
                f" 0..{len(self.classes) - 1} ({len(self.classes)} classes)"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = tuple(self.images.shape[1:])
        return (
            f"ImageDataset({self.name!r}, {len(self)} images of {shape},"
            f" {len(self.classes)} classes)"
        )

    def take(self, n: int) -> ImageDataset:
        """Return the first ``n`` images, or all of them when there are fewer (no copy).

        Raises
        ------
        ValueError
            When ``n`` is negative.
        TypeError
            When ``n`` is not an integer.
        """
        integer("n", n, least=0)
        return replace(self, images=self.images[:n], labels=self.labels[:n])


def fingerprint(*datasets: ImageDataset) -> str:
    """Return a short text that two runs on the same images share.

    Examples
    --------
    >>> from deconv_core.data import make_shapes
    >>> fingerprint(make_shapes("test", count=3)) == fingerprint(make_shapes("test", count=3))
    True
    """
    value, count = 0, 0
    for dataset in datasets:
        for array in (dataset.images, dataset.labels):
            value = zlib.crc32(np.ascontiguousarray(array).data, value)
        count += len(dataset)
    return f"{count} images, {value:08x}"


def _check_array(name: str, array: object, dtype: type[np.generic], rank: int) -> None:
    """Refuse anything but an array of this dtype and rank."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, not {type(array).__name__}")
    if array.dtype != dtype:
        raise TypeError(f"{name} must be {np.dtype(dtype)}, not {array.dtype}")
    if array.ndim != rank:
        raise ValueError(f"{name} must have {rank} axes, but its shape is {array.shape}")
