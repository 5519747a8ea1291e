"""Launches as numba-cuda makes them, on a driver made of host memory (fake_driver.py).

The simulator replaces numba-cuda's launches and arrays; here they are the real ones, up to the
calls of the driver, and the kernels alone do nothing.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)
if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator has launches of its own", allow_module_level=True)

import fake_driver
import test_cuda_compile
import test_cuda_signatures
from fake_driver import MAKING, OUT_OF_MEMORY, UNSUPPORTED, WAITING, binding, calls_of, count
from on_cuda import there

import deconv_core as dc
from deconv_core import device
from deconv_core.cuda import config, conv, elementwise, graph, memory, pack, plan, streams

TESTS = Path(__file__).parent
faked = pytest.mark.skipif(
    not fake_driver.installed, reason="needs the fake driver: test_on_the_fake_driver"
)
TILED = {"spread": conv.SPREAD, "dot": conv.DOT, "add_chunks": conv.ADD_CHUNKS, "pack": pack.PACK}


@pytest.mark.skipif(fake_driver.installed, reason="this is the run that it starts")
def test_on_the_fake_driver() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "fake_driver"]
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, __file__],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "1 skipped" in done.stdout and "passed" in done.stdout


@faked
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
        conv.conv_weight_grad(
            there(np.ones((64, 3, 32, 32), np.float32)),
            there(np.ones((64, 3, 32, 32), np.float32)),
            dc.geometry.conv((64, 3, 32, 32), (3, 3, 1, 1)),
        )

    for call in calls_of(launch_all):
        if call.name == "launch":
            launched.setdefault(call.detail.kernel, set()).add(call.detail.types)
    assert launched == {name: {tuple(kinds)} for name, kinds in compiled.items()}


def train(**options: Any) -> Callable[[], Any]:
    """Return DDNet's training step on one batch."""
    net = dc.DDNet().to("cuda")
    step = (net, dc.CrossEntropyLoss(), dc.Adam(net.parameters()))
    batch = there(np.ones((128, 3, 32, 32), np.float32)), there(np.zeros(128, np.int64))
    return lambda: dc.train_step(*step, *batch, **options)


COLLAPSE = pytest.mark.parametrize("collapse", [False, True], ids=["by layer", "tail as a matrix"])
SETTING_UP = 2  # steps: the first one moves the parameters into one array


@faked
@COLLAPSE
@pytest.mark.parametrize("recorded", [False, True])
def test_a_steady_step_neither_allocates_nor_waits(
    collapse: bool, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "AVAILABLE", recorded)
    step = train(collapse=collapse)
    for _ in range(SETTING_UP + 1):
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


@faked
@COLLAPSE
def test_a_step_is_recorded_as_it_is_launched(
    collapse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "AVAILABLE", False)
    step = train(collapse=collapse)
    for _ in range(SETTING_UP):
        step()
    eager = calls_of(step)
    monkeypatch.undo()
    calls = calls_of(step)
    names = [call.name for call in calls]
    begin, end = names.index("cuStreamBeginCapture"), names.index("cuStreamEndCapture")
    inside, stream = calls[begin + 1 : end], calls[begin].stream
    assert stream and {call.stream for call in inside} == {stream}
    assert not (MAKING | WAITING) & set(count(inside)), count(inside)
    as_eager = [(call.name.removesuffix("Async"), call.detail) for call in inside]
    assert [work for work in as_eager if work[0] != "cuEventRecord"] == [
        (call.name, call.detail) for call in eager[:-1] if call.name != "cuEventRecord"
    ]
    after = ["cuGraphInstantiate", "cuGraphDestroy", "cuMemcpyDtoD", "cuMemcpyDtoD"]
    assert names[end + 1 :] == [*after, "cuGraphLaunch", "cuMemcpyDtoD", "cuEventRecord", "launch"]
    assert not WAITING & set(names)


