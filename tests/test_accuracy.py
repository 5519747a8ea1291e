"""float32 error against float64: at most twice PyTorch's own, layer by layer and for a net."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch.nn.functional as torch_F
from scripts import load

from deconv_core import functional as F
from deconv_core import geometry

FACTOR = 2.0
SIDE, PIXELS = 40, 3200  # of the benchmarks' shapes, at most: a side, and a batch's pixels
shapes = load("shapes")
ROWS = [("conv_transpose2d", shape) for shape in shapes.TRANSPOSED]
ROWS += [("conv2d", shape) for shape in shapes.ORDINARY]


def scaled(size: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Cut the picture and the batch; channels and kernels, whose sums are long, stay."""
    rows, columns = (min(side, SIDE) for side in size[2:])
    return (min(size[0], PIXELS // (rows * columns)), size[1], rows, columns)


# Sums of a few hundred products, or of many channels whose kernel mostly lies outside the picture.
SMALL = [
    ("conv_transpose2d", (8, 414, 1, 19), (414, 2, 6, 6), {"dilation": (1, 2)}),
    ("conv_transpose2d", (1, 473, 2, 7), (473, 60, 6, 6), {"dilation": (2, 1)}),
    ("conv_transpose2d", (8, 427, 1, 4), (427, 51, 7, 5), {"padding": (3, 2)}),
    ("conv2d", (4, 445, 12, 1), (5, 445, 5, 7), {"stride": (1, 2), "padding": (2, 3)}),
    ("conv2d", (2, 145, 20, 8), (11, 145, 7, 5), {"stride": 3, "padding": 2, "dilation": (2, 1)}),
]


def error(result: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest error."""
    return float(np.abs(result - exact).max())


def ratios(
    name: str, size: Any, weight: Any, options: dict[str, Any], seed: int
) -> list[tuple[str, float]]:
    """Return our largest error over PyTorch's, for each pass of a layer with random numbers."""
    rng = np.random.default_rng(seed)
    describe = geometry.conv_transpose if name == "conv_transpose2d" else geometry.conv
    planned = describe(size, weight, **options)
    result = planned.input_shape if name == "conv_transpose2d" else planned.output_shape
    x, w, dy = (rng.standard_normal(s, np.float32) for s in (size, weight, result))
    function = getattr(torch_F, name)
    truth, theirs = (
        [
            oracle.run(function, [x, w], dtype, **options),
            *oracle.grads(function, [x, w], dy, dtype, **options),
        ]
        for dtype in (np.float64, np.float32)
    )
    ours = [getattr(F, name)(x, w, **options)]
    options = {key: value for key, value in options.items() if key != "output_padding"}
    ours.append(getattr(F, f"{name}_input_grad")(dy, w, x.shape, **options))
    ours.append(getattr(F, f"{name}_weight_grad")(dy, x, w.shape, **options))
    passes = ("forward", "input grad", "weight grad")
    return [
        (what, error(our, exact) / error(their, exact))
        for what, our, their, exact in zip(passes, ours, theirs, truth, strict=True)
    ]


@pytest.mark.parametrize(("name", "shape"), ROWS, ids=lambda value: getattr(value, "name", value))
def test_error_of_real_layers_is_at_most_twice_pytorchs(name: str, shape: Any) -> None:
    for what, ratio in ratios(name, scaled(shape.x), shape.weight, shape.options, seed=0):
        assert ratio <= FACTOR, f"{what}: {ratio:.2f} times PyTorch's error"


@pytest.mark.parametrize(("name", "size", "weight", "options"), SMALL)
def test_error_of_small_layers_is_at_most_twice_pytorchs(
    name: str, size: Any, weight: Any, options: dict[str, Any]
) -> None:
    # One of a few results may be exact by luck: so the median of several draws is compared.
    drawn = [ratios(name, size, weight, options, seed) for seed in range(9)]
    for passes in zip(*drawn, strict=True):
        ratio = float(np.median([ratio for _, ratio in passes]))
        assert ratio <= FACTOR, f"{passes[0][0]}: {ratio:.2f} times PyTorch's error"
