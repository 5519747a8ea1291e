"""Layers against PyTorch's: outputs, gradients, accumulation, names, and bad options."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from deconv_core.layers import AvgPool2d, Conv2d, ConvTranspose2d, Flatten, MaxPool2d, ReLU
from deconv_core.linear import Linear, gathering
from deconv_core.parameters import Layer, Parameter

CASES = {
    "conv": (Conv2d, torch.nn.Conv2d, (3, 5, 3), {}, (2, 3, 7, 8)),
    "conv_options": (
        Conv2d,
        torch.nn.Conv2d,
        (4, 6, (3, 2)),
        dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        (3, 4, 9, 8),
    ),
    "conv_same": (
        Conv2d,
        torch.nn.Conv2d,
        (2, 3, (3, 5)),
        dict(padding="same", bias=False),
        (2, 2, 6, 5),
    ),
    "deconv": (ConvTranspose2d, torch.nn.ConvTranspose2d, (3, 5, 3), {}, (2, 3, 5, 4)),
    "deconv_options": (
        ConvTranspose2d,
        torch.nn.ConvTranspose2d,
        (4, 6, 3),
        dict(stride=(2, 3), padding=1, output_padding=(1, 2), groups=2, dilation=2),
        (2, 4, 3, 4),
    ),
    "deconv_positional": (
        ConvTranspose2d,
        torch.nn.ConvTranspose2d,
        (4, 2, 3, 2, 1, 1, 2, False, 1),
        {},
        (2, 4, 3, 4),
    ),
    "relu": (ReLU, torch.nn.ReLU, (), {}, (2, 3, 4)),
    "max_pool": (MaxPool2d, torch.nn.MaxPool2d, (2,), {}, (2, 3, 5, 4)),
    "max_pool_options": (MaxPool2d, torch.nn.MaxPool2d, (3, 2, 1), {}, (2, 3, 7, 6)),
    "avg_pool": (AvgPool2d, torch.nn.AvgPool2d, ((2, 3), (1, 2), (1, 0)), {}, (2, 3, 5, 6)),
    "flatten": (Flatten, torch.nn.Flatten, (), {}, (2, 3, 4, 5)),
    "linear": (Linear, torch.nn.Linear, (7, 4), {}, (5, 7)),
    "linear_no_bias": (Linear, torch.nn.Linear, (7, 4), dict(bias=False), (5, 7)),
}


def pair_of(case: str, dtype: type = np.float64) -> tuple[Layer, torch.nn.Module, np.ndarray]:
    """Return our layer and PyTorch's with the same weights, and an input."""
    ours_class, theirs_class, args, kwargs, shape = CASES[case]
    theirs = theirs_class(*args, **kwargs).to(torch.float64)
    ours = ours_class(*args, **kwargs)
    if isinstance(ours, (Conv2d, ConvTranspose2d, Linear)):
        ours = ours_class(*args, **kwargs, rng=1, dtype=dtype)
        state = {name: torch.from_numpy(a).double() for name, a in ours.state_dict().items()}
        theirs.load_state_dict(state)
    x = np.random.default_rng(2).standard_normal(shape).astype(dtype)
    return ours, theirs, x


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_layer_follows_pytorch(case: str, dtype: type, tolerance: float) -> None:
    ours, theirs, x = pair_of(case, dtype)
    torch_x = torch.from_numpy(x).double().requires_grad_()
    expected = theirs(torch_x)
    grad_y = np.random.default_rng(3).standard_normal(expected.shape).astype(dtype)
    expected.backward(torch.from_numpy(grad_y).double())

    assert ours.output_shape(x.shape) == tuple(expected.shape)
    np.testing.assert_allclose(ours(x), expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    y, backward = ours.forward(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, ours(x))
    grad_x = backward(grad_y)
    assert grad_x.dtype == dtype
    assert torch_x.grad is not None
    np.testing.assert_allclose(grad_x, torch_x.grad.numpy(), rtol=tolerance, atol=tolerance)
    named = dict(ours.named_parameters())
    assert list(named) == [name for name, _ in theirs.named_parameters()]
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(
            named[name].grad, parameter.grad.numpy(), rtol=tolerance, atol=10 * tolerance
        )


@pytest.mark.parametrize("case", CASES)
def test_gradients_accumulate_and_the_input_gradient_can_be_skipped(case: str) -> None:
    ours, _, x = pair_of(case)
    y, backward = ours.forward(x)
    grad_y = np.random.default_rng(4).standard_normal(y.shape)
    backward(grad_y)
    once = [parameter.grad.copy() for parameter in ours.parameters()]
    _, backward = ours.forward(x)
    assert backward(grad_y, input_grad=False) is None
    for parameter, grad in zip(ours.parameters(), once, strict=True):
        np.testing.assert_array_equal(parameter.grad, 2 * grad)
    ours.zero_grad()
    assert all(not parameter.grad.any() for parameter in ours.parameters())


@pytest.mark.parametrize("case", CASES)
def test_second_backward_is_refused_and_changes_nothing(case: str) -> None:
    ours, _, x = pair_of(case)
    y, backward = ours.forward(x)
    backward(np.ones_like(y))
    before = [parameter.grad.copy() for parameter in ours.parameters()]
    with pytest.raises(RuntimeError, match="called already"):
        backward(np.ones_like(y))
    for parameter, grad in zip(ours.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.grad, grad)


def test_backward_refuses_a_wrong_gradient_and_still_takes_the_right_one() -> None:
    ours, _, x = pair_of("conv")
    y, backward = ours.forward(x)
    with pytest.raises(ValueError, match=r"\(2, 5, 5, 7\).*\(2, 5, 5, 6\)"):
        backward(np.ones((2, 5, 5, 7)))
    with pytest.raises(TypeError, match="float32 .*float64"):
        backward(np.ones(y.shape, np.float32))
    assert not any(parameter.grad.any() for parameter in ours.parameters())
    assert backward(np.ones_like(y)).shape == x.shape


def test_backward_releases_what_forward_kept() -> None:
    conv = Conv2d(1, 1, 1, rng=0)
    x = np.ones((1, 1, 2, 2), np.float32)
    kept = weakref.ref(x)
    y, backward = conv.forward(x)
    del x
    gc.disable()  # it must go by itself
    try:
        assert kept() is not None
        backward(y)
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("bound", [1, 10**9])
def test_gathered_weight_gradients_are_the_same(
    bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deconv_core.linear.GATHER_BYTES", bound)
    rng = np.random.default_rng(0)
    x, grad_y = rng.standard_normal((9, 7)), rng.standard_normal((9, 4))
    fc = Linear(7, 4, rng=1, dtype=np.float64)
    with gathering(fc):
        for part in (slice(0, 4), slice(4, 5), slice(5, 9)):
            fc.forward(x[part])[1](grad_y[part])
    np.testing.assert_allclose(fc.weight.grad, grad_y.T @ x, rtol=1e-12)
    assert fc.bias is not None
    np.testing.assert_allclose(fc.bias.grad, grad_y.sum(axis=0), rtol=1e-12)


def test_gathering_keeps_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deconv_core.linear.GATHER_BYTES", 1)
    fc = Linear(50, 3, rng=0)  # so the bound is the weight's 600 bytes: three inputs
    most = 0
    with gathering(fc):
        for _ in range(20):
            y, backward = fc.forward(np.ones((1, 50), np.float32))
            backward(y)
            assert fc._kept is not None
            most = max(most, len(fc._kept))
    assert most == 2  # the third is written at once
    assert fc._kept is None


def test_gathering_drops_what_it_kept_when_the_block_fails() -> None:
    fc = Linear(4, 3, rng=0)
    with pytest.raises(KeyError), gathering(fc):
        y, backward = fc.forward(np.ones((1, 4), np.float32))
        backward(y)
        raise KeyError
    assert fc._kept is None and not fc.weight.grad.any()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Conv2d(0, 4, 3), "in_channels must be at least 1, got 0"),
        (lambda: Conv2d(3, 4.5, 3), r"out_channels must be an integer, got 4\.5"),
        (lambda: Conv2d(3, 4, 3, groups=2), "in_channels 3 is not divisible by groups 2"),
        (lambda: Conv2d(4, 3, 3, groups=2), "out_channels 3 is not divisible by groups 2"),
        (lambda: Conv2d(2, 4, 3, groups=4), "in_channels 2 is not divisible by groups 4"),
        (lambda: Conv2d(3, 4, 0), "kernel_size must be at least 1, got 0"),
        (lambda: Conv2d(3, 4, 3, stride=0), "stride must be at least 1, got 0"),
        (lambda: Conv2d(3, 4, 3, padding=-1), "padding must be at least 0, got -1"),
        (lambda: Conv2d(3, 4, 3, padding="half"), "same.*valid.*half"),
        (lambda: Conv2d(3, 4, 3, stride=2, padding="same"), "same.*stride"),
        (lambda: Conv2d(3, 4, 3, dtype=np.int32), "float32 or float64, got int32"),
        (lambda: ConvTranspose2d(3, 4, 3, groups=2), "in_channels 3 .* groups 2"),
        (lambda: ConvTranspose2d(4, 3, 3, groups=2), "out_channels 3 .* groups 2"),
        (lambda: ConvTranspose2d(3, 4, 3, 2, output_padding=2), "output_padding.* 2 .*stride 2"),
        (lambda: MaxPool2d(2, padding=2), "padding 2 .*kernel_size 2"),
        (lambda: MaxPool2d(0), "kernel_size must be at least 1, got 0"),
        (lambda: Linear(0, 4), "in_features must be at least 1, got 0"),
        (lambda: Linear(3, 4, rng=0).output_shape((2, 5)), r"\(N, 3\), got \(2, 5\)"),
    ],
)
def test_bad_options_are_refused_when_the_layer_is_made(make, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_parameter() -> None:
    parameter = Parameter(np.ones((2, 3), np.float64))
    assert parameter.shape == (2, 3) and parameter.dtype == np.float64
    assert parameter.grad.shape == (2, 3) and not parameter.grad.any()
    assert repr(parameter) == "Parameter(shape=(2, 3), dtype=float64)"
    with pytest.raises(TypeError, match="int64"):
        Parameter(np.ones(3, np.int64))
    with pytest.raises(ValueError, match=r"grad has shape \(3,\) but data asks for \(2,\)"):
        Parameter(np.ones(2), np.zeros(3))
    with pytest.raises(TypeError, match="data and grad must have one dtype, got float64 and fl"):
        Parameter(np.ones(2), np.zeros(2, np.float32))
    with pytest.raises(TypeError, match="data must be a numpy.ndarray, got MaskedArray"):
        Parameter(np.ma.masked_array(np.ones(2), [True, False]))


def test_layers_say_what_they_are() -> None:
    assert repr(Conv2d(4, 2, 3, groups=2, bias=False)) == (
        "Conv2d(weight=(2, 2, 3, 3), stride=1, padding=0, dilation=1, groups=2, bias=False)"
    )
    assert repr(MaxPool2d(2)) == "MaxPool2d(kernel_size=2, stride=None, padding=0)"
    assert (repr(ReLU()), repr(Flatten())) == ("ReLU()", "Flatten()")


def test_a_gradient_that_is_no_array_is_refused() -> None:
    y, backward = ReLU().forward(np.ones((2, 3), np.float32))
    with pytest.raises(TypeError, match="grad_output must be a numpy.ndarray, got list"):
        backward(y.tolist())
    with pytest.raises(TypeError, match="grad_output must be a numpy.ndarray, got MaskedArray"):
        backward(np.ma.masked_array(y, y > 0))
    assert backward(y).shape == y.shape, "the right one is still taken"


def test_flatten_refuses_what_has_no_batch_or_nothing_to_flatten() -> None:
    for shape in ((), (3,)):
        with pytest.raises(ValueError, match="Flatten needs 2 axes or more"):
            Flatten()(np.ones(shape))
    with pytest.raises(TypeError, match="x must be a numpy.ndarray, got list"):
        Flatten()([[1.0]])


def test_repr_of_a_deconvolution_has_its_output_padding() -> None:
    deconv = ConvTranspose2d(4, 2, 3, stride=2, output_padding=1, rng=0)
    assert "stride=2, padding=0, output_padding=1" in repr(deconv)
