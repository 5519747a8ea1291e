"""Depthwise convolutions with results that no cache holds, which are stored past the caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import call

from deconv_core import functional as F
from deconv_core.cpu.config import CACHE_BYTES

pytestmark = pytest.mark.usefixtures("junk")
OPTIONS: list[Any] = [
    (F.conv2d, (3, 3), {"padding": 1}),
    (F.conv_transpose2d, (4, 4), {"stride": 2, "padding": 1}),
    (F.conv_transpose2d, (3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
]


@pytest.mark.parametrize(("function", "kernel", "options"), OPTIONS)
@pytest.mark.parametrize("width", [752, 748])  # rows that begin at cache lines, and not all of them
def test_a_large_result_is_that_of_its_halves(
    function: Any, kernel: tuple[int, int], options: dict[str, Any], width: int
) -> None:
    rng = np.random.default_rng(0)
    size = (1500, 2 * width) if function is F.conv2d else (750, width)
    x = rng.standard_normal((1, 4, *size), np.float32)
    w, bias = rng.standard_normal((4, 1, *kernel), np.float32), np.arange(4, dtype=np.float32)
    whole = call(function, x, w, bias, groups=4, **options)
    assert whole.nbytes > CACHE_BYTES
    for half in (slice(0, 2), slice(2, 4)):
        part = call(function, x[:, half].copy(), w[half], bias[half], groups=2, **options)
        assert part.nbytes < CACHE_BYTES
        assert np.array_equal(whole[:, half], part)
