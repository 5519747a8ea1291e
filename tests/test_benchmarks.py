"""The benchmark suite: its data, its arithmetic, its commands, and one row of it end to end."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scripts import BENCHMARKS, load

COMMANDS = ("step", "inference", "kernels", "memory", "startup", "peak", "epoch", "scaling")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of the commands to its end."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=BENCHMARKS.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str) -> None:
    done = run(BENCHMARKS / f"{name}.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "--threads" in done.stdout


def test_shapes_are_many_and_named_once() -> None:
    shapes = load("shapes")
    assert len(shapes.TRANSPOSED) >= 24
    assert len(shapes.ORDINARY) >= 24
    for table in (shapes.TRANSPOSED, shapes.ORDINARY):
        names = [shape.name for shape in table]
        assert len(set(names)) == len(names)


def test_shapes_cover_what_people_use() -> None:
    transposed = load("shapes").TRANSPOSED
    kernels = {shape.weight[2:] for shape in transposed}
    assert {(2, 2), (3, 3), (4, 4), (5, 5), (7, 7), (9, 9), (16, 16), (1, 16)} <= kernels
    strides = {shape.options.get("stride", 1) for shape in transposed}
    assert {1, 2, 3, 4, 8} <= strides
    assert {1, 64} <= {shape.x[0] for shape in transposed}
    for name in ("groups", "dilation", "output_padding"):
        assert any(name in shape.options for shape in transposed)
    assert any(shape.options.get("groups", 1) == shape.x[1] for shape in transposed)  # depthwise


@pytest.mark.parametrize("table", ["transposed", "ordinary"])
def test_pytorch_takes_every_shape_and_gives_the_size_of_ours(table: str) -> None:
    import torch
    from torch.nn import functional as F

    kernels = load("kernels")
    forward = F.conv_transpose2d if table == "transposed" else F.conv2d
    for row in kernels.rows_of(table, False):
        x, weight = (torch.empty(size, device="meta") for size in (row.shape.x, row.shape.weight))
        output = forward(x, weight, **row.shape.options).shape
        shape = row.geometry
        assert tuple(output) == (shape.input_shape if row.transposed else shape.output_shape), (
            row.name
        )


def test_each_shape_has_three_passes() -> None:
    kernels, shapes = load("kernels"), load("shapes")
    rows = list(kernels.rows_of(None, False))
    assert len(rows) == 3 * (len(shapes.TRANSPOSED) + len(shapes.ORDINARY))
    assert len({(row.table, row.name) for row in rows}) == len(rows)


def test_a_step_at_batch_128_is_199_gflop() -> None:
    flops = 3 * load("ddnet_case").forward_flops(128)
    assert round(flops / 1e9) == 199


def test_the_geometric_mean_of_a_ratio_and_its_reciprocal_is_one() -> None:
    geometric_mean = load("ratios").geometric_mean
    assert math.isclose(geometric_mean([4.0, 0.25]), 1.0)
    assert math.isclose(geometric_mean([1.0, 2.0, 4.0]), 2.0)


def test_ratios_are_taken_turn_by_turn() -> None:
    pairs = load("ratios").Pairs(ours=[1.0, 2.0, 4.0], theirs=[3.0, 2.0, 20.0])
    assert pairs.record() == {
        "ours_s": 2.0, "rival_s": 3.0, "ratio": 3.0, "lowest": 1.0, "highest": 5.0
    }  # fmt: skip


@pytest.mark.parametrize("turns", [([], []), ([1.0], [1.0, 2.0])])
def test_turns_that_do_not_pair_are_refused(turns: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="turns of ours"):
        load("ratios").Pairs(*turns)


def test_the_best_rival_has_the_lowest_median() -> None:
    times = {"steady": [2.0, 2.0, 2.0], "lucky once": [1.0, 3.0, 3.0]}
    assert load("ratios").fastest(times) == "steady"


def test_a_rival_that_is_not_installed_is_skipped_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rivals = load("rivals")
    missing = rivals.Side("Nobody: tuned", ("numpy", "no_such_package"), "nobody")
    assert rivals.installed([missing, rivals.OURS]) == [rivals.OURS]
    assert capsys.readouterr().out == "skipped: Nobody (not installed: no_such_package)\n"


def test_torch_is_tuned_by_layout_and_by_an_environment_set_before_it_starts() -> None:
    rivals = load("rivals")
    sides = {side.tuning: side for side in rivals.KERNELS}
    assert sides["as installed"].environment == {}
    assert sides["allocator, channels_last"].environment == rivals.ALLOCATOR
    layouts = [side.options["channels_last"] for side in rivals.KERNELS]
    assert sorted(layouts) == [False, False, True, True]


@pytest.mark.parametrize("tasks", [1, 5, 64, 100])
@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_a_bound_is_that_of_the_thread_with_most_tasks(tasks: int, threads: int) -> None:
    launch = load("tasks").Launch("", None, (7,) * tasks, "", tasks)
    assert launch.bound(threads) == tasks / math.ceil(tasks / threads)


def test_one_long_task_bounds_every_number_of_threads() -> None:
    launch = load("tasks").Launch("", None, (1, 2, 9, 3, 3), "", 5)
    assert [launch.busiest(threads) for threads in (1, 2, 5, 64)] == [18, 12, 9, 9]


@pytest.mark.parametrize(("batch", "collapse"), [(32, True), (32, False), (128, True)])
def test_ddnets_step_keeps_64_cores_busy(batch: int, collapse: bool) -> None:
    scaling, cases, dc = load("scaling"), load("ddnet_case"), load("deconv_core")
    net = dc.DDNet()
    criterion, optimizer = dc.CrossEntropyLoss(), dc.SGD(net.parameters(), lr=0.0)
    x, target = cases.images(batch), cases.labels(batch)
    launches = scaling.watch(
        lambda: dc.train_step(net, criterion, optimizer, x, target, collapse=collapse)
    )
    names = {scaling.name_of(launch) for launch in launches}
    assert any(name.startswith("deconv3: weight grad") for name in names)
    assert any(name.startswith("matrices: 10x") for name in names)
    direct = 3 * cases.forward_flops(batch) / 2
    made = sum(times * launch.total for launch, times in launches.items())
    assert made < 1.1 * direct  # the picture's gradient is not made; the tail's may be a matrix
    for threads in (1, 2, 8, 64):
        assert 0.65 * threads < scaling.bound(launches, threads) <= threads


def test_scaling_from_end_to_end(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    options = ["--batch-size", "4", "--image-size", "8", "--threads", "1", "16", "--only", "conv3"]
    done = run(BENCHMARKS / "scaling.py", *options, "--json", file)
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    names = [row["name"] for row in content["rows"]]
    passes = ("forward", "weight grad", "input grad")
    for what in passes:
        assert f"training step/conv3: {what}, 4 images" in names
    assert "inference/conv3: forward, 4 images" in names
    for row in content["rows"]:
        assert row["bounds"]["1"] == 1 <= row["bounds"]["16"] <= 16
        assert 1 / row["tasks"] <= row["longest"] <= 1
    assert content["summary"]["training step, 1 threads"] == 1


@pytest.fixture(scope="module")
def worker() -> Iterator[Any]:
    """One worker for the tests that need one."""
    made = load("worker").Worker(1)
    yield made
    made.close()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("what", ["forward", "input grad", "weight grad"])
def test_both_sides_of_a_kernel_row_compute_the_same(
    worker: Any, tmp_path: Path, transposed: bool, what: str
) -> None:
    rng = np.random.default_rng(0)
    sizes = {"x": (2, 4, 5, 6), "weight": (4, 4, 3, 3), "grad": (2, 4, 3, 3)}
    options: dict[str, Any] = {"stride": 2, "padding": 1}
    if transposed:
        options["output_padding"] = (0, 1)
        sizes["grad"] = (2, 4, 9, 12)
    case = {name: rng.standard_normal(size, np.float32) for name, size in sizes.items()}
    np.savez(tmp_path / "case.npz", **case)  # type: ignore[arg-type]
    judge = load("exact").kernel(case, transposed, what, options)
    rivals = load("rivals")
    for side in (rivals.OURS, *rivals.KERNELS):
        asked = {"transposed": transposed, "what": what, **options, **side.options}
        worker.prepare(side.name, f"{side.module}:kernel", tmp_path / "case.npz", asked)
        result = worker.result(side.name, tmp_path / "result.npy")
        assert load("exact").error(result, judge) < 1e-5, side.name


def test_the_machines_peak_is_measured() -> None:
    assert load("peak").measure(1, repeats=2) > 1  # GFLOP/s


def test_an_error_in_a_worker_reaches_the_asker_and_the_worker_goes_on(worker: Any) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'nothing'"):
        worker.seconds("nothing", 1)
    assert worker.peak_mib() > 1


def test_one_row_from_end_to_end(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    options = ["--overhead", "--only", "forward", "--threads", "1", "--repeats", "2"]
    done = run(BENCHMARKS / "kernels.py", *options, "--json", file)
    assert done.returncode == 0, done.stderr
    assert "8 channels, 8x8: forward" in done.stdout
    content = json.loads(file.read_text())
    assert content["machine"]["cores"] == os.cpu_count()
    assert " --only forward " in content["command"]
    rows = content["rows"]
    assert len(rows) == 4  # PyTorch's two layouts, with and without the allocator
    assert [row["best"] for row in rows] == [True, False, False, False]
    for row in rows:
        assert 0 < row["lowest"] <= row["ratio"] <= row["highest"]
        assert row["gflops"] > 0
        assert row["share_of_peak"] > 0
        assert set(row["errors"].values()) and max(row["errors"].values()) < 1e-5
    mean = content["summary"]["overhead, PyTorch at its best, all passes: geometric mean"]
    assert mean == pytest.approx(rows[0]["ratio"])


def test_a_ratio_is_bounded_by_arithmetic_and_by_traffic() -> None:
    names = ["U-Net 2x2 s2, 52 to 104: forward", "DeconvNet 3x3 s1, 14: forward"]
    rows = [
        {"name": name, "rival": f"PyTorch: {way}", "rival_s": seconds, "ratio": ratio}
        for name in names
        for way, seconds, ratio in [
            ("allocator", 5.0, 1.0), ("channels_last", 6.0, 2.0), ("as installed", 9.0, 3.0),
        ]
    ]  # fmt: skip
    report = {"machine": {"threads": 2, "peak_gflops": {"1": 1.0, "2": 2.0}}, "rows": rows}
    macs = 4 * 512 * 256 * 52 * 52, 9 * 512 * 512 * 14 * 14
    least = 2 * macs[0] / 2e9, 2 * macs[1] * (16 * 7 * 7) / (9 * 14 * 14) / 2e9
    found = {name: rest for _, name, *rest in load("bound").bounds(report, {1: 1e30})}
    for name, seconds in zip(names, least, strict=True):
        assert found[name] == pytest.approx([6.0 / seconds, 2.0])
    moved = 4 * (512 * 52 * 52 + 256 * 104 * 104 + 512 * 256 * 4)
    found = {name: rest for _, name, *rest in load("bound").bounds(report, {1: 1.0})}
    assert found[names[0]] == pytest.approx([6.0 / moved, 2.0])


@pytest.mark.parametrize("side", ["ours", "ddnet_torch", "ddnet_onnxruntime", "ddnet_openvino"])
def test_everybodys_ddnet_is_ddnet(worker: Any, tmp_path: Path, side: str) -> None:
    rivals, cases, exact = load("rivals"), load("ddnet_case"), load("exact")
    found = next(s for s in (rivals.OURS, *rivals.INFERENCE) if s.module == side)
    if not all(find_spec(name) for name in found.packages):
        pytest.skip(f"needs {', '.join(found.packages)}")
    weights, x = cases.weights(8), cases.images(2, 8)
    np.savez(tmp_path / "case.npz", x=x, **weights)
    worker.prepare(side, f"{side}:inference", tmp_path / "case.npz", found.options)
    logits = worker.result(side, tmp_path / "logits.npy")
    assert exact.error(logits, exact.ddnet(weights, x)) < 1e-5


def test_the_roofline_of_an_unknown_gpu_is_not_guessed() -> None:
    gpu = load("gpu")
    assert gpu.peaks((6, 1), 1e9) is None
    peaks = gpu.peaks((9, 0), 1e9)
    assert peaks["float32"] < peaks["3xtf32"] < peaks["tf32"] < 3.1 * peaks["3xtf32"]
    roofline = object.__new__(gpu.Roofline)
    roofline.bytes, roofline.flops = 1e9, peaks
    assert roofline.share(2.0, peaks["tf32"], 0, "tf32") == 0.5
    assert roofline.share(2.0, 0, 1e9, "tf32") == 0.5
    roofline.flops = None
    assert roofline.share(2.0, 1.0, 1.0, "tf32") is None


def test_a_rival_with_other_losses_is_not_timed() -> None:
    gpu = load("gpu")
    gpu.validate("ours", "float32", [2.0, 1.0], [2.001, 1.0])
    with pytest.raises(SystemExit, match="ours: losses at float32"):
        gpu.validate("ours", "float32", [2.02, 1.0], [2.0, 1.0])


class Gpu:
    """A GPU and its host, each with a clock: it begins what is enqueued when it has come so far."""

    CLOCKS = 2e9

    def __init__(self) -> None:
        self.host = self.device = 0.0
        self.pauses: list[float] = []

    def enqueue(self, launching: float, running: float) -> None:
        """Let the host launch what the GPU is to run."""
        self.host += launching
        self.device = max(self.device, self.host) + running

    def synchronize(self) -> None:
        """Let the host wait for the GPU."""
        self.host = max(self.host, self.device)

    def _sleep(self, clocks: int) -> None:
        """Let the GPU pause."""
        self.pauses.append(clocks / self.CLOCKS)
        self.enqueue(0, self.pauses[-1])

    def Event(self, enable_timing: bool) -> Any:
        """Return an event of this GPU."""
        event = SimpleNamespace(at=0.0)

        def record() -> None:
            event.at = self.device = max(self.device, self.host)

        event.record, event.query = record, lambda: event.at <= self.host
        event.elapsed_time = lambda last: 1e3 * (last.at - event.at)
        return event


@pytest.mark.parametrize("launching", [1e-6, 300e-6, 5e-3])
def test_a_pass_is_timed_by_the_gpu_and_not_by_its_launches(
    launching: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, gpu = load("gpu"), Gpu()
    monkeypatch.setattr(module.torch, "cuda", gpu)
    spent = module.device_seconds(lambda: gpu.enqueue(launching, 20e-6), 3)
    assert spent == pytest.approx(20e-6)
    assert 1 <= max(gpu.pauses) / max(gpu.pauses[0], module.AHEAD * launching) < 2


def test_a_pass_that_waits_for_the_gpu_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    module, gpu = load("gpu"), Gpu()
    monkeypatch.setattr(module.torch, "cuda", gpu)
    with pytest.raises(RuntimeError, match="the host does not run ahead"):
        module.device_seconds(gpu.synchronize, 3)
