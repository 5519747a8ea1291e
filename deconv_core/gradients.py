"""The gradients of a batch, slice by slice; on CUDA from the record of an earlier step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from deconv_core import device
from deconv_core.arguments import integer
from deconv_core.layers import AvgPool2d, Conv2d, ConvTranspose2d, Flatten, MaxPool2d, ReLU
from deconv_core.linear import Linear, gathering
from deconv_core.losses import CrossEntropyLoss
from deconv_core.parameters import Layer
from deconv_core.sequential import Sequential
from deconv_core.slices import fitting

Criterion = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]
# What these do depends on nothing but what they show, and they change no array that they are given
# or gave; a subclass may do anything.
_KNOWN = {AvgPool2d, Conv2d, ConvTranspose2d, Flatten, Linear, MaxPool2d, ReLU, Sequential}


def _output_shapes(net: Layer, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the output shape of every layer, looking into Sequentials."""
    if not isinstance(net, Sequential):
        yield net.output_shape(shape)
        return
    for layer in net:
        yield from _output_shapes(layer, shape)
        shape = layer.output_shape(shape)


def slice_size(net: Layer, x: np.ndarray, micro_batch: int | str | None) -> int:
    """Return how many images of `x` go through `net` at a time.

    For "auto" that is the power of two whose activations come closest to 64 MiB (on CUDA 4 GiB)
    from below, and at least one.

    Raises
    ------
    ValueError, TypeError
        Unless `micro_batch` is "auto", None or an integer of at least one.
    """
    images = max(len(x), 1)
    if micro_batch is None:
        return images
    if micro_batch == "auto":
        shapes = _output_shapes(net, (1, *x.shape[1:]))
        return min(fitting(shapes, x.dtype.itemsize, device.of(x)), images)
    return integer("micro_batch", micro_batch, 1)


def gradients(
    net: Layer,
    criterion: Criterion,
    x: np.ndarray,
    target: np.ndarray,
    micro_batch: int | str | None,
    collapse: bool,
) -> Any:
    """Set the gradients of `net` to those of a batch's mean loss, and return the loss.

    Parameters are those of `train_step`.
    """

    def run(x: np.ndarray, target: np.ndarray) -> Any:
        net.zero_grad()
        loss: Any = 0.0
        trained = _collapsed(net, x.shape) if collapse else nullcontext(net)
        with trained as body, _gathering(body), np.errstate(all="ignore"):
            size = slice_size(body, x, micro_batch)
            for start in range(0, len(x), size):
                part = slice(start, start + size)
                loss += _accumulate(body, criterion, x[part], target[part], len(x))
        return loss

    own = type(criterion) is CrossEntropyLoss
    if device.of(x) != "cuda" or not (own and _is_known(net)):
        return run(x, target)
    arrays = [a for _, p in net.named_parameters() for a in (p.data, p.grad)]
    if not all(device.of(array) == "cuda" for array in (target, *arrays)):
        return run(x, target)  # which says what is elsewhere
    precisions = [getattr(layer, "precision", None) for layer in net.walk()]
    kind = repr(net), precisions, repr(criterion), micro_batch, collapse
    return device.cuda().graph.run(net, kind, arrays, run, (x, target))


def _is_known(net: Layer) -> bool:
    """Tell whether all layers are this package's own."""
    return type(net) in _KNOWN and all(map(_is_known, net.children().values()))


def _gathering(net: Layer) -> AbstractContextManager[None]:
    """Gather weight gradients, unless some layer may change an array that it was given or gave."""
    return gathering(net) if _is_known(net) else nullcontext()


@contextmanager
def _collapsed(net: Layer, shape: tuple[int, ...]) -> Iterator[Layer]:
    """Yield a net to train in place of `net`; at the end pass its gradients on."""
    body, tail = net.collapsed(shape, training=True) if isinstance(net, Sequential) else (net, None)
    yield body
    if tail is not None:
        tail.add_grads(body[-1])  # type: ignore[index]


def _accumulate(
    net: Layer, criterion: Criterion, x: np.ndarray, target: np.ndarray, total: int
) -> Any:
    """Add one slice's share of the gradients and return its share of the loss."""
    logits, backward = net.forward(x)
    loss: Any
    loss, grad = criterion(logits, target)
    if device.of(logits) != "cuda":
        loss = float(loss)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
    if type(criterion) is not CrossEntropyLoss and isinstance(grad, np.ndarray):
        grad = grad.copy()  # it may be given again, or be read-only
    if len(x) < total:
        device.scale(grad, len(x) / total)
    backward(grad, input_grad=False)
    return loss * (len(x) / total)