@faked
def test_a_record_and_its_memory_end_with_its_net() -> None:
    gc.collect()
    used = memory.in_use()
    step = train()
    for _ in range(SETTING_UP):
        step()
    eager = memory.in_use()
    step()
    activations = 128 * 32 * 32 * (32 + 64 + 128) * 4
    assert memory.in_use() > eager + activations, "the memory of a step is kept"
    recorded = memory.in_use()
    step()
    assert memory.in_use() == recorded

    def drop() -> None:
        nonlocal step
        del step
        gc.collect()

    assert count(calls_of(drop))["cuGraphExecDestroy"] == 1
    assert memory.in_use() == used


@faked
@pytest.mark.parametrize(
    "refused", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"]
)
def test_without_graphs_steps_are_launched_one_by_one(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = train()
    for _ in range(SETTING_UP - 1):
        step()
    eager, used = [call for call in calls_of(step) if call.name not in MAKING], memory.in_use()
    with monkeypatch.context() as patch:
        patch.setitem(binding.failing, refused, UNSUPPORTED)
        patch.setattr(binding, "capturing", 0)
        with pytest.warns(RuntimeWarning, match=f"no CUDA graph of the .*{refused}"):
            step()
    gc.collect()
    assert memory.in_use() == used, "what was taken for the record is given back"
    assert count(calls_of(step)) == count(calls_of(step)) == count(eager), "not tried again"


@faked
def test_without_memory_for_a_record_steps_are_launched_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = train()
    for _ in range(SETTING_UP):
        step()

    def refuse(*_: Any) -> None:
        raise MemoryError("64 GiB were asked for")

    monkeypatch.setattr(graph, "empty", refuse)
    with pytest.warns(RuntimeWarning, match="no CUDA graph .* 64 GiB were asked for"):
        step()
    monkeypatch.undo()
    assert "cuGraphLaunch" not in count(calls_of(step))


@faked
def test_an_interrupted_recording_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    step = train()
    for _ in range(SETTING_UP):
        step()

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(device.cuda(), "cross_entropy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            step()
    assert not binding.capturing and streams.current() == 0
    calls = [calls_of(step) for _ in range(SETTING_UP + 1)]
    assert count(calls[-1])["cuGraphLaunch"] == 1


@faked
def test_a_loss_is_read_without_waiting_for_the_next_step() -> None:
    streams.beside("copies")  # made once
    step = train()
    for _ in range(SETTING_UP + 2):
        loss, before = step(), len(binding.log)
        made = [call for call in binding.log[:before] if call.name == "cuEventRecord"][-1]
        step()
        calls = calls_of(partial(float, loss))
        assert [call.name for call in calls] == [
            "cuEventSynchronize", "cuMemcpyDtoHAsync", "cuStreamSynchronize",
        ]  # fmt: skip
        assert calls[0].detail == made.detail
        assert calls[1].stream == calls[2].stream != 0
        assert not calls_of(partial(float, loss)), "a loss is read once"


@faked
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


@faked
def test_what_ends_as_garbage_in_a_cycle_is_whole_when_it_is_used_again() -> None:
    """There, weak references end before `__del__` is called: numba's, which free and destroy."""
    reserve, step = memory.Reserve(), train()
    with reserve.open():
        arrays = [memory.empty(900_001, np.uint8) for _ in range(20)]
    arrays += [memory.empty(800_001, np.uint8) for _ in range(20)]
    garbage: list[Any] = [arrays, reserve, [step() for _ in range(20)]]
    used = memory.in_use()
    garbage.append(garbage)
    del garbage, arrays, reserve
    gc.collect()
    assert memory.in_use() < used - 20 * 1_700_002
    lent = [memory.empty(size, np.uint8) for size in [900_001, 800_001] * 20]
    for array in lent:
        memory.fill_bytes(array, 1)
    losses = [step() for _ in range(20)]
    assert len({id(loss) for loss in losses}) == 20


@faked
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


@faked
@pytest.mark.parametrize(
    "function, kind", [("cuMemHostAlloc", " of pinned memory"), ("cuMemAlloc", "")]
)
def test_out_of_memory_is_named_outside_of_results_too(
    function: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.trim()
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
