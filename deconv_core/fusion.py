"""A layer's kernel also applies the ReLU beside it.

A convolution's kernel has each result in a register, where ReLU costs nothing; as a pass of its own
it would read and write the whole array. So it is backward: what a layer computes for a ReLU's
output is masked where it is computed. On the CPU this is so for convolutions by Winograd's tiles
and for the gradient to a linear layer's input; elsewhere ReLU and mask are passes of their own. The
bits are those of the layers one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from deconv_core import functional as F
from deconv_core.layers import Conv2d, ConvTranspose2d, Flatten, ReLU
from deconv_core.linear import Linear
from deconv_core.parameters import Backward, Layer, Weighted

_WEIGHTED = (Conv2d, ConvTranspose2d, Linear)  # a subclass may do anything


class Fused(Layer):
    """A layer with a weight and the ReLU that follows it, a part of the one before it, or both.

    Parameters
    ----------
    layer : Conv2d, ConvTranspose2d or Linear
    masks : whether the input is a ReLU's output, whose mask the gradient to it shall have

    Attributes
    ----------
    relu : whether ReLU follows
    masked : whether the gradient to the output arrives with the mask of that ReLU already applied
    """

    def __init__(self, layer: Weighted, masks: bool) -> None:
        self.layer, self.masks, self.relu, self.masked = layer, masks, False, False

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: the output of both layers."""
        return self.layer.output(x, self.relu)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Training: the output, and its backward pass, which keeps x and perhaps the output."""
        layer, y = self.layer, self(x)
        rest = y if self.relu and not self.masked else None

        def backward(grad_y: np.ndarray, input_grad: bool) -> np.ndarray | None:
            if rest is not None:
                grad_y = F.relu_backward(grad_y, rest)
            layer.add_grads(grad_y, x)
            if not input_grad:
                return None
            return layer.adjoint(grad_y, x.shape, mask=x if self.masks else None)

        return y, Backward(backward, y)


def fused(layers: Iterable[Layer]) -> list[Layer]:
    """Return layers that do the same one after another.

    Each ReLU goes into the layer before it, and its mask into the one behind it; a `Flatten` may
    lie between.

    Examples
    --------
    >>> layers = fused([Conv2d(3, 8, 3), ReLU(), Flatten(), Linear(8, 3)])
    >>> [(layer.relu, layer.masked, layer.masks) for layer in layers[::2]]
    [(True, True, False), (False, False, True)]
    """
    made: list[Layer] = []
    before: Fused | None = None  # whose output, perhaps flattened, comes next
    for layer in layers:
        if type(layer) is ReLU and before is not None and before is made[-1] and not before.relu:
            before.relu = True
        elif type(layer) is Flatten:
            made.append(layer)
        elif isinstance(layer, Weighted) and type(layer) in _WEIGHTED:
            masks = before is not None and before.relu
            if before is not None:
                before.masked = masks
            before = Fused(layer, masks)
            made.append(before)
        else:
            before = None
            made.append(layer)
    return made
