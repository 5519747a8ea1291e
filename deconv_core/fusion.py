"""A convolution's kernel also applies the ReLU that follows it.

That kernel has each result in a register, where ReLU costs nothing; as a pass of its own it would
read and write the whole array. So it is backward: what a convolution computes for a ReLU's output
is masked where it is computed. Where something else comes after the ReLU, its gradient is a pass of
its own; on the CPU so are both after convolutions that do not run by Winograd's tiles. The bits are
those of the layers one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from deconv_core import functional as F
from deconv_core.layers import Conv2d, ConvTranspose2d, ReLU
from deconv_core.parameters import Backward, Layer

_CONVOLUTIONS = (Conv2d, ConvTranspose2d)  # a subclass may do anything


class Fused(Layer):
    """A convolution with the ReLU that follows it, a part of the one that precedes it, or both.

    Parameters
    ----------
    convolution : Conv2d or ConvTranspose2d
    relu : whether ReLU follows
    masked : whether the gradient to the output arrives with the mask of that ReLU already applied
    masks : whether the input is a ReLU's output, whose mask the gradient to it shall have
    """

    def __init__(
        self, convolution: Conv2d | ConvTranspose2d, relu: bool, masked: bool, masks: bool
    ) -> None:
        self.convolution, self.relu, self.masked, self.masks = convolution, relu, masked, masks

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: the output of both layers."""
        return self.convolution.output(x, relu=self.relu)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Training: the output, and its backward pass, which keeps x and perhaps the output."""
        layer, y = self.convolution, self(x)
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
    >>> layers = fused([Conv2d(3, 8, 3), ReLU(), ConvTranspose2d(8, 3, 3)])
    >>> [(layer.relu, layer.masked, layer.masks) for layer in layers]
    [(True, True, False), (False, False, True)]
    """
    made: list[Layer] = []
    for layer in layers:
        before = made[-1] if made else None
        if type(layer) is ReLU and isinstance(before, Fused) and not before.relu:
            before.relu = True
        elif type(layer) in _CONVOLUTIONS:
            masks = isinstance(before, Fused) and before.relu
            if isinstance(before, Fused):
                before.masked = masks
            made.append(Fused(layer, False, False, masks))  # type: ignore[arg-type]
        else:
            made.append(layer)
    return made
