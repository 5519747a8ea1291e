"""ReLU and its mask as the end of a convolution: the same as the passes one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import deconv_core as dc
from deconv_core import functional as F
from deconv_core import sequential
from deconv_core.fusion import Fused, fused

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((2, 4, 5, 6)), RNG.standard_normal((3, 4, 3, 3))
GRAD, BIAS = RNG.standard_normal((2, 3, 5, 6)), RNG.standard_normal(3)


def test_a_convolution_ends_with_relu(dtype: type) -> None:
    x, w, bias, grad = (a.astype(dtype) for a in (X, W, BIAS, GRAD))
    y = F.conv2d(x, w, bias, padding=1)
    assert (y < 0).any()
    positive = F.conv2d(x, w, bias, padding=1, relu=True)
    np.testing.assert_array_equal(positive, np.maximum(y, 0), strict=True)
    y = F.conv_transpose2d(grad, w, padding=1)
    positive = F.conv_transpose2d(grad, w, padding=1, relu=True)
    np.testing.assert_array_equal(positive, np.maximum(y, 0), strict=True)


def test_an_input_gradient_ends_with_a_mask(dtype: type) -> None:
    x, w, grad = (a.astype(dtype) for a in (X, W, GRAD))
    dx = F.conv2d_input_grad(grad, w, x.shape, padding=1)
    masked = F.conv2d_input_grad(grad, w, x.shape, padding=1, mask=x)
    np.testing.assert_array_equal(masked, np.where(x > 0, dx, 0), strict=True)
    dx = F.conv_transpose2d_input_grad(x, w, grad.shape, padding=1)
    masked = F.conv_transpose2d_input_grad(x, w, grad.shape, padding=1, mask=grad)
    np.testing.assert_array_equal(masked, np.where(grad > 0, dx, 0), strict=True)


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask has shape \(2, 3, 5, 6\) but input"):
        F.conv2d_input_grad(GRAD, W, X.shape, padding=1, mask=GRAD)
    with pytest.raises(TypeError, match="grad_output and mask must have one dtype"):
        F.conv_transpose2d_input_grad(X, W, GRAD.shape, padding=1, mask=GRAD.astype(np.float32))


def test_which_layers_are_fused() -> None:
    conv, deconv, relu = dc.Conv2d(3, 3, 3), dc.ConvTranspose2d(3, 3, 3), dc.ReLU()

    class Own(dc.Conv2d):
        """A subclass may do anything."""

    own, pool, subclass = Own(3, 3, 3), dc.MaxPool2d(2), type("Own", (dc.ReLU,), {})()
    layers = [relu, conv, relu, relu, pool, conv, subclass, deconv, relu, own, conv, deconv, relu]
    found = [
        (layer.convolution, layer.relu, layer.masked, layer.masks)
        if isinstance(layer, Fused)
        else layer
        for layer in fused(layers)
    ]
    plain = (False, False, False)
    assert found == [
        relu, (conv, True, False, False), relu, pool, (conv, *plain), subclass,
        (deconv, True, False, False), own, (conv, *plain), (deconv, True, False, False),
    ]  # fmt: skip


def test_on_the_cpu_layers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(layers: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(sequential, "fused", fail)
    net = dc.Sequential(dc.Conv2d(4, 3, 3, rng=0), dc.ReLU())
    x = X.astype(np.float32)
    np.testing.assert_array_equal(net.forward(x)[0], net(x))
