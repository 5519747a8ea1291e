"""Layers one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deconv_core import device
from deconv_core.affine import Tail, affine_from, cheapest_tail
from deconv_core.fusion import fused
from deconv_core.layers import Flatten
from deconv_core.parameters import Backward, Layer
from deconv_core.slices import fitting


class Sequential(Layer):
    """Layers applied one after another; itself a layer.

    Parameters
    ----------
    *layers : layers, which are named "0", "1", ...; or one mapping of names to layers; or one
        list of (name, layer)

    Raises
    ------
    ValueError
        For a name that is empty, has a dot, or comes twice.
    TypeError
        For something that is not a layer.

    Examples
    --------
    >>> from deconv_core.layers import Conv2d, ReLU
    >>> net = Sequential({"conv1": Conv2d(3, 8, 3, rng=0), "relu1": ReLU()})
    >>> [name for name, _ in net.named_parameters()]
    ['conv1.weight', 'conv1.bias']
    >>> net(np.zeros((2, 3, 8, 8), np.float32)).shape
    (2, 8, 6, 6)
    """

    def __init__(self, *layers: Any) -> None:
        named: Any = [(str(index), layer) for index, layer in enumerate(layers)]
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            named = layers[0].items()
        elif len(layers) == 1 and isinstance(layers[0], Sequence):
            named = layers[0]
            if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in named):
                raise TypeError(
                    "a list must hold (name, layer) pairs; layers without names are arguments of "
                    "their own: Sequential(a, b)"
                )
        self._layers: dict[str, Layer] = {}
        for name, layer in named:
            self._add(name, layer)

    def _add(self, name: str, layer: Layer) -> None:
        """Append one layer, after checking it and its name."""
        if not isinstance(layer, Layer):
            raise TypeError(f"layer {name!r} must be a Layer, got {type(layer).__name__}")
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"a layer's name must be a string without dots, got {name!r}")
        if name in self._layers:
            raise ValueError(f"the name {name!r} is used by two layers")
        self._layers[name] = layer

    def children(self) -> dict[str, Layer]:
        """Return the layers by name, and behind them those set as attributes of a subclass."""
        return {**self._layers, **super().children()}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: return the output and keep nothing.

        Where the affine layers at the end run as a matrix (`collapsed`), slices of the batch go
        through all layers, one after the other.
        """
        body, tail = self.collapsed(getattr(x, "shape", ()), training=False)
        layers = list(body)
        if tail is None:
            return _run(layers, x)
        shapes = (shape[1:] for shape in _shapes(layers, x.shape))
        size = fitting(shapes, x.dtype.itemsize, device.of(x))
        return device.concatenate(
            [_run(layers, x[start : start + size]) for start in range(0, len(x), size)]
        )

    def collapsed(
        self, input_shape: tuple[int, ...], training: bool
    ) -> tuple[Sequential, Tail | None]:
        """Return a net that does the same, its affine tail as a matrix where that is cheaper.

        Parameters
        ----------
        input_shape : of the batch
        training : whether the batch will go backward too

        Returns
        -------
        Sequential, Tail or None
            This net itself and None, or a net of other layers and the tail that its last one, a
            `Linear`, stands for: after training, ``tail.add_grads(net[-1])``.
        """
        layers = list(self)
        start = affine_from(layers)
        if type(self) is not Sequential or not input_shape or start == len(layers):
            return self, None
        for layer in layers[:start]:
            input_shape = layer.output_shape(input_shape)
        kept, tail = cheapest_tail(layers[start:], input_shape, training)
        if tail is None:
            return self, None
        return Sequential(*layers[:start], *kept, Flatten(), tail.linear(training)), tail

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Training: return the output and its backward pass."""
        steps: list[Backward] = []
        for layer in fused(self._layers.values()):
            x, step = layer.forward(x)
            steps.append(step)

        def backward(grad: np.ndarray, input_grad: bool) -> np.ndarray | None:
            # Each step is dropped as it is run, and what its layer kept goes with it.
            while steps:
                step = steps.pop()
                grad = step(grad, input_grad or bool(steps))
            return grad if input_grad else None

        return x, Backward(backward, x)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for an input of this shape."""
        for layer in self._layers.values():
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())

    def __getitem__(self, key: int | str | slice) -> Layer:
        """Return a layer by its position or its name; a slice is a net of the same layers."""
        if isinstance(key, slice):
            return Sequential(dict(list(self._layers.items())[key]))
        return self._layers[key] if isinstance(key, str) else list(self._layers.values())[key]

    def __repr__(self) -> str:
        inner = "".join(f"\n  {name}: {layer!r}" for name, layer in self._layers.items())
        return f"Sequential({inner}\n)"


def _run(layers: Sequence[Layer], x: np.ndarray) -> np.ndarray:
    """Apply the layers one after another."""
    for layer in fused(layers):
        x = layer(x)
    return x


def _shapes(layers: Sequence[Layer], shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the shape of each layer's output."""
    for layer in layers:
        shape = layer.output_shape(shape)
        yield shape
