"""ReLU and its mask as the end of a convolution: the same as the passes one by one."""

from __future__ import annotations

from typing import Any

import calls
import numpy as np
import pytest

import deconv_core as dc
from deconv_core import functional as F
from deconv_core import geometry, sequential
from deconv_core.cpu.conv import choose
from deconv_core.cpu.winograd.tilepass import run_tile_pass
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


@pytest.mark.parametrize(
    ("channels", "size", "kernel", "options"),
    [
        ((3, 17), (7, 9), (3, 3), {"padding": 1}),
        ((20, 33), (13, 40), (3, 3), {"padding": (0, 2)}),
        ((5, 6), (9, 35), (3, 3), {"padding": 2, "dilation": 2}),
        ((16, 5), (12, 21), (4, 4), {"stride": 2, "padding": 1}),
        ((4, 18), (5, 8), (3, 3), {"stride": 2, "padding": 1}),
        ((6, 7), (1, 70), (1, 3), {"padding": (0, 1)}),
    ],
)
def test_tiles_end_as_layers_one_by_one_do(
    dtype: type,
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: tuple[int, int],
    options: dict[str, Any],
) -> None:
    """To the bit, with NaN, infinities and zeros of both signs among sources, sums and masks."""
    rng = np.random.default_rng(1)
    shape = geometry.conv((3, channels[0], *size), (*channels[::-1], *kernel), **options)
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)

    def values(shape: tuple[int, ...]) -> np.ndarray:
        found = rng.standard_normal(shape).astype(dtype)
        found.flat[rng.integers(0, found.size, 50)] = odd[rng.integers(0, 5, 50)]
        found[-1] = -0.0  # a picture, or a kernel, of nothing
        return found

    x, dy, w = (values(s) for s in (shape.input_shape, shape.output_shape, shape.weight_shape))
    bias = np.zeros(channels[1], dtype)
    bias[::2] = -0.0
    calls.tile(True)
    try:
        assert choose(shape, False, x.itemsize)[0] is run_tile_pass
        with np.errstate(all="ignore"):
            y, dx = F.conv2d(x, w, bias, **options), F.conv2d_input_grad(dy, w, x.shape, **options)
            assert F.conv2d(x, w, bias, **options, relu=True).tobytes() == F.relu(y).tobytes()
            mask = values(dx.shape)
            masked = F.conv2d_input_grad(dy, w, x.shape, **options, mask=mask)
            assert masked.tobytes() == F.relu_backward(dx, mask).tobytes()
            mask = mask.transpose(1, 0, 3, 2).copy().transpose(1, 0, 3, 2)  # any memory layout
            again = F.conv2d_input_grad(dy, w, x.shape, **options, mask=mask)
            assert again.tobytes() == masked.tobytes()
    finally:
        calls.choose_as_usual()


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask has shape \(2, 3, 5, 6\) but input"):
        F.conv2d_input_grad(GRAD, W, X.shape, padding=1, mask=GRAD)
    with pytest.raises(TypeError, match="grad_output and mask must have one dtype"):
        F.conv_transpose2d_input_grad(X, W, GRAD.shape, padding=1, mask=GRAD.astype(np.float32))


def test_which_layers_are_fused() -> None:
    conv, deconv, relu = dc.Conv2d(3, 3, 3), dc.ConvTranspose2d(3, 3, 3), dc.ReLU()
    fc, flatten = dc.Linear(3, 3), dc.Flatten()

    class Own(dc.Conv2d):
        """A subclass may do anything."""

    own, pool, subclass = Own(3, 3, 3), dc.MaxPool2d(2), type("Own", (dc.ReLU,), {})()
    layers = [
        relu, conv, relu, relu, pool, conv, subclass, deconv, relu, own, conv, deconv, relu, conv,
        relu, flatten, fc, relu, fc, conv, flatten, relu, fc,
    ]  # fmt: skip
    found = [
        (layer.layer, layer.relu, layer.masked, layer.masks) if isinstance(layer, Fused) else layer
        for layer in fused(layers)
    ]
    plain = (False, False, False)
    assert found == [
        relu, (conv, True, False, False), relu, pool, (conv, *plain), subclass,
        (deconv, True, False, False), own, (conv, *plain), (deconv, True, True, False),
        (conv, True, True, True), flatten, (fc, True, True, True), (fc, False, False, True),
        (conv, *plain), flatten, relu, (fc, *plain),
    ]  # fmt: skip


def test_the_bits_are_those_of_layers_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def bits() -> list[bytes]:
        net = dc.DDNet(image_size=16, variant="pooled", rng=0)
        x = np.random.default_rng(0).standard_normal((9, 3, 16, 16), np.float32)
        y, backward = net.forward(x)
        found = [net(x), y, backward(np.sin(y)), *(p.grad for p in net.parameters())]
        assert all(array.any() for array in found)
        return [array.tobytes() for array in found]

    together = bits()
    monkeypatch.setattr(sequential, "fused", lambda layers: layers)
    assert bits() == together
