"""The affine tail as a matrix: outputs and gradients are those of PyTorch's layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import deconv_core as dc
from deconv_core.affine import Tail, affine_from, cheapest_tail

MADE = {"rng": np.random.default_rng(0), "dtype": np.float64}


def nets(bias: bool) -> tuple[dc.Sequential, nn.Sequential]:
    """Return a net whose tail has every kind of affine layer, and PyTorch's with the same weights.

    Its input is (N, 2, 6, 6) and it has 2 outputs.
    """
    ours = dc.Sequential(
        dc.Conv2d(2, 4, 3, padding=1, bias=bias, **MADE),
        dc.ReLU(),
        dc.ConvTranspose2d(
            4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=bias, **MADE
        ),
        dc.Conv2d(6, 3, 3, stride=(1, 2), dilation=2, bias=bias, **MADE),
        dc.AvgPool2d(2, padding=1),
        dc.ConvTranspose2d(3, 2, 2, bias=bias, **MADE),
        dc.Flatten(),
        dc.Linear(2 * 6 * 4, 5, bias=bias, **MADE),
        dc.Linear(5, 2, bias=bias, **MADE),
    )
    theirs = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=bias),
        nn.Conv2d(6, 3, 3, stride=(1, 2), dilation=2, bias=bias),
        nn.AvgPool2d(2, padding=1),
        nn.ConvTranspose2d(3, 2, 2, bias=bias),
        nn.Flatten(),
        nn.Linear(2 * 6 * 4, 5, bias=bias),
        nn.Linear(5, 2, bias=bias),
    ).double()
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in ours.state_dict().items()})
    return ours, theirs


def collapsed_from(net: dc.Sequential, shape: tuple[int, ...], training: bool) -> int | None:
    """Return the position from which on `net` runs as a matrix."""
    layers = list(net)
    start = affine_from(layers)
    for layer in layers[:start]:
        shape = layer.output_shape(shape)
    kept, tail = cheapest_tail(layers[start:], shape, training)
    return None if tail is None else start + len(kept)


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_pytorch(bias: bool) -> None:
    ours, theirs = nets(bias)
    rng = np.random.default_rng(1)
    x, target = rng.standard_normal((40, 2, 6, 6)), rng.integers(0, 2, 40)
    for training in (True, False):
        assert collapsed_from(ours, x.shape, training) == 2
    logits = theirs(torch.from_numpy(x))
    np.testing.assert_allclose(ours(x), logits.detach().numpy(), rtol=1e-11, atol=1e-14)
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(target))
    loss.backward()
    for micro_batch in ("auto", 7):
        optimizer = dc.SGD(ours.parameters(), lr=0)
        ours_loss = dc.train_step(
            ours, dc.CrossEntropyLoss(), optimizer, x, target, micro_batch=micro_batch
        )
        assert ours_loss == pytest.approx(loss.item(), rel=1e-12)
        for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(
                own.grad, other.grad.numpy(), rtol=1e-9, atol=1e-14, err_msg=name
            )


def test_layer_by_layer_is_the_same_up_to_rounding() -> None:
    x = np.random.default_rng(2).standard_normal((64, 3, 8, 8)).astype(np.float32)
    target = np.arange(64) % 10
    grads = []
    for collapse in (True, False):
        net = dc.DDNet(image_size=8)
        assert collapsed_from(net, x.shape, True) == 6  # from deconv1 on
        optimizer = dc.SGD(net.parameters(), lr=0)
        dc.train_step(net, dc.CrossEntropyLoss(), optimizer, x, target, collapse=collapse)
        grads.append([parameter.grad for parameter in net.parameters()])
    for a, b in zip(*grads, strict=True):
        assert not np.array_equal(a, b) or a.size < 20  # two ways of computing, indeed
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-6 * np.abs(b).max())


def test_only_where_it_is_cheaper() -> None:
    ours, _ = nets(True)
    assert collapsed_from(ours, (2, 2, 6, 6), True) is None  # as many rows as images
    assert collapsed_from(dc.DDNet(), (8, 3, 32, 32), True) is None
    assert collapsed_from(dc.DDNet(), (128, 3, 32, 32), True) == 6
    classifier = dc.Sequential(  # the pooled features are fewer than the picture's
        dc.Conv2d(3, 8, 3), dc.ReLU(), dc.AvgPool2d(6), dc.Flatten(), dc.Linear(8, 10)
    )
    assert collapsed_from(classifier, (512, 3, 8, 8), True) is None
    decoder = dc.Sequential(dc.ConvTranspose2d(8, 3, 4, stride=2))  # an output is a picture
    assert collapsed_from(decoder, (512, 8, 16, 16), True) is None


@pytest.mark.parametrize("batch", [1, 64, 512])
def test_a_net_that_ends_in_pictures_returns_pictures(batch: int) -> None:
    net = dc.Sequential(
        dc.Conv2d(3, 8, 3, stride=2, padding=1, rng=0),
        dc.ReLU(),
        dc.Conv2d(8, 8, 3, padding=1, rng=1),
    )
    x = np.random.default_rng(4).standard_normal((batch, 3, 4, 4), np.float32)
    assert collapsed_from(net, x.shape, False) is collapsed_from(net, x.shape, True) is None
    assert net(x).shape == net.forward(x)[0].shape == net.output_shape(x.shape) == (batch, 8, 2, 2)
    np.testing.assert_allclose(net(x), net.forward(x)[0], rtol=1e-5, atol=1e-6)


def test_a_net_inside_a_net_passes_pictures_on() -> None:
    inner = dc.Sequential(dc.Conv2d(8, 8, 3, padding=1, rng=0))
    net = dc.Sequential(
        dc.Conv2d(3, 8, 3, stride=2, padding=1, rng=0), dc.ReLU(), inner, dc.MaxPool2d(2),
        dc.Flatten(), dc.Linear(8, 10, rng=0),
    )  # fmt: skip
    x = np.random.default_rng(5).standard_normal((256, 3, 4, 4), np.float32)
    np.testing.assert_allclose(net(x), net.forward(x)[0], rtol=1e-4, atol=1e-5)


def test_a_layer_that_may_do_more_is_run_as_it_is() -> None:
    class Gated(dc.ConvTranspose2d):
        def __call__(self, x: np.ndarray) -> np.ndarray:
            return np.abs(super().__call__(x))

    net = dc.Sequential(Gated(1, 4, 3, rng=0), dc.Flatten(), dc.Linear(4 * 36, 1, rng=0))
    x = np.random.default_rng(3).standard_normal((50, 1, 4, 4)).astype(np.float32)
    assert collapsed_from(net, x.shape, False) is None
    expected = net["2"](np.abs(dc.functional.conv_transpose2d(
        x, net["0"].weight.data, net["0"].bias.data)).reshape(50, -1))  # fmt: skip
    np.testing.assert_allclose(net(x), expected, rtol=1e-5, atol=1e-6)


def test_parameters_shared_between_head_and_tail_get_both_gradients() -> None:
    conv = dc.Conv2d(2, 2, 3, padding=1, **MADE)
    net = dc.Sequential(conv, dc.ReLU(), conv, conv, dc.Flatten(), dc.Linear(2 * 5 * 5, 1, **MADE))
    x, target = np.random.default_rng(4).standard_normal((60, 2, 5, 5)), np.zeros(60, np.int64)
    grads = []
    for collapse in (True, False):
        dc.train_step(
            net, lambda y, _: (float((y**2).mean()), 2 * y / len(y)),
            dc.SGD(net.parameters(), lr=0), x, target, collapse=collapse,
        )  # fmt: skip
        grads.append(conv.weight.grad.copy())
    assert collapsed_from(net, x.shape, True) == 2
    np.testing.assert_allclose(*grads, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("budget", [1, 1 << 13, 1 << 20])
def test_gradients_are_passed_on_whatever_was_kept(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all, some or nothing of what was made on the way; again, too, and row by row."""
    monkeypatch.setattr("deconv_core.slices.SLICE_BYTES", {"cpu": budget})
    monkeypatch.setattr("deconv_core.affine.SLICE_BYTES", {"cpu": budget})
    for last in ((dc.Flatten(), dc.Linear(48, 3, **MADE)), (dc.AvgPool2d(4), dc.Flatten())):
        net = dc.Sequential(
            dc.Conv2d(2, 3, 3, padding=1, **MADE), dc.Conv2d(3, 3, 3, padding=1, **MADE), *last
        )
        rng = np.random.default_rng(6)
        x = rng.standard_normal((5, 2, 4, 4))
        y, backward = net.forward(x)
        grad = rng.standard_normal(y.shape)
        backward(grad)
        expected = [parameter.grad.copy() for parameter in net.parameters()]
        tail = Tail(list(net), x.shape[1:])
        for training in (True, False, True):
            linear = tail.linear(training)
            linear.forward(x.reshape(5, -1))[1](grad)
            for _ in range(2):
                net.zero_grad()
                tail.add_grads(linear)
                for parameter, wanted in zip(net.parameters(), expected, strict=True):
                    np.testing.assert_allclose(parameter.grad, wanted, rtol=1e-11, atol=1e-12)
