"""float64 results from the plain NumPy reference: the judge of everybody's float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from deconv_core import geometry, reference


def error(result: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest difference, as a share of the largest exact value."""
    if result.shape != exact.shape:
        raise SystemExit(f"a result has shape {result.shape}, not {exact.shape}")
    return float(np.abs(result - exact).max() / np.abs(exact).max())


def kernel(
    case: dict[str, np.ndarray], transposed: bool, what: str, options: dict[str, Any]
) -> np.ndarray:
    """Compute one pass of a (transposed) convolution."""
    x, weight, grad = (case[name].astype(np.float64) for name in ("x", "weight", "grad"))
    describe = geometry.conv_transpose if transposed else geometry.conv
    shape = describe(x.shape, weight.shape, **options)
    small, large = (x, grad) if transposed else (grad, x)
    if what == "weight grad":
        return reference.conv_weight_grad(large, small, shape)
    if (what == "forward") == transposed:
        return reference.conv_input_grad(small, weight, None, shape)
    return reference.conv_forward(large, weight, None, shape)


def ddnet(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Compute DDNet's logits."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    y = x.astype(np.float64)
    for name in ("conv1", "conv2", "conv3"):
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        shape = geometry.conv(y.shape, weight.shape, padding=1)
        y = reference.relu_forward(reference.conv_forward(y, weight, bias, shape))
    for name in ("deconv1", "deconv2", "deconv3"):
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        shape = geometry.conv_transpose(y.shape, weight.shape, stride=2, padding=1)
        y = reference.conv_input_grad(y, weight, bias, shape)
    return reference.linear_forward(y.reshape(len(y), -1), w["fc.weight"], w["fc.bias"])
