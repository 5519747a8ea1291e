"""The Python twins of the instructions: what the simulator runs in place of inline PTX."""

from __future__ import annotations

import numpy as np
import pytest
import simulator  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from on_cuda import simulated

mma = pytest.importorskip("deconv_core.cuda.mma", exc_type=ImportError)
from deconv_core.cuda import registers  # noqa: E402
from deconv_core.cuda.driver import cuda  # noqa: E402

pytestmark = simulated


@cuda.jit
def fragments(a, b, c, result):
    """``result = a @ b + c`` by one mma.sync, its fragments dealt out as the PTX manual says."""
    lane = cuda.threadIdx.x
    g, t = lane // 4, lane % 4
    of_a = a[g, t], a[g + 8, t], a[g, t + 4], a[g + 8, t + 4]
    of_b = b[t, g], b[t + 4, g]
    of_c = (c[g, 2 * t], c[g, 2 * t + 1]), (c[g + 8, 2 * t], c[g + 8, 2 * t + 1])
    of_c = mma.mma(of_c, of_a, of_b)
    result[g, 2 * t], result[g, 2 * t + 1] = of_c[0]
    result[g + 8, 2 * t], result[g + 8, 2 * t + 1] = of_c[1]


def test_fragments_multiply_as_matrices_do() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (
        rng.integers(-8, 9, shape).astype(np.float32) for shape in ((16, 8), (8, 8), (16, 8))
    )
    result = np.full((16, 8), np.nan, np.float32)
    fragments[1, 32](a, b, c, result)
    np.testing.assert_array_equal(result, a @ b + c)


@cuda.jit
def fragment_grid(a, b, result):
    """Rows 2i and 2i + 1 of a lane are rows g and g + 8 of product i; sums come in fours."""
    warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
    g, t = lane // 4, lane % 4
    rows = [16 * i + g + half for i in range(2) for half in (0, 8)]
    of_a = tuple(a[warp, row, k] for k in (t, t + 4) for row in rows)
    of_b = tuple(b[warp, k, 8 * j + g] for k in (t, t + 4) for j in range(8))
    sums = mma.mma(((0.0,) * 16,) * 4, of_a, of_b)
    order = [8 * (4 * four + j) + 2 * t + c for four in (0, 1) for c in (0, 1) for j in range(4)]
    for row, values in zip(rows, sums, strict=True):
        result[warp, row, order] = values


def test_a_grid_of_fragments_multiplies_warp_by_warp() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((2, 32, 8), (2, 8, 64)))
    result = np.full((2, 32, 64), np.nan, np.float32)
    fragment_grid[1, 64](a, b, result)
    np.testing.assert_array_equal(result, a @ b)


@cuda.jit
def long_sums(a, b, result):
    """Row by row, all of ``a @ b`` by tensor cores, and eight terms at a time by them."""
    lane = cuda.threadIdx.x
    g, t = lane // 4, lane % 4
    by_mma = by_mma3 = ((0.0,) * 2,) * 2
    for k in range(0, a.shape[1], 8):
        of_a = a[g, k + t], a[g + 8, k + t], a[g, k + t + 4], a[g + 8, k + t + 4]
        (big_a, small_a), (big_b, small_b) = (
            mma.split(of_a), mma.split((b[k + t, g], b[k + t + 4, g])))  # fmt: skip
        for x, y in ((small_a, big_b), (big_a, small_b), (big_a, big_b)):
            by_mma = mma.mma(by_mma, x, y)
        by_mma3 = mma.mma3(by_mma3, big_a, small_a, big_b, small_b)
    for way, sums in enumerate((by_mma, by_mma3)):
        for half in (0, 1):
            result[way, g + 8 * half, 2 * t : 2 * t + 2] = sums[half]


def test_long_sums_are_as_accurate_as_float32s() -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.uniform(0, 1, shape).astype(np.float32) for shape in ((16, 512), (512, 8)))
    result = np.full((2, 16, 8), np.nan, np.float32)
    long_sums[1, 32](a, b, result)
    exact = a.astype(np.float64) @ b
    by_mma, by_mma3 = (abs(way / exact - 1).max() for way in result)
    float32s = abs((a[:, :, None] * b).cumsum(1, dtype=np.float32)[:, -1] / exact - 1).max()
    assert by_mma3 < float32s  # eight terms at a time: an eighth of the roundings
    assert by_mma > 8 * by_mma3  # rounded towards zero, what is lost adds up


finite = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-60)


def mantissa(x: float, bits: int) -> float:
    """Return x with so many bits after the first, to nearest, ties away from zero."""
    fraction, exponent = np.frexp(x)
    scaled = abs(fraction) * 2.0 ** (bits + 1)
    return float(np.copysign(np.ldexp(np.floor(scaled + 0.5), exponent - bits - 1), x))


