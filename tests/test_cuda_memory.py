"""The pool of device memory, in the simulator."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from on_cuda import here, simulated, there

from deconv_core import device
from deconv_core import memory as host

pytestmark = simulated


@pytest.fixture
def blocks() -> Any:
    """The pool, with nothing idle in it."""
    pool = device.cuda().blocks
    gc.collect()
    pool.trim()
    return pool


@pytest.fixture
def memory() -> Any:
    """What makes arrays of it."""
    return device.cuda().memory


def test_a_dropped_array_s_block_is_lent_again(blocks: Any, memory: Any, monkeypatch: Any) -> None:
    used = blocks.in_use()
    array = memory.empty((3, 1000))
    view = array[1:].reshape(-1)
    assert blocks.in_use() >= used + array.nbytes
    del array
    assert blocks.in_use() > used, "a view holds the block"
    view.copy_to_device(np.ones(2000, np.float32))
    del view
    assert blocks.in_use() == used
    monkeypatch.setattr(blocks, "_allocate", None)
    again = memory.empty((2999,))
    assert again.shape == (2999,) and again.dtype == np.float32
    monkeypatch.undo()
    other = memory.empty((2999,))
    other.copy_to_device(np.zeros(2999, np.float32))
    assert not np.shares_memory(here(again), here(other))
    del again, other
    assert blocks.trim() > 0 and blocks.trim() == 0


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), 5, [4, 1]])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float64])
def test_shapes_and_dtypes(memory: Any, shape: Any, dtype: type) -> None:
    array = memory.zeros(shape, dtype)
    expected = np.zeros(shape, dtype)
    np.testing.assert_array_equal(here(array), expected, strict=True)
    with host.junk(0xFF):
        assert here(memory.empty((3,), np.float32)).view(np.uint32).tolist() == [2**32 - 1] * 3


def test_out_of_memory_names_the_request_and_what_is_in_use(
    blocks: Any, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise blocks.CudaAPIError("Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")

    kept, dropped = memory.empty(1 << 20, np.uint8), memory.empty(1 << 21, np.uint8)
    del dropped
    monkeypatch.setattr(blocks.cuda, "device_array", refuse)
    monkeypatch.setattr(blocks, "_free_and_total", lambda: (1 << 20, 80 << 30))
    with pytest.raises(
        MemoryError, match=r"64\.0 MiB were asked for.*hold 1\.\d MiB.*81,920\.0 MiB"
    ):
        memory.empty(1 << 26, np.uint8)
    assert blocks.trim() == 0, "what was idle was given back first"
    assert kept.size == 1 << 20


def test_other_errors_of_the_driver_are_not_hidden(
    blocks: Any, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise blocks.CudaAPIError("CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(blocks.cuda, "device_array", fail)
    with pytest.raises(blocks.CudaAPIError, match="ILLEGAL_ADDRESS"):
        memory.empty(1000)


def test_arrays_are_packed_and_joined(memory: Any) -> None:
    arrays = [np.arange(n, dtype=np.float32).reshape(-1, 2) + n for n in (6, 0, 300, 2)]
    whole, views = memory.pack(list(map(there, arrays)))
    for view, array in zip(views, arrays, strict=True):
        np.testing.assert_array_equal(here(view), array, strict=True)
        device.assign(view, array + 1)
    assert here(whole).sum() == sum((a + 1).sum() for a in arrays)
    joined = device.concatenate(list(map(there, arrays)))
    np.testing.assert_array_equal(here(joined), np.concatenate(arrays), strict=True)


def test_batches_are_fed_in_order(memory: Any) -> None:
    batches = [(np.full((n, 2), i, np.float32), np.arange(n)) for i, n in enumerate((3, 3, 3, 1))]
    for (x, target), fed in zip(batches, device.feed(batches, "cuda"), strict=True):
        np.testing.assert_array_equal(here(fed[0]), x, strict=True)
        np.testing.assert_array_equal(here(fed[1]), target, strict=True)
