"""Steps from a record, in the simulator: to the bit what they are when they are launched."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from on_cuda import here, simulated, there

import deconv_core as dc
from deconv_core import affine, device

pytestmark = simulated

if numba.config.ENABLE_CUDASIM:
    from simulated_graph import Driver

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 5, 1, 4, 4)).astype(np.float32)
TARGET = RNG.integers(0, 2, (8, 5))
JUNK = 0xFF
SETTING_UP = 3  # steps: the last of them is recorded
Steps = list[tuple[str, bytes]]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The driver of the graphs."""
    return Driver(monkeypatch)


def with_tail() -> dc.Sequential:
    """Return a net with an affine tail that is cheaper as a matrix."""
    rng = np.random.default_rng(0)
    return dc.Sequential(
        dc.Conv2d(1, 2, 3, stride=2, padding=1, rng=rng),
        dc.ReLU(),
        dc.ConvTranspose2d(2, 1, 2, rng=rng),
        dc.Flatten(),
        dc.Linear(9, 2, rng=rng),
    )


def small() -> dc.Sequential:
    """Return a net that the simulator runs fast."""
    rng = np.random.default_rng(0)
    return dc.Sequential(
        dc.Flatten(), dc.Linear(16, 3, rng=rng), dc.ReLU(), dc.Linear(3, 2, rng=rng)
    )


def lone() -> dc.Sequential:
    """Return a net of one layer."""
    return dc.Sequential(dc.Flatten(), dc.Linear(16, 2, rng=0))


def poisoned() -> list[Any]:
    """Take whatever lies idle in the pool and fill it with junk, as other work would."""
    memory, taken = device.cuda().memory, []
    for size, idle in list(device.cuda().blocks._idle.items()):
        while idle:
            taken.append(memory.empty(size, np.uint8))
            memory.fill_bytes(taken[-1], JUNK)
    return taken


def trained(
    net: dc.Sequential, steps: int, change: Callable[..., None] = lambda *_: None, **options: Any
) -> Steps:
    """Train on ever new batches at a falling rate; return each loss and all weights as bits."""
    net.to("cuda")
    criterion, optimizer = dc.CrossEntropyLoss(), dc.Adam(net.parameters(), lr=0.1)
    losses: list[Any] = []
    taken: list[Any] = []
    for step in range(steps):
        change(step, net, criterion)
        optimizer.options["lr"] *= 0.9
        batch = there(X[step]), there(TARGET[step])
        losses.append(dc.train_step(net, criterion, optimizer, *batch, **options))
        assert all((here(block) == JUNK).all() for block in taken), "others' memory is written"
        taken = poisoned()
        batch[0].copy_to_device(np.full_like(X[step], np.nan))  # it is the caller's again
    return [
        *((f"loss {step}", np.float64(loss).tobytes()) for step, loss in enumerate(losses)),
        *((name, array.tobytes()) for name, array in net.state_dict().items()),
    ]