@given(finite)
def test_tf32_keeps_ten_bits(x: float) -> None:
    (rounded,) = mma.to_tf32((np.float32(x),))
    assert float(rounded) == mantissa(x, 10)


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf])
def test_tf32_keeps_what_is_not_finite(x: float) -> None:
    np.testing.assert_equal(mma.to_tf32((np.float32(x),))[0], np.float32(x))


def as_tf32(x: np.float32) -> float:
    """Return what tensor cores read of a float32 number."""
    return float((np.array([x], np.float32).view(np.uint32) & 0xFFFFE000).view(np.float32)[0])


@given(finite)
def test_two_tf32_numbers_make_one_float32(x: float) -> None:
    big, small = (as_tf32(*part) for part in mma.split((np.float32(x),)))
    assert big == mantissa(x, 10)
    assert abs(big + small - x) <= 2.0**-22 * abs(x)


near_one = st.floats(1, 2, width=32, exclude_max=True)
WORST = {  # two factors for each whose product's error comes closest to the one that is documented
    "tf32": (1 + 2.0**-11,) * 2,
    "3xtf32": (1 + 2.0**-11 - 2.0**-23,) * 2,
}
DOCUMENTED = {"tf32": 2.0**-10, "3xtf32": 2.0**-21}


def error_of_a_product(x: float, y: float, precision: str) -> float:
    """Return the error of a product, relative to it, before any sum is rounded."""
    if precision == "tf32":
        (a,), (b,) = (mma.to_tf32((np.float32(factor),)) for factor in (x, y))
        product = float(a) * float(b)
    else:
        parts = [mma.split((np.float32(factor),)) for factor in (x, y)]
        big, small = ([as_tf32(*part[i]) for part in parts] for i in (0, 1))
        product = big[0] * big[1] + small[0] * big[1] + big[0] * small[1]
    return abs(product - x * y) / (x * y)


@pytest.mark.parametrize("precision", DOCUMENTED)
@given(near_one, near_one)
def test_a_product_is_as_accurate_as_documented(precision: str, x: float, y: float) -> None:
    assert error_of_a_product(x, y, precision) <= DOCUMENTED[precision]


@pytest.mark.parametrize("precision", DOCUMENTED)
def test_the_documented_error_is_not_too_large(precision: str) -> None:
    error = error_of_a_product(*WORST[precision], precision)
    assert 0.99 * DOCUMENTED[precision] < error <= DOCUMENTED[precision]


def test_nan_survives_the_split() -> None:
    for bits in (0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF):
        x = np.array([bits], np.uint32).view(np.float32)
        (big,), (small,) = mma.split(tuple(x))
        assert np.isnan(big + small)


def test_copies_arrive_when_they_are_waited_for_and_not_before() -> None:
    source, target = np.arange(1, 13, dtype=np.float32), np.full(12, np.nan, np.float32)
    mma.copies(1, 4, 0, True)(target, 0, registers.address(source, 4), 0, 1)
    mma.commit()
    mma.copies(2, 1, 3, True)(
        target, 4, registers.address(source, 2), 1 << 20, 1
    )  # of the second nothing is read
    mma.commit()
    assert np.isnan(target).all()
    mma.waiting(1)()
    np.testing.assert_array_equal(target[:5], [5, 6, 7, 8, np.nan])
    mma.waiting(0)()
    np.testing.assert_array_equal(target[4:9], [3, np.nan, np.nan, 0, np.nan])


@pytest.mark.parametrize("each", [1, 4])
@pytest.mark.parametrize("waits", [False, True])
def test_a_column_of_copies_ends_in_zeros(each: int, waits: bool) -> None:
    source, target = np.arange(1, 41, dtype=np.float32), np.full(32, np.nan, np.float32)
    mma.copies(4, each, 8, waits)(target, 4, registers.address(source, 8), 4 * 12, 3)
    mma.commit()
    mma.waiting(0)()
    expected = np.full((4, 8), np.nan)
    expected[:, 4 : 4 + each] = np.arange(each) + [[9], [21], [33], [0]]
    expected[3, 4 : 4 + each] = 0
    np.testing.assert_array_equal(target.reshape(4, 8), expected)


@pytest.mark.parametrize("index", [-4, 2, 8])
def test_vector_accesses_are_aligned_and_inside(index: int) -> None:
    array = np.zeros(8, np.float32)
    with pytest.raises(IndexError, match=f"4 elements at {index} of an array of 8"):
        registers.load4(array, index)
    with pytest.raises(IndexError):
        registers.store4(array, index, (1, 2, 3, 4))
    with pytest.raises(IndexError):
        mma.copies(1, 4, 0, True)(array, 0, registers.address(array, index), 0, 1)


@pytest.mark.parametrize("index", [-1, 8])
def test_accesses_do_not_wrap_around(index: int) -> None:
    array = np.zeros(8, np.float32)
    with pytest.raises(IndexError, match=f"1 elements at {index} of an array of 8"):
        registers.load1(array, index)
    with pytest.raises(IndexError):
        registers.load_at(registers.address(array, index))
    with pytest.raises(IndexError):
        registers.store_at(registers.address(array, index), 1)
