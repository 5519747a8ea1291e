"""A layer's kernel also applies the ReLU beside it.

A convolution's kernel has each result in a register, where ReLU costs nothing; as a pass of its own
it would read and write the whole array. So it is backward: what a layer computes for a ReLU's
output is masked where it is computed. Where something else comes after the ReLU, its gradient is a
pass of its own; on the CPU so are both at convolutions that do not run by Winograd's tiles. The
bits are those of the layers one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from deconv_core import functional as F
from deconv_core.layers import Conv2d, ConvTranspose2d, Flatten, ReLU
from deconv_core.linear import Linear
from deconv_core.parameters import Backward, Layer

_CONVOLUTIONS = (Conv2d, ConvTranspose2d)  # a subclass may do anything


class Fused(Layer):
    """A convolution with the ReLU that follows it, a part of the one before it, or both.

    Parameters
    ----------
    layer : Conv2d, ConvTranspose2d, or Linear, which ends with no ReLU
    relu : whether ReLU follows
    masked : whether the gradient to the output arrives with the mask of that ReLU already applied
    masks : whether the input is a ReLU's output, whose mask the gradient to it shall have
    """

    def __init__(
        self, layer: Conv2d | ConvTranspose2d | Linear, relu: bool, masked: bool, masks: bool
    ) -> None:
        self.layer, self.relu, self.masked, self.masks = layer, relu, masked, masks

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: the output of both layers."""
        return self.layer(x) if isinstance(self.layer, Linear) else self.layer.output(x, self.relu)

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
    """Return layers that do the same one after another, each ReLU in the convolution before it.

    Examples
    --------
    >>> layers = fused([Conv2d(3, 8, 3), ReLU(), Flatten(), Linear(8, 3)])
    >>> [(layer.relu, layer.masked, layer.masks) for layer in layers[::2]]
    [(True, True, False), (False, False, True)]
    """
    made: list[Layer] = []
    before: Fused | None = None  # the convolution whose output, perhaps flattened, comes next
    for layer in layers:
        if type(layer) is ReLU and before is not None and before is made[-1] and not before.relu:
            before.relu = True
            continue
        convolves, masks = type(layer) in _CONVOLUTIONS, before is not None and before.relu
        if convolves or (type(layer) is Linear and masks):
            layer = Fused(layer, False, False, masks)  # type: ignore[arg-type]
            if before is not None:
                before.masked = masks
        made.append(layer)
        if type(layer) is not Flatten:
            before = layer if convolves else None  # type: ignore[assignment]
    return made
