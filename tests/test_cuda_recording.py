"""A training step recorded as a CUDA graph, call by call, on the fake driver."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from fake_binding import MAKING, UNSUPPORTED, WAITING
from fake_driver import binding, calls_of, count
from faked import SETTING_UP, by_collapse, faked, train

from deconv_core import device
from deconv_core.cuda import blocks, graph, streams

pytestmark = faked


@by_collapse
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
    assert names[end + 1 :] == ["cuGraphInstantiate", "cuGraphDestroy", "launch"]
    assert not WAITING & set(names)


def test_a_record_and_its_memory_end_with_its_net() -> None:
    gc.collect()
    used = blocks.in_use()
    step = train()
    for _ in range(SETTING_UP - 1):
        step()
    eager = blocks.in_use()
    step()
    activations = 128 * 32 * 32 * (32 + 64 + 128) * 4
    assert blocks.in_use() > eager + activations, "the memory of a step is kept"
    recorded = blocks.in_use()
    step()
    assert blocks.in_use() == recorded

    def drop() -> None:
        nonlocal step
        del step
        gc.collect()

    assert count(calls_of(drop))["cuGraphExecDestroy"] == 1
    assert blocks.in_use() == used


@pytest.mark.parametrize(
    "refused", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"]
)
def test_without_graphs_steps_are_launched_one_by_one(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = train()
    for _ in range(SETTING_UP - 2):
        step()
    eager, used = [call for call in calls_of(step) if call.name not in MAKING], blocks.in_use()
    with monkeypatch.context() as patch:
        patch.setitem(binding.failing, refused, UNSUPPORTED)
        patch.setattr(binding, "capturing", 0)
        with pytest.warns(RuntimeWarning, match=f"no CUDA graph of the .*{refused}"):
            step()
    gc.collect()
    assert blocks.in_use() == used, "what was taken for the record is given back"
    assert count(calls_of(step)) == count(calls_of(step)) == count(eager), "not tried again"


def test_without_memory_for_a_record_steps_are_launched_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = train()
    for _ in range(SETTING_UP - 1):
        step()

    def refuse(*_: Any) -> None:
        raise MemoryError("64 GiB were asked for")

    monkeypatch.setattr(graph, "empty", refuse)
    with pytest.warns(RuntimeWarning, match="no CUDA graph .* 64 GiB were asked for"):
        step()
    monkeypatch.undo()
    assert "cuGraphLaunch" not in count(calls_of(step))


def test_an_interrupted_recording_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    step = train()
    for _ in range(SETTING_UP - 1):
        step()

    cross_entropy = device.cuda().cross_entropy

    def interrupted(*args: Any) -> Any:
        if streams.current():
            raise KeyboardInterrupt
        return cross_entropy(*args)

    with monkeypatch.context() as patch:
        patch.setattr(device.cuda(), "cross_entropy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            step()
    assert not binding.capturing and streams.current() == 0
    calls = [calls_of(step) for _ in range(SETTING_UP + 1)]
    assert count(calls[-1])["cuGraphLaunch"] == 1
