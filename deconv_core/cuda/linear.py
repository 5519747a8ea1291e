"""The fully connected layer: a 1x1 convolution over one picture of a single row.

``y[n, o] = sum over f of x[n, f] * w[o, f]`` is the weight gradient of a convolution whose output
gradient is x (a picture of N channels, F pixels wide) and whose input is w (O channels). Its two
gradients are the passes of that same convolution, with dy (N, O) as the weight.
"""

from __future__ import annotations

from typing import Any

from ..geometry import ConvGeometry, conv
from .conv import add_up, conv_forward, conv_input_grad, dot
from .elementwise import add, bias_grad
from .memory import empty, zeros


def _picture(a: Any) -> Any:
    """Return a matrix as one picture: a channel for each row, of one row of pixels."""
    return a.reshape(1, a.shape[0], 1, a.shape[1])


def _weight(a: Any) -> Any:
    """Return a matrix as the weight of a 1x1 convolution."""
    return a.reshape(*a.shape, 1, 1)


def _geometry(batch: int, out: int, features: int) -> ConvGeometry:
    """Return the convolution of a picture of `out` channels by a weight (batch, out, 1, 1)."""
    return conv((1, out, 1, features), (batch, out, 1, 1))


def linear_forward(x: Any, w: Any, bias: Any, *, precision: str | None = None) -> Any:
    """Return ``x @ w.T + bias``."""
    (batch, features), out = x.shape, w.shape[0]
    if not batch * out * features:
        y = empty((batch, out), x.dtype)
        if y.size:
            add_up(y.reshape(-1), 0, bias, y)
        return y
    geometry = _geometry(batch, out, features)
    return dot(_picture(w), _picture(x), bias, geometry, precision).reshape(batch, out)


def linear_input_grad(
    dy: Any, w: Any, *, mask: Any = None, precision: str | None = None
) -> Any:  # fmt: skip
    """Return the gradient to the input, ``dy @ w``, or zero where `mask` is not positive."""
    (batch, out), features = dy.shape, w.shape[1]
    if not batch * out * features:
        return zeros((batch, features), dy.dtype)
    geometry = _geometry(batch, out, features)
    mask = None if mask is None else _picture(mask)
    y = conv_forward(_picture(w), _weight(dy), None, geometry, mask=mask, precision=precision)
    return y.reshape(batch, features)


def linear_weight_grad(
    dy: Any, x: Any, *, add_to: Any = None, precision: str | None = None
) -> Any:  # fmt: skip
    """Return the gradient to the weight, ``dy.T @ x``, or `add_to` with that added to it."""
    (batch, out), features = dy.shape, x.shape[1]
    if not batch * out * features:
        return zeros((out, features), dy.dtype) if add_to is None else add_to
    geometry = _geometry(batch, out, features)
    dw = conv_input_grad(_picture(x), _weight(dy), None, geometry, precision=precision)
    if add_to is None:
        return dw.reshape(out, features)
    add(add_to, dw.reshape(out, features))
    return add_to


def linear_backward(
    dy: Any, x: Any, w: Any, *, precision: str | None = None
) -> tuple[Any, Any, Any]:
    """Return the gradients to the input, the weight and the bias."""
    dx = linear_input_grad(dy, w, precision=precision)
    return dx, linear_weight_grad(dy, x, precision=precision), bias_grad(dy)
