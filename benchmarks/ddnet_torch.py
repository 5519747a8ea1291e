"""DDNet in PyTorch, and the ways its users tune a training step: the rival of step.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

ALLOCATOR = {  # glibc told to keep big blocks instead of mapping fresh pages for each
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "1073741824",
}


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


@dataclass(frozen=True)
class Tuning:
    """One way to run the step; `allocator` takes effect only if set before Python starts."""

    channels_last: bool = False
    compiled: bool = False
    bfloat16: bool = False
    allocator: bool = False


TUNINGS = {
    "as installed": Tuning(),
    "channels_last": Tuning(channels_last=True),
    "compile": Tuning(compiled=True),
    "bf16 autocast": Tuning(bfloat16=True),
    "allocator": Tuning(allocator=True),
    "allocator, channels_last": Tuning(allocator=True, channels_last=True),
    "allocator, compile": Tuning(allocator=True, compiled=True),
    "allocator, bf16 autocast": Tuning(allocator=True, bfloat16=True),
    "allocator, compile, channels_last": Tuning(allocator=True, compiled=True, channels_last=True),
}


def make_step(
    weights: dict[str, np.ndarray], lr: float, tuning: Tuning
) -> tuple[nn.Module, Callable[[np.ndarray, np.ndarray], float]]:
    """Return the net, and a training step from NumPy images and labels to the loss."""
    side = round((weights["fc.weight"].shape[1] / 3) ** 0.5)
    net = DDNet(len(weights["fc.bias"]), (side + 7) // 8)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    layout = torch.channels_last if tuning.channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    criterion = nn.CrossEntropyLoss()
    model = torch.compile(net) if tuning.compiled else net

    def step(x: np.ndarray, target: np.ndarray) -> float:
        images = torch.from_numpy(x).to(memory_format=layout)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=tuning.bfloat16):
            loss = criterion(model(images), torch.from_numpy(target))
        loss.backward()
        optimizer.step()
        return loss.item()

    return net, step
