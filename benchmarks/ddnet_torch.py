"""DDNet in PyTorch, and the ways its users tune it; built in a worker."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

LR = 1e-3


class DDNet(nn.Module):
    """The "listing" variant: three convolutions, three transposed ones, one linear layer."""

    def __init__(self, num_classes: int = 10, image_size: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.deconv1 = nn.ConvTranspose2d(128, 64, 3, stride=2, padding=1)
        self.deconv2 = nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1)
        self.deconv3 = nn.ConvTranspose2d(32, 3, 3, stride=2, padding=1)
        side = 8 * image_size - 7
        self.fc = nn.Linear(3 * side * side, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(conv(x))
        x = self.deconv3(self.deconv2(self.deconv1(x)))
        return self.fc(x.flatten(1))


def _make_net(weights: dict[str, np.ndarray], layout: torch.memory_format) -> DDNet:
    """Return DDNet with these weights in a memory layout."""
    side = round((weights["fc.weight"].shape[1] / 3) ** 0.5)
    net = DDNet(len(weights["fc.bias"]), (side + 7) // 8)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return net.to(memory_format=layout)  # type: ignore[call-overload]


def make_step(
    weights: dict[str, np.ndarray],
    channels_last: bool = False,
    compiled: bool = False,
    bfloat16: bool = False,
) -> tuple[nn.Module, Callable[[np.ndarray, np.ndarray], float]]:
    """Return the net, and a training step from NumPy images and labels to the loss."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = _make_net(weights, layout)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    criterion = nn.CrossEntropyLoss()
    model = torch.compile(net) if compiled else net

    def step(x: np.ndarray, target: np.ndarray) -> float:
        images = torch.from_numpy(x).to(memory_format=layout)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = criterion(model(images), torch.from_numpy(target))
        loss.backward()
        optimizer.step()
        return loss.item()

    return net, step


def step(
    case: dict[str, np.ndarray], threads: int, channels_last: bool, compiled: bool, bfloat16: bool
) -> Callable[[], float]:
    """Return a training step of DDNet, Adam included, from the weights of the case."""
    torch.set_num_threads(threads)
    x, target = case.pop("x"), case.pop("target")
    take = make_step(case, channels_last, compiled, bfloat16)[1]
    return lambda: take(x, target)


def inference(
    case: dict[str, np.ndarray], threads: int, channels_last: bool, compiled: bool, bfloat16: bool
) -> Callable[[], np.ndarray]:
    """Return DDNet's inference, NumPy in and out."""
    torch.set_num_threads(threads)
    x = case.pop("x")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = _make_net(case, layout).eval()
    model = torch.compile(net) if compiled else net

    def infer() -> np.ndarray:
        images = torch.from_numpy(x).to(memory_format=layout)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return model(images).numpy()

    return infer
