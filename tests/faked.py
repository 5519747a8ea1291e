"""What the tests on the fake driver share: a mark, and DDNet's training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fake_driver
import numpy as np
import pytest
from on_cuda import there

import deconv_core as dc

faked = pytest.mark.skipif(
    not fake_driver.installed, reason="runs on a fake driver: test_cuda_fake_driver.py"
)
by_collapse = pytest.mark.parametrize(
    "collapse", [False, True], ids=["by layer", "tail as a matrix"]
)
SETTING_UP = 3  # steps: the first moves the parameters, the last is recorded


def train(**options: Any) -> Callable[[], Any]:
    """Return DDNet's training step on one batch."""
    net = dc.DDNet().to("cuda")
    step = (net, dc.CrossEntropyLoss(), dc.Adam(net.parameters()))
    batch = there(np.ones((128, 3, 32, 32), np.float32)), there(np.zeros(128, np.int64))
    return lambda: dc.train_step(*step, *batch, **options)
