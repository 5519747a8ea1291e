"""Initial weights: PyTorch's distributions, from explicit seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from deconv_core import init
from deconv_core.layers import Conv2d, ConvTranspose2d
from deconv_core.linear import Linear
from deconv_core.parameters import Layer

PAIRS = [
    (Conv2d, torch.nn.Conv2d, (40, 60, 3)),
    (Conv2d, torch.nn.Conv2d, (40, 60, (5, 2), 1, 0, 1, 4)),
    (ConvTranspose2d, torch.nn.ConvTranspose2d, (100, 20, 3)),
    (ConvTranspose2d, torch.nn.ConvTranspose2d, (100, 20, 3, 1, 0, 0, 2)),
    (Linear, torch.nn.Linear, (300, 200)),
]


@pytest.mark.parametrize("ours_class, theirs_class, args", PAIRS)
def test_distribution_is_pytorchs(ours_class, theirs_class, args) -> None:
    torch.manual_seed(0)
    ours, theirs = ours_class(*args, rng=0), theirs_class(*args)
    fan_in, _ = torch.nn.init._calculate_fan_in_and_fan_out(theirs.weight)
    bound = math.sqrt(2 / (1 + 5)) * math.sqrt(3 / fan_in)
    for name, parameter in ours.named_parameters():
        theirs_values = getattr(theirs, name).detach().numpy()
        assert parameter.shape == theirs_values.shape and parameter.dtype == np.float32
        assert abs(parameter.data).max() <= bound * (1 + 1e-6)
        assert abs(theirs_values).max() <= bound * (1 + 1e-6)
    ours_std, theirs_std = ours.weight.data.std(), theirs.weight.detach().numpy().std()
    assert ours_std == pytest.approx(theirs_std, rel=0.05)
    assert abs(ours.weight.data.mean()) < 0.02 * bound
    assert abs(ours.bias.data).max() > 0.5 * bound


def weights(rng: init.Rng) -> np.ndarray:
    """Return the weight of a layer made with `rng`."""
    layer: Layer = Linear(5, 3, rng=rng)
    return layer.state_dict()["weight"]


def test_seeds_and_generators() -> None:
    np.testing.assert_array_equal(weights(3), weights(3))
    np.testing.assert_array_equal(weights(3), weights(np.random.default_rng(3)))
    assert (weights(3) != weights(4)).any()
    assert (weights(None) != weights(None)).any()
    generator = np.random.default_rng(3)
    assert (weights(generator) != weights(generator)).any()


def test_weights_do_not_touch_the_global_generator() -> None:
    before = np.random.get_state()  # noqa: NPY002
    weights(0)
    weights(None)
    after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(after[1], before[1])  # type: ignore[index]


def test_no_dtype_is_float32_as_in_pytorch() -> None:
    assert init.float_dtype(None) == np.float32


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="float16"):
        init.uniform((3,), 1.0, 0, np.float16)
    with pytest.raises(ValueError):
        weights(-1)


@pytest.mark.parametrize("rng, error", [(-1, ValueError), ("seed", TypeError), (1.5, TypeError)])
def test_a_bad_rng_is_refused_by_name(rng: Any, error: type) -> None:
    with pytest.raises(error, match="rng must be a seed from 0 on"):
        init.generator(rng)
