"""One training step, exact for any batch in bounded memory; prediction and evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deconv_core import device
from deconv_core.gradients import Criterion, gradients, slice_size
from deconv_core.optim import Optimizer
from deconv_core.parameters import Layer
from deconv_core.sequential import Sequential


def train_step(
    net: Layer,
    criterion: Criterion,
    optimizer: Optimizer,
    x: np.ndarray,
    target: np.ndarray,
    micro_batch: int | str | None = "auto",
    collapse: bool = True,
) -> Any:
    """Make one optimizer step on a batch and return its mean loss from before the step.

    The gradient of a mean over N images is the sum of its slices' gradients, so each slice goes
    through the whole net, forward and backward, before the next: memory does not grow with the
    batch, and what a layer leaves is still in cache when the next one wants it.

    On CUDA nothing here waits for the device: the loss that is returned is read, and the step
    waited for, by ``float(loss)``. A net of the layers of this package, trained on
    `CrossEntropyLoss`, has its steps recorded as a CUDA graph, once two in a row are alike but for
    the images and the labels, and later ones are launched as a whole (cuda/graph.py): to the bit
    the same, with less work for the host. The record keeps the memory of a step until the net is
    dropped or leaves the device, or another of its steps is recorded.

    Parameters
    ----------
    net : a layer or Sequential
    criterion : ``(logits, target) -> (mean loss, gradient to logits)``
    optimizer : SGD or Adam over the net's parameters
    x : (N, ...) float array
    target : (N,) as the criterion takes it
    micro_batch : images in a slice, "auto" (see `slice_size`) or None for the whole batch
    collapse : whether the affine layers that end a Sequential may run as their matrix (affine.py)
        where that is cheaper, rather than layer by layer; the results differ by rounding alone

    Raises
    ------
    ValueError, TypeError
        When x and target differ in length or hold nothing, or micro_batch is no such number.
    FloatingPointError
        When the loss is not finite: weights and optimizer are as before, gradients are zero. On
        CUDA it is raised where the loss is read, after the step.

    Examples
    --------
    >>> import deconv_core as dc
    >>> net = dc.Sequential(dc.Linear(4, 3, rng=0))
    >>> optimizer = dc.SGD(net.parameters(), lr=0.1)
    >>> x, target = np.ones((8, 4), np.float32), np.zeros(8, np.int64)
    >>> first = dc.train_step(net, dc.CrossEntropyLoss(), optimizer, x, target)
    >>> dc.train_step(net, dc.CrossEntropyLoss(), optimizer, x, target) < first
    True
    """
    _check_batch(x, target)
    if not len(x):
        raise ValueError("x holds 0 images")
    try:
        loss = gradients(net, criterion, x, target, micro_batch, collapse)
    except BaseException:
        net.zero_grad()
        raise
    optimizer.step()
    return loss if isinstance(loss, float) else loss.finite()


def _check_batch(x: Any, target: Any) -> None:
    """Raise unless these are arrays of as many images as labels."""
    for name, array in (("x", x), ("target", target)):
        if device.of(array) is None:
            raise TypeError(f"{name} must be a numpy.ndarray, got {type(array).__name__}")
        if not array.ndim:
            raise ValueError(f"{name} must hold a batch, got an array without axes")
    if len(x) != len(target):
        raise ValueError(f"x holds {len(x)} images and target {len(target)} labels")


def predict(net: Layer, x: np.ndarray, micro_batch: int | str | None = "auto") -> np.ndarray:
    """Return ``net(x)``, slice by slice, so that memory does not grow with the batch.

    Raises
    ------
    FloatingPointError
        When a result is not finite.

    Examples
    --------
    >>> from deconv_core.models import DDNet
    >>> predict(DDNet(image_size=8), np.zeros((3, 3, 8, 8), np.float32)).shape
    (3, 10)
    """
    with np.errstate(all="ignore"):
        if isinstance(net, Sequential):
            net, _ = net.collapsed(x.shape, training=False)
        size = slice_size(net, x, micro_batch)
        parts = [net(x[start : start + size]) for start in range(0, max(len(x), 1), size)]
    if not all(np.isfinite(device.plain(part)).all() for part in parts):
        raise FloatingPointError("what the net makes of the images is not finite")
    return device.concatenate(parts)


@dataclass(frozen=True)
class Evaluation:
    """What a net made of labelled images.

    Attributes
    ----------
    confusion : (classes, classes) int64 array; row = true class, column = predicted class
    """

    confusion: np.ndarray

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of images whose class was predicted, from 0 to 1."""
        return float(np.trace(self.confusion)) / self.images


def _check_labels(target: np.ndarray, classes: int) -> None:
    """Raise unless all labels are numbers of classes."""
    if target.dtype.kind not in "iu" or target.ndim != 1:
        raise TypeError(f"target must be (N,) integers, got {target.shape} {target.dtype}")
    wrong = target[(target < 0) | (target >= classes)]
    if wrong.size:
        raise ValueError(f"target has label {wrong[0]}, outside 0..{classes - 1}")


def evaluate(
    net: Layer,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    micro_batch: int | str | None = "auto",
) -> Evaluation:
    """Predict the class of every image, the largest logit, and compare with the labels.

    Parameters
    ----------
    net : a layer or Sequential that returns (N, classes) logits
    batches : iterable of (images, int64 labels), on the device of the net
    micro_batch : as in `train_step`

    Raises
    ------
    ValueError, TypeError
        When there are no images, the labels are not one of the classes for each image, or the net
        returns something else than such logits.
    FloatingPointError
        When a logit is not finite.

    Examples
    --------
    >>> from deconv_core.layers import Flatten
    >>> batch = np.eye(3, dtype=np.float32), np.array([0, 1, 1])
    >>> result = evaluate(Flatten(), [batch])
    >>> result.images, round(result.accuracy, 3), result.confusion[1].tolist()
    (3, 0.667, [0, 1, 1])
    """
    confusion: Any = None
    for x, target in batches:
        _check_batch(x, target)
        logits, target = device.plain(predict(net, x, micro_batch)), device.plain(target)
        if logits.ndim != 2:
            raise ValueError(f"the net must return (N, classes) logits, got shape {logits.shape}")
        classes = logits.shape[1]
        if confusion is not None and len(confusion) != classes:
            raise ValueError(f"the net returned {classes} classes, but {len(confusion)} before")
        _check_labels(target, classes)
        rows = target.astype(np.int64) * classes
        pairs = np.bincount(rows + logits.argmax(axis=1), minlength=classes**2)
        counts = pairs.reshape(classes, classes)
        confusion = counts if confusion is None else confusion + counts
    if confusion is None or not confusion.sum():
        raise ValueError("there are no images to evaluate")
    return Evaluation(confusion)
