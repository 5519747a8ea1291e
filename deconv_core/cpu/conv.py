"""The three convolution kernels: forward, input gradient (a transposed forward), weight gradient.

Each is a plan (plan.py) and a pass that follows it (spread.py, dot.py), but for two kinds of
convolution that have kernels of their own: depthwise, and as large as the picture.
"""

from __future__ import annotations

import numpy as np

from ..geometry import ConvGeometry
from ..memory import empty
from .depthwise import (
    depthwise_forward,
    depthwise_input_grad,
    depthwise_weight_grad,
    is_depthwise,
)
from .dot import run_dot
from .gemm import run_gemm
from .gemmgrad import run_gemm_grad
from .gemmplan import gemm_grad_plan, gemm_plan
from .plan import dot_plan, spread_plan
from .spread import run_spread
from .whole import is_whole, whole_forward, whole_input_grad, whole_weight_grad


def _dense(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    y: np.ndarray,
    geometry: ConvGeometry,
    adjoint: bool,
) -> np.ndarray:
    """Run a forward pass or, with `adjoint`, an input gradient into `y`, by the cheapest plan."""
    gemm = gemm_plan(geometry, adjoint, x.itemsize)
    if gemm is not None:
        return run_gemm(x, w, bias, y, gemm)
    return run_spread(x, w, bias, y, spread_plan(geometry, adjoint, x.itemsize))


def conv_forward(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, geometry: ConvGeometry
) -> np.ndarray:
    """Return the convolution of `x` with `w`."""
    if is_depthwise(geometry):
        return depthwise_forward(x, w, bias, geometry)
    if is_whole(geometry):
        return whole_forward(x, w, bias, geometry)
    return _dense(x, w, bias, empty(geometry.output_shape, x.dtype), geometry, False)


def conv_input_grad(
    dy: np.ndarray, w: np.ndarray, bias: np.ndarray | None, geometry: ConvGeometry
) -> np.ndarray:
    """Return the adjoint of the convolution: its input gradient, a transposed one's forward."""
    if is_depthwise(geometry):
        return depthwise_input_grad(dy, w, bias, geometry)
    if is_whole(geometry):
        return whole_input_grad(dy, w, bias, geometry)
    return _dense(dy, w, bias, empty(geometry.input_shape, dy.dtype), geometry, True)


def conv_weight_grad(x: np.ndarray, dy: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the gradient of the convolution to its weight."""
    if is_depthwise(geometry):
        return depthwise_weight_grad(x, dy, geometry)
    if is_whole(geometry):
        return whole_weight_grad(x, dy, geometry)
    dw = empty(geometry.weight_shape, x.dtype)
    if not geometry.batch:
        dw.fill(0)
        return dw
    gemm = gemm_grad_plan(geometry, x.itemsize)
    if gemm is not None:
        return run_gemm_grad(x, dy, dw, gemm)
    return run_dot(x, dy, dw, dot_plan(geometry, x.itemsize))
