"""DDNet's weights, images and labels that every side starts from, and its arithmetic."""

from __future__ import annotations

import numpy as np

import deconv_core as dc


def weights(image_size: int = 32) -> dict[str, np.ndarray]:
    """Return the weights by name."""
    return dc.DDNet(image_size=image_size, rng=0).state_dict()


def images(batch: int, image_size: int = 32) -> np.ndarray:
    """Return images, as if normalised."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (batch, 3, image_size, image_size)).astype(np.float32)


def labels(batch: int) -> np.ndarray:
    """Return labels from 0 to 9."""
    return np.random.default_rng(1).integers(0, 10, batch)


def training(batch: int, image_size: int = 32) -> dict[str, np.ndarray]:
    """Return the case of a training step: "x", "target" and the weights by name."""
    x, target = images(batch, image_size), labels(batch)
    return {"x": x, "target": target, **weights(image_size)}


def forward_flops(batch: int, image_size: int = 32) -> float:
    """Return the floating-point operations of a direct forward pass; a step has three times that.

    Every element of a weight meets every picture position once: of the output in a convolution,
    of the input in a transposed one.
    """
    net = dc.DDNet(image_size=image_size)
    shape: tuple[int, ...] = (batch, 3, image_size, image_size)
    total = 0
    for layer in net:
        before, shape = shape, layer.output_shape(shape)
        if isinstance(layer, (dc.Conv2d, dc.ConvTranspose2d, dc.Linear)):
            positions = before if isinstance(layer, dc.ConvTranspose2d) else shape
            total += layer.weight.data.size * batch * int(np.prod(positions[2:]))
    return 2.0 * total
