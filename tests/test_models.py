"""DDNet in both variants against PyTorch: names, outputs, and twenty Adam steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deconv_core.losses import CrossEntropyLoss
from deconv_core.models import DDNet
from deconv_core.optim import Adam
from deconv_core.training import train_step


class TorchDDNet(nn.Module):
    """The listing's net, written for PyTorch."""

    def __init__(self, size: int, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.conv1 = nn.Conv2d(3, 32, 3, stride=1, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=1, padding=1)
        self.conv3 = nn.Conv2d(64, 128, 3, stride=1, padding=1)
        extra = 1 if pooled else 0
        self.deconv1 = nn.ConvTranspose2d(128, 64, 3, 2, padding=1, output_padding=extra)
        self.deconv2 = nn.ConvTranspose2d(64, 32, 3, 2, padding=1, output_padding=extra)
        self.deconv3 = nn.ConvTranspose2d(32, 3, 3, 2, padding=1, output_padding=extra)
        side = size if pooled else 8 * size - 7
        self.fc = nn.Linear(3 * side * side, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(conv(x))
            if self.pooled:
                x = torch.max_pool2d(x, 2)
        x = self.deconv3(self.deconv2(self.deconv1(x)))
        return self.fc(x.flatten(1))


VARIANTS = [("listing", 5), ("pooled", 8)]


def both(variant: str, size: int, dtype: type) -> tuple:
    """Return the two nets with the same weights."""
    theirs = TorchDDNet(size, variant == "pooled").to(torch.from_numpy(np.empty(0, dtype)).dtype)
    ours = DDNet(image_size=size, variant=variant, rng=1, dtype=dtype)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict({n: torch.from_numpy(a) for n, a in ours.state_dict().items()})
    return ours, theirs


# Adam divides by the size of a gradient, so where one is near zero, rounding decides its sign:
# float32 runs part a little with every step, and float64 shows that nothing else sets them apart.
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-9), (np.float32, 3e-3)])
@pytest.mark.parametrize("variant, size", VARIANTS)
def test_twenty_adam_steps_follow_pytorch(
    variant: str, size: int, dtype: type, tolerance: float
) -> None:
    ours, theirs = both(variant, size, dtype)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (20, 6, 3, size, size)).astype(dtype)
    target = rng.integers(0, 3, (20, 6))
    optimizer = Adam(ours.parameters(), lr=1e-3)
    their_optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    criterion, their_criterion = CrossEntropyLoss(), nn.CrossEntropyLoss()
    losses = []
    for step in range(20):
        # Slices of two and of four: micro-batching is part of what is compared.
        loss = train_step(ours, criterion, optimizer, x[step], target[step], 2 + step % 2 * 2)
        their_optimizer.zero_grad()
        logits = theirs(torch.from_numpy(x[step]))
        their_loss = their_criterion(logits, torch.from_numpy(target[step]))
        their_loss.backward()
        their_optimizer.step()
        losses.append((loss, their_loss.item()))
    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=tolerance)
    assert losses[-1][0] < losses[0][0] - 0.5  # there is something to follow


@pytest.mark.parametrize("variant, size", VARIANTS)
def test_one_step_in_float64_is_pytorchs(variant: str, size: int) -> None:
    ours, theirs = both(variant, size, np.float64)
    rng = np.random.default_rng(0)
    x, target = rng.uniform(-1, 1, (3, 3, size, size)), rng.integers(0, 10, 3)
    loss = nn.CrossEntropyLoss()(theirs(torch.from_numpy(x)), torch.from_numpy(target))
    loss.backward()
    ours_loss = train_step(ours, CrossEntropyLoss(), Adam(ours.parameters(), lr=0), x, target, 2)
    assert ours_loss == pytest.approx(loss.item(), rel=1e-12)
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert other.grad is not None
        scale = abs(other.grad).max().item()
        np.testing.assert_allclose(
            parameter.grad, other.grad.numpy(), rtol=0, atol=1e-12 * scale, err_msg=name
        )


def test_sizes() -> None:
    net = DDNet()
    assert net["fc"].weight.shape == (10, 186_003)  # type: ignore[attr-defined]
    assert [p.shape for p in net.parameters()][:2] == [(32, 3, 3, 3), (32,)]
    inputs = {"deconv1": (1, 128, 32, 32), "deconv2": (1, 64, 63, 63), "deconv3": (1, 32, 125, 125)}
    shapes = [net[name].output_shape(shape)[1:] for name, shape in inputs.items()]
    assert shapes == [(64, 63, 63), (32, 125, 125), (3, 249, 249)]
    pooled = DDNet(7, (16, 24), "pooled", rng=np.random.default_rng(0))
    assert pooled(np.zeros((2, 3, 16, 24), np.float32)).shape == (2, 7)
    assert DDNet(image_size=1)(np.zeros((1, 3, 1, 1), np.float32)).shape == (1, 10)


def test_seed_decides_the_weights() -> None:
    first, second, other = (DDNet(image_size=1, rng=seed).state_dict() for seed in (5, 5, 6))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
        assert (array != other[name]).any()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"image_size": 30, "variant": "pooled"}, "multiple of 8.*30x30"),
        ({"image_size": (32, 20), "variant": "pooled"}, "multiple of 8.*32x20"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"variant": "deep"}, "listing, pooled, got 'deep'"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DDNet(**arguments)
