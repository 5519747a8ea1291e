"""DDNet: three convolutions, three transposed convolutions and a fully connected layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deconv_core import geometry, init
from deconv_core.arguments import integer
from deconv_core.layers import Conv2d, ConvTranspose2d, Flatten, MaxPool2d, ReLU
from deconv_core.linear import Linear
from deconv_core.parameters import Layer
from deconv_core.sequential import Sequential

VARIANTS = ("listing", "pooled")


def DDNet(
    num_classes: int = 10,
    image_size: Any = 32,
    variant: str = "listing",
    rng: init.Rng = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return the net that classifies a picture by what deconvolutions rebuild from its features.

    ``conv1 3->32, conv2 32->64, conv3 64->128`` (3x3, padding 1, a ReLU after each), ``deconv1
    128->64, deconv2 64->32, deconv3 32->3`` (3x3, stride 2, padding 1), then ``fc``. In the
    "listing" variant each deconvolution turns a size H into 2H - 1. The "pooled" variant halves
    the picture after each ReLU, and its deconvolutions double it back to the size of the input.

    Parameters
    ----------
    num_classes : int
    image_size : int or (height, width); the pooled variant takes multiples of 8
    variant : "listing" or "pooled"
    rng : int seed, numpy.random.Generator, or None for unpredictable initial weights
    dtype : float32 or float64

    Returns
    -------
    Sequential
        (N, 3, H, W) -> (N, num_classes); its state_dict is that of a PyTorch module with
        attributes conv1, conv2, conv3, deconv1, deconv2, deconv3 and fc.

    Raises
    ------
    ValueError, TypeError
        For an unknown variant, or a size that the variant cannot take.

    Examples
    --------
    >>> net = DDNet(image_size=8, variant="pooled")
    >>> net(np.zeros((2, 3, 8, 8), np.float32)).shape
    (2, 10)
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    size = geometry.pair(image_size, "image_size", 1)
    pooled = variant == "pooled"
    if pooled and (size[0] % 8 or size[1] % 8):
        raise ValueError(
            f"image_size must be a multiple of 8 for the pooled variant, which halves the picture "
            f"three times and doubles it back; got {size[0]}x{size[1]}"
        )
    made: dict[str, Any] = {"rng": init.generator(rng), "dtype": dtype}
    layers: dict[str, Layer] = {}
    for i, (inputs, outputs) in enumerate([(3, 32), (32, 64), (64, 128)], start=1):
        layers[f"conv{i}"] = Conv2d(inputs, outputs, 3, padding=1, **made)
        layers[f"relu{i}"] = ReLU()
        if pooled:
            layers[f"pool{i}"] = MaxPool2d(2)
    for i, (inputs, outputs) in enumerate([(128, 64), (64, 32), (32, 3)], start=1):
        layers[f"deconv{i}"] = ConvTranspose2d(
            inputs, outputs, 3, stride=2, padding=1, output_padding=int(pooled), **made
        )
    features = math.prod(Sequential(layers).output_shape((1, 3, *size)))
    layers["flatten"] = Flatten()
    layers["fc"] = Linear(features, integer("num_classes", num_classes, 1), **made)
    return Sequential(layers)
