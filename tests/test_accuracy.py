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


def error(result: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest error."""
    return float(np.abs(result - exact).max())


@pytest.mark.parametrize(("name", "shape"), ROWS, ids=lambda value: getattr(value, "name", value))
def test_error_of_real_layers_is_at_most_twice_pytorchs(name: str, shape: Any) -> None:
    rng = np.random.default_rng(0)
    size, options = scaled(shape.x), shape.options
    describe = geometry.conv_transpose if name == "conv_transpose2d" else geometry.conv
    planned = describe(size, shape.weight, **options)
    result = planned.input_shape if name == "conv_transpose2d" else planned.output_shape
    x, w, dy = (rng.standard_normal(s, np.float32) for s in (size, shape.weight, result))
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
    for what, our, their, exact in zip(
        ("forward", "input grad", "weight grad"), ours, theirs, truth, strict=True
    ):
        ratio = error(our, exact) / error(their, exact)
        assert ratio <= FACTOR, f"{what}: {ratio:.2f} times PyTorch's error"
