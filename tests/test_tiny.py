"""The fast gate: one case of each thing that must never break."""

from __future__ import annotations

import numpy as np
import torch

import deconv_core as dc
from deconv_core import functional as F


def test_convolution_is_a_cross_correlation() -> None:
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    weight = np.array([[[[1, 10], [100, 1000]]]], np.float32)
    expected = [[5410, 6521, 7632], [9854, 10965, 12076]]
    assert F.conv2d(x, weight)[0, 0].tolist() == expected


def test_layers_follow_pytorch() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 11, 9), np.float32)
    net = dc.Sequential(
        dc.Conv2d(5, 7, 3, stride=2, padding=1, rng=rng),
        dc.ReLU(),
        dc.ConvTranspose2d(7, 2, 3, stride=2, padding=1, rng=rng),
    )
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(5, 7, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(7, 2, 3, stride=2, padding=1),
    )
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in net.state_dict().items()})
    images = torch.from_numpy(x).requires_grad_()
    expected = theirs(images)
    y, backward = net.forward(x)
    grad = rng.standard_normal(y.shape, np.float32)
    expected.backward(torch.from_numpy(grad))
    grad_x = backward(grad)
    np.testing.assert_allclose(y, expected.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(grad_x, images.grad.numpy(), atol=1e-5)
    for ours, parameter in zip(net.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(ours.grad, parameter.grad.numpy(), atol=1e-4)


def test_ddnet_learns_a_batch() -> None:
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((16, 3, 8, 8), np.float32), np.arange(16) % 10
    net = dc.DDNet(image_size=8)
    criterion, optimizer = dc.CrossEntropyLoss(), dc.Adam(net.parameters())
    losses = [dc.train_step(net, criterion, optimizer, x, target) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