@pytest.mark.parametrize(
    "make, options, replays",
    [
        (small, {}, 4),
        (small, {"micro_batch": 2}, 2),
        (with_tail, {}, 2),
        (with_tail, {"collapse": False}, 1),
    ],
    ids=["small", "slices", "tail as a matrix", "by layer"],
)
def test_replays_are_the_steps_to_the_bit(
    make: Callable[[], dc.Sequential],
    options: dict[str, Any],
    replays: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = SETTING_UP + replays
    expected = trained(make(), steps, **options)
    driver = Driver(monkeypatch)
    assert trained(make(), steps, **options) == expected
    assert driver.replays == replays
    gc.collect()
    assert not driver.works, "the record ends with its net"


def relabel(step: int, net: dc.Sequential, criterion: dc.CrossEntropyLoss) -> None:
    """Change what the loss is, in the middle."""
    criterion.label_smoothing = 0.3 if step > 3 else 0.0


def at_less_precision(step: int, net: dc.Sequential, criterion: Any) -> None:
    """Change how the products are computed, in the middle, where the weights are."""
    for layer in net.walk():
        if isinstance(layer, dc.Linear):
            layer.precision = "tf32" if step > 3 else "float32"


def move(step: int, net: dc.Sequential, criterion: Any) -> None:
    """Give the parameters other memory, in the middle."""
    if step == 4:
        net.to("cpu").to("cuda")


def load(step: int, net: dc.Sequential, criterion: Any) -> None:
    """Give the parameters other values, in the middle."""
    if step == 4:
        net.load_state_dict({name: 2 * array for name, array in net.state_dict().items()})


def forget(step: int, net: dc.Sequential, criterion: Any) -> None:
    """Drop what is made once and looked up in each step, in the middle."""
    if step == 4:
        plan = device.cuda().plan
        for cache in (plan.spread_plan, plan.dot_plan, affine._eye_on_cuda):
            cache.cache_clear()


@pytest.mark.parametrize(
    "change, replays", [(relabel, 2), (at_less_precision, 2), (move, 1), (load, 4), (forget, 4)]
)
def test_a_record_is_used_for_the_step_that_it_is_of(
    change: Callable[..., None], replays: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = SETTING_UP + 4
    make = {forget: with_tail, at_less_precision: lone}.get(change, small)
    expected = trained(make(), steps, change)
    driver = Driver(monkeypatch)
    assert trained(make(), steps, change) == expected
    assert driver.replays == replays


def test_a_smaller_last_batch_leaves_the_record_as_it_is(driver: Any) -> None:
    net = small().to("cuda")
    step = (net, dc.CrossEntropyLoss(), dc.SGD(net.parameters(), lr=0.1))
    replayed = []
    for size in (5, 5, 5, 5, 3, 5, 3, 5):
        before = driver.replays
        dc.train_step(*step, there(X[0][:size]), there(TARGET[0][:size]))
        replayed.append(driver.replays > before)
    assert replayed == [False, False, False, True, False, True, False, True]
    assert len(driver.works) == 1


class Doubling(dc.ReLU):
    """A layer of the user's own."""


def test_a_net_that_leaves_the_device_leaves_no_record_there(driver: Any) -> None:
    net = small().to("cuda")
    step = (net, dc.CrossEntropyLoss(), dc.SGD(net.parameters(), lr=0.1))
    for _ in range(SETTING_UP + 1):
        dc.train_step(*step, there(X[0]), there(TARGET[0]))
    assert driver.works
    net.to("cuda")
    assert driver.works
    net.to("cpu")
    assert not driver.works


def test_what_may_do_anything_is_not_recorded(driver: Any) -> None:
    def criterion(logits: Any, target: Any) -> Any:
        return dc.CrossEntropyLoss()(logits, target)

    own = dc.Sequential(dc.Flatten(), dc.Linear(16, 2, rng=0), Doubling())
    nested = dc.Sequential(dc.Sequential(own))
    for net, loss in (
        (own, dc.CrossEntropyLoss()),
        (nested, dc.CrossEntropyLoss()),
        (small(), criterion),
    ):
        net.to("cuda")
        optimizer = dc.SGD(net.parameters(), lr=0.1)
        for _ in range(SETTING_UP + 1):
            dc.train_step(net, loss, optimizer, there(X[0]), there(TARGET[0]))
    assert driver.replays == 0


def test_what_does_not_fit_is_refused_by_name_after_a_record_too(driver: Any) -> None:
    net = small().to("cuda")
    step = (net, dc.CrossEntropyLoss(), dc.SGD(net.parameters(), lr=0.1))
    for _ in range(SETTING_UP + 1):
        dc.train_step(*step, there(X[0]), there(TARGET[0]))
    assert driver.replays == 1
    with pytest.raises(ValueError, match="x must be C-contiguous"):
        dc.train_step(*step, there(X[0].repeat(2, 3))[:, :, :, ::2], there(TARGET[0]))
    with pytest.raises(TypeError, match="target must be int64"):
        dc.train_step(*step, there(X[0]), there(TARGET[0].astype(np.int32)))
    with pytest.raises(TypeError, match="logits is on cuda but target is a ndarray"):
        dc.train_step(*step, there(X[0]), TARGET[0])
    dc.train_step(*step, there(X[0]), there(TARGET[0]))
    assert driver.replays == 2


def test_a_replayed_loss_that_is_not_finite_shows_when_it_is_read(driver: Any) -> None:
    net = small().to("cuda")
    step = (net, dc.CrossEntropyLoss(), dc.SGD(net.parameters(), lr=0.1))
    losses = [
        dc.train_step(*step, there(x), there(TARGET[0]))
        for x in (*X[:4], np.full_like(X[0], np.nan))
    ]
    assert driver.replays == 2
    assert all(np.isfinite(float(loss)) for loss in losses[:4])
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        float(losses[4])
