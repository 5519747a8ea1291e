"""The compiled kernels, run by a PTX machine, against the float64 reference: no GPU is needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numba
import numpy as np
import pytest
from ptx_machine import Machine

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)
if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator does not compile", allow_module_level=True)

from deconv_core import geometry, reference
from deconv_core.cuda import conv, launch, linear, offline, pack, plan, splitk
from deconv_core.geometry import ConvGeometry

TOLERANCE = {"float32": 2.0**-20, "tf32": 2.0**-10, "3xtf32": 2.0**-20}
CASES = {
    "few channels": geometry.conv((2, 3, 5, 7), (3, 3, 3, 3), padding=1),
    "transposed": geometry.conv_transpose((1, 5, 4, 3), (5, 20, 3, 3), stride=2, padding=1),
    "groups": geometry.conv((2, 6, 6, 5), (10, 3, 2, 3), (2, 1), (1, 2), (1, 2), groups=2),
    "middle": geometry.conv((1, 9, 6, 6), (40, 9, 3, 3), padding=1),
    "few to many": geometry.conv((1, 3, 5, 5), (36, 3, 3, 3), padding=1),
    "1x1": geometry.conv((2, 18, 4, 35), (40, 9, 1, 1), groups=2),
    "depthwise": geometry.conv((2, 3, 9, 35), (3, 1, 3, 5), (2, 1), (1, 3), groups=3),
    "depthwise transposed": geometry.conv_transpose(
        (1, 6, 4, 5), (6, 1, 3, 3), stride=2, padding=1, groups=3
    ),
    "many channels": geometry.conv((1, 20, 4, 5), (70, 20, 1, 2)),
}


class Launcher:
    """A kernel with the machine in place of a device."""

    def __init__(self, ptx: str, threads: int) -> None:
        self.machine = Machine(ptx, threads)

    def __getitem__(self, configuration: tuple[int, int, Any]) -> Callable[..., None]:
        blocks, threads, _ = configuration
        assert threads == self.machine.threads
        return lambda *arguments: self.machine.run(blocks, list(arguments))


@cache
def tiled(cc: Any, maker: Any, signature: Any, tile: Any, precision: str) -> Launcher:
    """Do what `launch.tiled` does."""
    kernel = maker(tile, precision, cc >= launch.ASYNC)
    ptx = offline.compile_ptx(kernel, signature, cc, tile.threads, tile.blocks)
    return Launcher(ptx, tile.threads)


@cache
def small(function: Any, signature: Any, threads: int) -> Launcher:
    """Do what `launch.bounded` does."""
    return Launcher(offline.compile_ptx(function, signature, (8, 0), threads), threads)


@pytest.fixture
def cc(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let the launchers find NumPy's memory and this machine where they look for a GPU."""
    for module in (conv, pack):
        monkeypatch.setattr(module, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))
    monkeypatch.setattr(launch, "capability", lambda: request.param)
    monkeypatch.setattr(plan, "to_device", lambda array: array)
    monkeypatch.setattr(conv, "tiled", partial(tiled, request.param))
    monkeypatch.setattr(conv, "aligned", lambda array: True)
    monkeypatch.setattr(pack, "_kernel", lambda: small(pack.pack, pack.PACK, pack.THREADS))
    added = splitk.add_chunks, conv.ADD_CHUNKS, splitk.THREADS
    monkeypatch.setattr(conv, "_add_chunks", lambda: small(*added))
    plans = plan.spread_plan, plan.dot_plan
    for cached in plans:
        cached.cache_clear()
    yield request.param
    for cached in plans:
        cached.cache_clear()


def check(ours: np.ndarray, function: Callable[..., Any], arrays: Any, precision: str) -> None:
    """Compare with the reference, in float64."""
    truth = function(*(None if a is None else a.astype(float) for a in arrays))
    size = function(*(None if a is None else abs(a).astype(float) for a in arrays))
    assert (abs(ours - truth) <= TOLERANCE[precision] * size + 1e-30).all()


