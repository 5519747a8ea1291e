"""Convolutions and ReLU in one kernel, in the simulator: the bits are those of two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from on_cuda import here, simulated, there

import deconv_core as dc
from deconv_core import sequential

pytestmark = [simulated, pytest.mark.usefixtures("junk")]
X = np.random.default_rng(1).standard_normal((2, 2, 4, 4)).astype(np.float32)


def net() -> dc.Sequential:
    """Return a net whose ReLUs have a convolution, an adjoint, a pooling and nothing after them."""
    rng = np.random.default_rng(0)
    return dc.Sequential(
        dc.Conv2d(2, 3, 3, padding=1, rng=rng), dc.ReLU(),
        dc.Conv2d(3, 2, 3, padding=1, rng=rng), dc.ReLU(),
        dc.ConvTranspose2d(2, 2, 3, stride=2, padding=1, rng=rng), dc.ReLU(),
        dc.MaxPool2d(2),
        dc.Conv2d(2, 2, 3, rng=rng), dc.ReLU(),
        dc.Flatten(), dc.Linear(2, 3, rng=rng), dc.ReLU(),
    ).to("cuda")  # fmt: skip


def bits(net: dc.Sequential) -> list[bytes]:
    """Return the bits of an output, and of a backward pass's gradients."""
    y, backward = net.forward(there(X))
    dy = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
    dx = backward(there(dy))
    grads = [here(parameter.grad) for parameter in net.parameters()]
    assert all(grad.any() for grad in grads) and here(dx).any()
    return [a.tobytes() for a in (here(net(there(X))), here(y), here(dx), *grads)]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the kernels that are launched."""
    from numba.cuda.simulator.kernel import FakeCUDAKernel

    names: list[str] = []
    call = FakeCUDAKernel.__call__

    def counted(self: Any, *args: Any) -> Any:
        if not self._device:
            names.append(self.fn.__name__)
        return call(self, *args)

    monkeypatch.setattr(FakeCUDAKernel, "__call__", counted)
    return names


def test_the_bits_are_those_of_layers_one_by_one(
    launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = bits(net())
    assert launches.count("_relu_forward") == 2, "of an output, twice, at the end"
    assert launches.count("_relu_backward") == 2, "before the pooling, and at the end"
    count = len(launches)
    launches.clear()
    monkeypatch.setattr(sequential, "fused", lambda layers: layers)
    assert bits(net()) == together
    assert launches.count("_relu_forward") == 10 and launches.count("_relu_backward") == 5
    assert len(launches) - count == 8 + 3


def test_the_first_layer_s_mask_is_not_asked_for() -> None:
    """Without a gradient to the input nothing is masked there, and nothing is missing."""
    first, second = net(), net()
    for which, wanted in ((first, True), (second, False)):
        y, backward = which.forward(there(X))
        backward(y, input_grad=wanted)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        np.testing.assert_array_equal(here(one.grad), here(other.grad))
