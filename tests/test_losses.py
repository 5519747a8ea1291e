"""CrossEntropyLoss against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconv_core.losses import CrossEntropyLoss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_loss_and_gradient_follow_pytorch(smoothing: float, scale: float) -> None:
    rng = np.random.default_rng(0)
    logits = (scale * rng.standard_normal((6, 5))).astype(np.float32)
    target = rng.integers(0, 5, 6)
    theirs = torch.from_numpy(logits).double().requires_grad_()
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(
        theirs, torch.from_numpy(target)
    )
    expected.backward()
    loss, grad = CrossEntropyLoss(smoothing)(logits, target)
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    assert grad.dtype == np.float32 and theirs.grad is not None
    np.testing.assert_allclose(grad, theirs.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "target, error, message",
    [
        (np.zeros(3, np.int64), ValueError, r"\(3,\).*\(2, 4\)"),
        (np.zeros(2, np.int32), TypeError, "int64.*int32"),
        (np.array([0, 4]), ValueError, r"4 .*4 classes"),
        (np.array([-1, 0]), ValueError, "-1"),
        (np.zeros((2, 4), np.int64), ValueError, r"\(2, 4\)"),
    ],
)
def test_bad_targets_are_refused(target: np.ndarray, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        CrossEntropyLoss()(np.zeros((2, 4), np.float32), target)


@pytest.mark.parametrize("smoothing", [-0.1, 1.5, float("nan")])
def test_bad_smoothing_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=f"label_smoothing.*{smoothing}"):
        CrossEntropyLoss(smoothing)
    with pytest.raises(TypeError, match="label_smoothing must be a number, got 'a'"):
        CrossEntropyLoss("a")
