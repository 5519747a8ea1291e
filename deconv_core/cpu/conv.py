"""The three convolution kernels: forward, input gradient (a transposed forward), weight gradient.

Each is a plan and a pass that follows it, chosen once for a geometry: depthwise (strips.py,
planes.py, bands.py), of few results (matrix.py), by Winograd's tiles (tilepass.py,
tilegrad.py), with images innermost (batchwise.py, batchgrad.py, batchdot.py) or by products of
matrices (gemm.py, gemmgrad.py, widegrad.py) where these are cheaper, or by positions (spread.py,
dot.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ..geometry import ConvGeometry
from ..memory import zeros
from .amx.amxpass import run_amx
from .amx.amxplan import amx_plan
from .batch.batchdot import run_batch_dot
from .batch.batchgrad import run_batch_grad
from .batch.batchgradplan import BatchGradPlan, batch_grad_plan
from .batch.batchplan import batch_plan
from .batch.batchwise import run_batchwise
from .depthwise.bands import run_bands, run_chunks
from .depthwise.depthplan import is_depthwise, plane_dot_plan, plane_plan
from .depthwise.planes import is_narrow, planes_grad_plan, planes_plan, run_planes, run_planes_grad
from .depthwise.strips import is_strips, run_strips, strips_plan
from .elementwise import relu_backward, relu_forward
from .matrices.gemm import run_gemm
from .matrices.gemmgrad import run_gemm_grad
from .matrices.gemmplan import gemm_grad_plan, gemm_plan
from .matrices.matrix import is_matrix, matrix_forward, matrix_input_grad, matrix_weight_grad
from .matrices.widegrad import run_wide_grad
from .matrices.wideplan import wide_plan
from .positions.dot import run_dot
from .positions.plan import dot_plan, spread_plan
from .positions.spread import run_spread
from .winograd.tilegrad import run_tile_grad
from .winograd.tilegradplan import tile_grad_plan
from .winograd.tilepass import run_tile_pass
from .winograd.tilepassplan import tile_plan

Choice = tuple[Callable[..., np.ndarray], Any]


@lru_cache(maxsize=1024)  # every call asks
def choose(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> Choice:
    """Choose the kernels of a forward pass or, with `adjoint`, an input gradient, and their plan.

    A convolution that is a product as it stands has no plan: its kernels are told the geometry.
    """
    if is_matrix(geometry):
        return (matrix_input_grad if adjoint else matrix_forward), geometry
    if is_depthwise(geometry) and is_narrow(geometry, itemsize):
        return run_planes, planes_plan(geometry, adjoint, itemsize)
    if is_depthwise(geometry) and is_strips(geometry, adjoint):
        return run_strips, strips_plan(geometry, adjoint)
    if is_depthwise(geometry):
        return run_bands, plane_plan(geometry, adjoint, itemsize)
    tiled = tile_plan(geometry, adjoint, itemsize)
    if tiled is not None:
        return run_tile_pass, tiled
    batch = batch_plan(geometry, adjoint, itemsize)
    if batch is not None:
        return run_batchwise, batch
    gemm = gemm_plan(geometry, adjoint, itemsize)
    if gemm is not None:
        return run_gemm, gemm
    amx = amx_plan(geometry, adjoint, itemsize)
    if amx is not None:
        return run_amx, amx
    return run_spread, spread_plan(geometry, adjoint, itemsize)


@lru_cache(maxsize=1024)
def choose_grad(geometry: ConvGeometry, itemsize: int) -> Choice:
    """Choose the kernels of a weight gradient, and their plan."""
    if is_matrix(geometry):
        return matrix_weight_grad, geometry
    if is_depthwise(geometry) and is_narrow(geometry, itemsize):
        return run_planes_grad, planes_grad_plan(geometry, itemsize)
    if is_depthwise(geometry):
        return run_chunks, plane_dot_plan(geometry, itemsize)
    tiled = tile_grad_plan(geometry, itemsize)
    if tiled is not None:
        return run_tile_grad, tiled
    batch = batch_grad_plan(geometry, itemsize)
    if batch is not None:
        return run_batch_grad if isinstance(batch, BatchGradPlan) else run_batch_dot, batch
    gemm = gemm_grad_plan(geometry, itemsize)
    if gemm is not None:
        return run_gemm_grad, gemm
    wide = wide_plan(geometry, itemsize)
    if wide is not None:
        return run_wide_grad, wide
    return run_dot, dot_plan(geometry, itemsize)


def _run(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    geometry: ConvGeometry,
    adjoint: bool,
    relu: bool,
    mask: np.ndarray | None,
) -> np.ndarray:
    """Run a forward pass or an input gradient, and what it ends with."""
    run, plan = choose(geometry, adjoint, x.itemsize)
    if run is run_tile_pass:
        return run_tile_pass(x, w, bias, plan, relu, mask)
    y = run(x, w, bias, plan)
    if relu:
        y = relu_forward(y)
    return y if mask is None else relu_backward(y, mask)


def conv_forward(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    geometry: ConvGeometry,
    *,
    relu: bool = False,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Return the convolution of `x` with `w`, plus `bias`: a transposed one's input gradient.

    With `relu` it is its positive part. With `mask`, the output of a ReLU, the result is zero where
    that is not positive: the gradient goes back through the ReLU.
    """
    return _run(x, w, bias, geometry, False, relu, mask)


def conv_input_grad(
    dy: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    geometry: ConvGeometry,
    *,
    relu: bool = False,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Return the adjoint of the convolution: its input gradient, a transposed one's forward.

    `relu` and `mask` are as for `conv_forward`.
    """
    return _run(dy, w, bias, geometry, True, relu, mask)


def conv_weight_grad(x: np.ndarray, dy: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the gradient of the convolution to its weight."""
    if not geometry.batch:
        return zeros(geometry.weight_shape, x.dtype)
    run, plan = choose_grad(geometry, x.itemsize)
    return run(x, dy, plan)
