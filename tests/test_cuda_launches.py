"""Launches as numba-cuda makes them, on a driver made of host memory (fake_driver.py).

The simulator replaces numba-cuda's launches and arrays; here they are the real ones, up to the
calls of the driver, and the kernels alone do nothing.
"""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import numpy as np
import pytest
import test_cuda_compile
import test_cuda_signatures
from fake_binding import MAKING, OUT_OF_MEMORY, WAITING
from fake_driver import binding, calls_of, count
from faked import SETTING_UP, by_collapse, faked, train
from on_cuda import there

import deconv_core as dc
from deconv_core import device
from deconv_core.cuda import blocks, config, conv, elementwise, graph, memory, pack, plan, streams

pytestmark = faked
TILED = {"spread": conv.SPREAD, "few": conv.SPREAD, "dot": conv.DOT}
TILED |= {"add_chunks": conv.ADD_CHUNKS, "pack": pack.PACK}


def test_kernels_are_called_with_the_types_that_are_compiled_in_the_tests() -> None:
    """Every kernel of the package is launched, and none with other arguments."""
    compiled = {k.py_func.__name__: t for k, t in test_cuda_compile.KERNELS.items()} | TILED
    launched: dict[str, set[Any]] = {}

    def launch_all() -> None:
        for name, arguments in test_cuda_signatures.arguments().items():
            getattr(device.cuda(), name)(*map(there, arguments))
        a, b = (there(np.ones((2, 3), np.float32)) for _ in range(2))
        device.cuda().sgd_step(a, b, None, True, 0.1, 0.0, 0.0, 0.0, False)
        elementwise.add(a, b)
        elementwise.scale(a, 2)
        conv.conv_forward(
            there(np.ones((1, 3, 4, 4), np.float32)),
            there(np.ones((5, 3, 1, 1), np.float32)),
            None,
            dc.geometry.conv((1, 3, 4, 4), (5, 3, 1, 1)),
        )
        conv.conv_weight_grad(
            there(np.ones((64, 3, 32, 32), np.float32)),
            there(np.ones((64, 3, 32, 32), np.float32)),
            dc.geometry.conv((64, 3, 32, 32), (3, 3, 1, 1)),
        )

    for call in calls_of(launch_all):
        if call.name == "launch":
            launched.setdefault(call.detail.kernel, set()).add(call.detail.types)
    assert launched == {name: {tuple(kinds)} for name, kinds in compiled.items()}


@by_collapse
@pytest.mark.parametrize("recorded", [False, True])
def test_a_steady_step_neither_allocates_nor_waits(
    collapse: bool, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "AVAILABLE", recorded)
    step = train(collapse=collapse)
    for _ in range(SETTING_UP):
        step()
    calls = calls_of(step)
    assert not (MAKING | WAITING) & set(count(calls)), count(calls)
    assert {call.stream for call in calls} == {0}
    if recorded:
        names = ["cuMemcpyDtoD", "cuMemcpyDtoD", "cuGraphLaunch", "cuMemcpyDtoD", "cuEventRecord"]
        assert [call.name for call in calls] == [*names, "launch"]
        assert calls[-1].detail.kernel == "_adam"
    else:
        assert count(calls)["launch"] > 70


def test_a_loss_is_read_without_waiting_for_the_next_step() -> None:
    streams.beside("copies")  # made once
    step = train()
    for _ in range(SETTING_UP):
        loss, before = step(), len(binding.log)
        made = [call for call in binding.log[:before] if call[:2] == ("cuEventRecord", 0)][-1]
        step()
        calls = calls_of(partial(float, loss))
        assert [call.name for call in calls] == [
            "cuEventSynchronize", "cuMemcpyDtoHAsync", "cuStreamSynchronize",
        ]  # fmt: skip
        assert calls[0].detail == made.detail
        assert calls[1].stream == calls[2].stream != 0
        assert not calls_of(partial(float, loss)), "a loss is read once"


def test_batches_are_copied_on_one_stream_beside_the_default_one() -> None:
    batches = [(np.full((2, 3), i, np.float32), np.full(2, i)) for i in range(3)]
    fed = list(device.feed(batches, "cuda"))
    calls = calls_of(lambda: fed.extend(device.feed(batches, "cuda")))
    copies = [call for call in calls if call.name == "cuMemcpyHtoDAsync"]
    assert len(copies) == 6 and len({call.stream for call in copies}) == 1 and copies[0].stream
    assert "cuStreamCreate" not in count(calls)
    assert "cuMemcpyHtoD" not in count(calls)
    first = [call.name for call in calls].index("cuMemcpyHtoDAsync")
    waits = [(call.name, call.stream) for call in calls[:first]]
    event = waits.index(("cuEventRecord", 0))
    assert ("cuStreamWaitEvent", copies[0].stream) in waits[event:], "blocks may still be in use"


def test_what_ends_as_garbage_in_a_cycle_is_whole_when_it_is_used_again() -> None:
    """There, weak references end before `__del__` is called: numba's, which free and destroy."""
    reserve, step = blocks.Reserve(), train()
    with reserve.open():
        arrays = [memory.empty(900_001, np.uint8) for _ in range(20)]
    arrays += [memory.empty(800_001, np.uint8) for _ in range(20)]
    garbage: list[Any] = [arrays, reserve, [step() for _ in range(20)]]
    used = blocks.in_use()
    garbage.append(garbage)
    del garbage, arrays, reserve
    gc.collect()
    assert blocks.in_use() < used - 20 * 1_700_002
    lent = [memory.empty(size, np.uint8) for size in [900_001, 800_001] * 20]
    for array in lent:
        memory.fill_bytes(array, 1)
    losses = [step() for _ in range(20)]
    assert len({id(loss) for loss in losses}) == 20


def test_out_of_memory_names_the_request_and_frees_what_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, dropped = memory.empty(1 << 20, np.uint8), memory.empty(1 << 21, np.uint8)
    monkeypatch.setattr(binding, "capacity", binding.in_use() + (1 << 19))
    del dropped
    block = memory.empty(2_500_000, np.uint8)
    assert binding.in_use() <= binding.capacity, "what was idle made room"
    expected = (
        r"out of memory: 65,536\.0 MiB were asked for; this process's arrays hold [\d.,]+ MiB, "
        r"and [\d.,]+ MiB of the device's [\d.,]+ MiB are free"
    )
    with pytest.raises(MemoryError, match=expected):
        memory.empty(1 << 36, np.uint8)
    assert kept.size and block.size


@pytest.mark.parametrize(
    "function, kind", [("cuMemHostAlloc", " of pinned memory"), ("cuMemAlloc", "")]
)
def test_out_of_memory_is_named_outside_of_results_too(
    function: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks.trim()
    monkeypatch.setitem(binding.failing, function, OUT_OF_MEMORY)
    asked = rf"out of memory: [\d.]+ MiB{kind} were asked for"
    with pytest.raises(MemoryError, match=asked):
        next(device.feed([(np.ones((1000, 77), np.float32),)], "cuda"))
    if not kind:
        shape = dc.geometry.conv((1, 1, 17, 19), (1, 1, 3, 5))
        tile = config.choose("dot", "float32", 1, 15)
        with pytest.raises(MemoryError, match=asked):
            plan.dot_plan(shape, tile)
        with pytest.raises(MemoryError, match=asked):
            plan.spread_plan(shape, False, tile)