RUNS = [
    *[((7, 5), "float32", name) for name in CASES],
    *[((8, 0), "float32", name) for name in ("few channels", "groups", "many channels")],
    *[((8, 0), "tf32", name) for name in ("transposed", "many channels")],
    *[((8, 0), "3xtf32", name) for name in CASES],
]
old = pytest.mark.parametrize("cc", [(7, 5)], indirect=True)
new = pytest.mark.parametrize("cc", [(8, 0)], indirect=True)


@pytest.mark.parametrize(("cc", "precision", "name"), RUNS, indirect=["cc"], ids=str)
def test_what_the_compiler_made_computes_convolutions(name: str, precision: str, cc: Any) -> None:
    shape: ConvGeometry = CASES[name]
    rng = np.random.default_rng(0)
    sizes = shape.input_shape, shape.weight_shape, shape.output_shape[1:2], shape.output_shape
    x, w, bias, dy = (rng.standard_normal(size).astype(np.float32) for size in sizes)

    y = conv.conv_forward(x, w, bias, shape, precision=precision)
    check(y, lambda *a: reference.conv_forward(*a, shape), (x, w, bias), precision)
    dx = conv.conv_input_grad(dy, w, None, shape, precision=precision)
    check(dx, lambda *a: reference.conv_input_grad(*a, shape), (dy, w, None), precision)
    dw = conv.conv_weight_grad(x, dy, shape, precision=precision)
    check(dw, lambda *a: reference.conv_weight_grad(*a, shape), (x, dy), precision)


@new
@pytest.mark.parametrize("precision", ["float32", "3xtf32"])
def test_a_matrix_product_with_a_bias(precision: str, cc: Any) -> None:
    rng = np.random.default_rng(3)
    x, w, bias = (
        rng.standard_normal(size).astype(np.float32) for size in ((40, 1100), (10, 1100), (10,))
    )
    y = linear.linear_forward(x, w, bias, precision=precision)
    check(y, lambda x, w, bias: x @ w.T + bias, (x, w, bias), precision)


@old
def test_long_sums_are_cut_and_added_up_again(cc: Any) -> None:
    shape = geometry.conv((3, 1, 24, 24), (2, 1, 3, 3), padding=1)
    x, dy = (
        np.random.default_rng(1).standard_normal(size).astype(np.float32)
        for size in (shape.input_shape, shape.output_shape)
    )
    dw = conv.conv_weight_grad(x, dy, shape, precision="float32")
    check(dw, lambda *a: reference.conv_weight_grad(*a, shape), (x, dy), "float32")


@new
def test_relu_and_mask_and_nan(cc: Any) -> None:
    shape = geometry.conv((1, 2, 4, 4), (3, 2, 3, 3), padding=1)
    rng = np.random.default_rng(2)
    x, w, bias, dy = (
        rng.standard_normal(size).astype(np.float32)
        for size in (shape.input_shape, shape.weight_shape, (3,), shape.output_shape)
    )
    x[0, 0, 0, 0] = np.nan
    y = conv.conv_forward(x, w, bias, shape, precision="float32")
    positive = conv.conv_forward(x, w, bias, shape, relu=True, precision="float32")
    np.testing.assert_array_equal(positive, np.where(y <= 0, np.float32(0), y))
    dx = conv.conv_input_grad(dy, w, None, shape, precision="float32")
    masked = conv.conv_input_grad(dy, w, None, shape, mask=x, precision="float32")
    np.testing.assert_array_equal(masked, np.where(x <= 0, np.float32(0), dx))


@old
def test_tensor_cores_are_for_those_who_have_them(cc: Any) -> None:
    with pytest.raises(ValueError, match="needs compute capability 8.0, this GPU has 7.5"):
        launch.checked_precision("tf32")


@pytest.mark.parametrize(
    ("cc", "expected"),
    [
        ((7, 5), "float32"), ((8, 0), "3xtf32"), ((8, 6), "float32"), ((8, 9), "float32"),
        ((9, 0), "3xtf32"), ((12, 0), "float32"),
    ],
    indirect=["cc"],
)  # fmt: skip
def test_the_default_goes_by_the_capability_alone(expected: str, cc: Any) -> None:
    assert launch.checked_precision(None) == expected
