"""What CUDA arrays cannot be asked for is refused by name, before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from on_cuda import simulated, there

import deconv_core as dc
from deconv_core import device
from deconv_core import functional as F

pytestmark = simulated
X, W = np.ones((1, 2, 4, 4), np.float32), np.ones((3, 2, 3, 3), np.float32)


@pytest.mark.parametrize("x, w", [(there, np.copy), (np.copy, there)], ids=["weight", "x"])
def test_arrays_of_two_devices(x: Any, w: Any) -> None:
    for call in (F.conv2d, lambda x, w: F.conv_transpose2d(x, w[:2] if w is W else w)):
        with pytest.raises(
            TypeError, match="(x is on cuda but weight|weight is on cuda but x) is a"
        ):
            call(x(X), w(W))


def test_a_bias_of_another_device() -> None:
    with pytest.raises(TypeError, match="weight is on cuda but bias is a ndarray"):
        F.conv2d(there(X), there(W), np.ones(3, np.float32))
    with pytest.raises(TypeError, match="bias is on cuda but weight is a ndarray"):
        F.linear(np.ones((1, 2)), np.ones((3, 2)), there(np.ones(3)))


def test_what_is_no_array() -> None:
    with pytest.raises(TypeError, match="x is on cuda but weight is a list"):
        F.conv2d(there(X), [1.0])
    with pytest.raises(TypeError, match="only arrays have a device, got list"):
        device.to([1.0], "cuda")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_another_dtype(dtype: type) -> None:
    with pytest.raises(TypeError, match=f"x must be float32 on cuda, got .*{dtype.__name__}"):
        F.relu(there(X.astype(dtype)))
    with pytest.raises(TypeError, match=f"weight must be float32 on cuda, got .*{dtype.__name__}"):
        F.conv2d(there(X), there(W.astype(dtype)))


def test_arrays_that_are_not_contiguous() -> None:
    with pytest.raises(ValueError, match=r"x must be C-contiguous.*\(1, 2, 4, 2\)"):
        F.relu(there(X)[:, :, :, ::2])
    with pytest.raises(ValueError, match="indices must be C-contiguous"):
        F.max_pool2d_backward(
            there(np.ones((1, 1, 2, 2), np.float32)),
            there(np.zeros((1, 1, 2, 4), np.int64))[:, :, :, ::2],
            (1, 1, 4, 4),
        )


def test_labels_of_another_device_or_dtype() -> None:
    logits = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match="logits is on cuda but target is a ndarray"):
        F.cross_entropy(there(logits), np.array([0, 1]))
    with pytest.raises(TypeError, match="target is on cuda but logits is a ndarray"):
        F.cross_entropy(logits, there(np.array([0, 1])))
    with pytest.raises(TypeError, match="target must be int64, got .*int32"):
        F.cross_entropy(there(logits), there(np.array([0, 1], np.int32)))


def test_shapes_that_clash_are_named_as_on_the_cpu() -> None:
    bad = np.ones((3, 5, 3, 3), np.float32)
    with pytest.raises(ValueError) as expected:
        F.conv2d(X, bad)
    with pytest.raises(ValueError) as raised:
        F.conv2d(there(X), there(bad))
    assert str(raised.value) == str(expected.value)


def test_a_gradient_of_another_device() -> None:
    _, backward = dc.ReLU().forward(there(X))
    with pytest.raises(
        TypeError, match="grad_output must be on cuda, as the output is, got ndarray"
    ):
        backward(X)
    _, backward = dc.ReLU().forward(X)
    with pytest.raises(TypeError, match=r"grad_output must be a numpy\.ndarray"):
        backward(there(X))


def test_a_net_and_a_batch_of_two_devices() -> None:
    net = dc.Sequential(dc.Flatten(), dc.Linear(32, 2, rng=0))
    step = (dc.CrossEntropyLoss(), dc.SGD(net.parameters()))
    with pytest.raises(TypeError, match="x is on cuda but weight is a ndarray"):
        dc.train_step(net, *step, there(X), there(np.array([0])))
    net.to("cuda")
    with pytest.raises(TypeError, match="weight is on cuda but x is a ndarray"):
        dc.train_step(net, *step, X, np.array([0]))


def test_a_net_that_cuda_cannot_take_stays_where_it_is() -> None:
    net = dc.Sequential(dc.Linear(2, 2, rng=0), dc.Linear(2, 1, rng=0, dtype=np.float64))
    with pytest.raises(TypeError, match=r"1\.weight is float64: on cuda parameters are float32"):
        net.to("cuda")
    with pytest.raises(ValueError, match="precision must be one of float32.*'half'"):
        net.to("cuda", precision="half")
    assert {device.of(p.data) for p in net.parameters()} == {"cpu"}


def test_an_optimizer_over_two_devices() -> None:
    first, second = dc.Linear(2, 1, rng=0).to("cuda"), dc.Linear(2, 1, rng=0)
    optimizer = dc.Adam([*first.parameters(), *second.parameters()])
    with pytest.raises(TypeError, match="parameter 0 is on cuda but parameter 2 is on cpu"):
        optimizer.step()


def test_a_state_that_does_not_fit() -> None:
    net = dc.Linear(2, 1, rng=0).to("cuda")
    state = net.state_dict() | {"bias": np.array([np.nan], np.float32)}
    with pytest.raises(ValueError, match="bias has values that are not finite"):
        net.load_state_dict(state)
    with pytest.raises(ValueError, match=r"weight has shape \(1, 3\) but \(1, 2\) is needed"):
        net.load_state_dict(state | {"weight": np.ones((1, 3), np.float32)})
