"""Batches of a data set, in an order that depends on nothing but a seed and the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconv_core.arguments import integer
from deconv_core.data.dataset import ImageDataset
from deconv_core.data.prefetch import prefetch
from deconv_core.data.transforms import ToUnit

Batch = tuple[NDArray[np.float32], NDArray[np.int64]]


class Loader:
    """Cut a data set into batches, prepared by a background thread.

    Parameters
    ----------
    dataset : ImageDataset
        The images.
    batch_size : int
        Images a batch; the last one of an epoch is smaller when they do not divide.
    shuffle : bool
        Draw a new order every epoch, from ``seed`` and the number of the epoch alone.
    seed : int
        Seed of the orders.
    drop_last : bool
        Leave out a smaller last batch.
    transform : callable, optional
        From a uint8 batch (N, C, H, W) to the float32 batch that the net takes; `ToUnit` when not
        given. It runs in the background thread.

    Raises
    ------
    ValueError
        For a batch size below 1 or a negative seed.
    TypeError
        For another ``dataset``, numbers that are not integers, a ``transform`` that cannot be
        called, and while iterating, when it returns something else than a float32 batch.

    Examples
    --------
    >>> from deconv_core.data import make_shapes
    >>> loader = Loader(make_shapes("test", count=5), batch_size=2, shuffle=True)
    >>> len(loader)
    3
    >>> for x, y in loader:
    ...     print(x.shape, y.shape)
    (2, 3, 32, 32) (2,)
    (2, 3, 32, 32) (2,)
    (1, 3, 32, 32) (1,)
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        transform: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    ) -> None:
        if not isinstance(dataset, ImageDataset):
            raise TypeError(f"dataset must be an ImageDataset, got {type(dataset).__name__}")
        if not (transform is None or callable(transform)):
            raise TypeError(f"transform must be callable, got {transform!r}")
        self.dataset = dataset
        self.batch_size = integer("batch_size", batch_size, least=1)
        self.shuffle = shuffle
        self.seed = integer("seed", seed, least=0)
        self.drop_last = drop_last
        self.transform = ToUnit() if transform is None else transform
        self._next_epoch = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        count = len(self.dataset)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the next epoch: 0 the first time, then 1, 2, ..."""
        number = self._next_epoch
        self._next_epoch += 1
        return self.epoch(number)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of one epoch.

        Parameters
        ----------
        number : int
            Which epoch; with ``shuffle`` it decides the order.
        start : int
            The first batch to return: the rest of the epoch is the same as without it.

        Returns
        -------
        iterator of (ndarray of float32, ndarray of int64)
            The images and labels of each batch; both belong to the caller. Closing or dropping
            the iterator ends its thread.

        Raises
        ------
        ValueError
            For a negative epoch, or a start that is not from 0 to ``len(self)``.
        """
        integer("the number of an epoch", number, least=0)
        if integer("start", start, least=0) > len(self):
            raise ValueError(f"start must be at most {len(self)} (batches), not {start}")
        order = self._order(number)
        size = self.batch_size
        parts = [order[i * size : (i + 1) * size] for i in range(start, len(self))]
        return prefetch(self._prepare, parts)

    def _order(self, number: int) -> NDArray[np.int64]:
        """Return the order of the images in an epoch."""
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return np.random.default_rng([self.seed, number]).permutation(len(self.dataset))

    def _prepare(self, indices: NDArray[np.int64]) -> Batch:
        """Gather and transform one batch."""
        x = self.transform(self.dataset.images[indices])
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            found = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise TypeError(f"the transform must return float32, not {found}")
        if len(x) != len(indices):
            raise ValueError(f"the transform made {len(x)} images of {len(indices)}")
        return x, self.dataset.labels[indices]
