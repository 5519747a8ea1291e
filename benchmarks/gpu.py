"""On an NVIDIA GPU: time DDNet's training step and single passes against PyTorch with cuDNN.

    python benchmarks/gpu.py                                the step, then every shape
    python benchmarks/gpu.py --only deconv --precision tf32

Both sides compute at equal precision: "float32" and "3xtf32" against PyTorch's float32, "tf32"
against its TF32. PyTorch is taken at the best of its layouts, with cuDNN's benchmark mode, and
for the step with and without a CUDA graph; ours is recorded as one by its third step. Before
anything is timed it is validated: a step, PyTorch's too, by three losses, a pass by its float64
result. A share of the roofline is the least time that the arithmetic or the traffic can take,
whichever is longer, over the time measured; there is none for a step whose tail is a matrix,
which does less arithmetic, nor for a GPU whose rates are not known here. A precision that the GPU
does not have is left out.

A step is timed as whoever waits for it sees it, by the host's clock. A pass is timed by the GPU's,
PyTorch's as well: many are enqueued behind a pause long enough that the host is done with them
before the GPU begins the first, so that what the host needs for a launch does not count. The time
between two kernels on the GPU does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ddnet_case
import ddnet_torch
import kernels
import kernels_torch
import numpy as np
import torch

import deconv_core as dc
from deconv_core import device
from deconv_core import functional as F

TURN_SECONDS = 0.05
AHEAD = 100  # calls that the host may run ahead by: the driver queues about a thousand launches
PAUSES = [1 << n for n in range(24, 32)]  # clocks: from a hundredth of a second to one or two
PRECISIONS = device.PRECISIONS
# Operations of a multiprocessor in a clock: (on ordinary units, in TF32 on tensor cores).
RATES = {(7, 5): (128, 0), (8, 0): (128, 1024), (8, 6): (256, 256), (8, 9): (256, 512)}
RATES |= {(9, 0): (256, 2048)}
TOLERANCE = {"float32": 2e-5, "3xtf32": 2e-5, "tf32": 5e-3}  # of the largest element


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of a call by the host's clock, of enough calls to fill a turn."""

    def turn(calls: int) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    turn(3)  # compiles, and lets cuDNN choose
    calls = max(3, min(500, round(TURN_SECONDS / turn(3))))
    return statistics.median(turn(calls) for _ in range(repeats))


def device_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds that the GPU needs for a call, however slowly the host launches it.

    Raises
    ------
    RuntimeError
        When the GPU gets to the first call before the host is done with the last one, whatever the
        pause: so it does where a call waits for its result.
    """
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def turn(calls: int) -> float:
        for pause in PAUSES:
            torch.cuda.synchronize()
            torch.cuda._sleep(pause)
            first.record()
            for _ in range(calls):
                call()
            last.record()
            ahead = not first.query()
            torch.cuda.synchronize()
            if ahead:
                return float(first.elapsed_time(last)) / 1e3 / calls
        raise RuntimeError("the host does not run ahead of the GPU: does a call wait for it?")

    turn(3)  # compiles, and lets cuDNN choose
    calls = max(3, min(AHEAD, round(TURN_SECONDS / turn(3))))
    return statistics.median(turn(calls) for _ in range(repeats))


class Roofline:
    """What this GPU can do at most: arithmetic from its data sheet, traffic measured by a copy."""

    def __init__(self) -> None:
        gpu = dc.device.cuda().driver.cuda.get_current_device()
        cycles = gpu.CLOCK_RATE * 1e3 * gpu.MULTIPROCESSOR_COUNT
        self.name = torch.cuda.get_device_name()
        self.flops = peaks(tuple(gpu.compute_capability), cycles)
        source = torch.zeros(1 << 28, device="cuda")
        target = torch.empty_like(source)
        self.bytes = 2 * source.nbytes / device_seconds(lambda: target.copy_(source), 5)

    def share(self, spent: float, flops: float, nbytes: float, precision: str) -> float | None:
        """Return the least time over the time spent, or None where the GPU's rates are unknown."""
        if self.flops is None:
            return None
        return max(flops / self.flops[precision], nbytes / self.bytes) / spent


def peaks(capability: tuple[int, int], cycles: float) -> dict[str, float] | None:
    """Return the operations a second at each precision, of so many cycles of multiprocessors."""
    if capability not in RATES:
        return None
    plain, tensor = (rate * cycles for rate in RATES[capability])
    return {"float32": plain, "tf32": tensor, "3xtf32": max(plain, tensor / 3)}


def has(precision: str) -> bool:
    """Return whether the GPU computes at a precision."""
    try:
        device.cuda().launch.checked_precision(precision)
    except ValueError:
        return False
    return True


def torch_precision(precision: str) -> None:
    """Let PyTorch compute at the same precision."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def our_step(case: dict[str, np.ndarray], precision: str, collapse: bool) -> Callable[[], Any]:
    """Return our training step, from the weights of the case."""
    net = dc.DDNet(len(case["fc.bias"]), case["x"].shape[2])
    net.load_state_dict({n: a for n, a in case.items() if n not in ("x", "target")})
    net.to("cuda", precision=precision)
    criterion, optimizer = dc.CrossEntropyLoss(), dc.Adam(net.parameters(), lr=ddnet_torch.LR)
    x, target = (device.to(case[name], "cuda") for name in ("x", "target"))
    return lambda: dc.train_step(net, criterion, optimizer, x, target, collapse=collapse)


def torch_step(case: dict[str, np.ndarray], channels_last: bool, graph: bool) -> Callable[[], Any]:
    """Return PyTorch's training step, as one CUDA graph or not; the first call is step one."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    weights = {n: a for n, a in case.items() if n not in ("x", "target")}
    net = ddnet_torch._make_net(weights, layout).cuda()
    optimizer = torch.optim.Adam(net.parameters(), lr=ddnet_torch.LR, fused=True, capturable=graph)
    x = torch.from_numpy(case["x"]).cuda().contiguous(memory_format=layout)
    target = torch.from_numpy(case["target"]).cuda()
    criterion = torch.nn.CrossEntropyLoss()

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=not graph)
        loss = criterion(net(x), target)
        loss.backward()
        optimizer.step()
        return loss

    if not graph:
        return step
    first = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        loss = step()
    net.load_state_dict(first)  # in place, and so are the moments set back
    for state in optimizer.state.values():
        for tensor in state.values():
            tensor.zero_()

    def replay(alive: object = step) -> torch.Tensor:
        """Run the graph on the memory of what `step` refers to, which must live as long."""
        captured.replay()
        return loss

    return replay


def three_losses(step: Callable[[], Any]) -> list[float]:
    """Take three steps and return their losses."""
    return [float(step()) for _ in range(3)]


def validate(who: str, precision: str, losses: list[float], expected: list[float]) -> None:
    """Exit unless the losses of a step are those of PyTorch's plain one."""
    if not np.allclose(losses, expected, rtol=0.02 if precision == "tf32" else 2e-3):
        raise SystemExit(f"{who}: losses at {precision} are {losses}, not {expected}")


def time_steps(options: argparse.Namespace, roofline: Roofline) -> Iterator[dict[str, Any]]:
    """Yield a row for DDNet's step at each precision, layer by layer and with a matrix as tail."""
    case = ddnet_case.training(options.batch_size, options.image_size)
    flops = 3 * ddnet_case.forward_flops(options.batch_size, options.image_size)
    for precision in options.precision:
        torch_precision(precision)
        expected = three_losses(torch_step(case, False, False))
        times = []
        for last, graph in [(last, graph) for last in (False, True) for graph in (False, True)]:
            rival = torch_step(case, last, graph)
            validate(f"PyTorch, {last=}, {graph=}", precision, three_losses(rival), expected)
            times.append(seconds(rival, options.repeats))
        best = min(times)
        for collapse in (False, True):
            ours = our_step(case, precision, collapse)
            validate(f"ours, {collapse=}", precision, three_losses(ours), expected)
            spent = seconds(ours, options.repeats)
            name = f"DDNet step, batch {options.batch_size}, {precision}"
            name += ", tail as a matrix" if collapse else ", layer by layer"
            share = None if collapse else roofline.share(spent, flops, 0, precision)
            yield dict(name=name, ours=spent, torch=best, ratio=best / spent, roofline=share)


def time_passes(options: argparse.Namespace, roofline: Roofline) -> Iterator[dict[str, Any]]:
    """Yield a row for each pass of each shape at each precision."""
    for row in kernels.rows_of(None, overhead=False):
        if options.only and options.only.lower() not in row.name.lower():
            continue
        case = row.case()
        for precision in options.precision:
            torch_precision(precision)
            ours = _our_pass(row, case, precision)
            exact = _torch_pass(row, case, torch.float64, False)().cpu().numpy()
            result = device.to(ours(), "cpu")
            error = abs(result - exact).max() / abs(exact).max()
            if not error < TOLERANCE[precision]:
                raise SystemExit(f"{row.name} at {precision}: error {error:.1e}")
            spent = device_seconds(ours, options.repeats)
            rivals = [_torch_pass(row, case, torch.float32, last) for last in (False, True)]
            best = min(device_seconds(rival, options.repeats) for rival in rivals)
            nbytes = sum(array.nbytes for array in case.values())
            share = roofline.share(spent, 2 * row.geometry.macs, nbytes, precision)
            name = f"{row.name}, {precision}"
            yield dict(name=name, ours=spent, torch=best, ratio=best / spent, roofline=share)


def _our_pass(row: kernels.Row, case: dict[str, np.ndarray], precision: str) -> Callable[[], Any]:
    """Return our pass on device arrays."""
    x, weight, grad = (device.to(case[name], "cuda") for name in ("x", "weight", "grad"))
    name = "conv_transpose2d" if row.transposed else "conv2d"
    options = {**row.shape.options, "precision": precision}
    if row.what == "forward":
        return lambda: getattr(F, name)(x, weight, **options)
    options.pop("output_padding", None)
    backward = getattr(F, f"{name}_{row.what.replace(' ', '_')}")
    if row.what == "input grad":
        return lambda: backward(grad, weight, x.shape, **options)
    return lambda: backward(grad, x, weight.shape, **options)


def _torch_pass(
    row: kernels.Row, case: dict[str, np.ndarray], dtype: torch.dtype, channels_last: bool
) -> Callable[[], torch.Tensor]:
    """Return PyTorch's pass on the GPU, in a layout from the start."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, weight, grad = (
        torch.from_numpy(case[name]).to("cuda", dtype).contiguous(memory_format=layout)
        for name in ("x", "weight", "grad")
    )
    options = dict(row.shape.options)
    if row.what == "forward":
        return kernels_torch._forward(x, weight, row.transposed, options)
    which = kernels_torch.GRADIENTS.index(row.what)
    return kernels_torch._gradient(x, weight, grad, row.transposed, which, options)


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each step and each pass."""
    options = _options(arguments)
    try:
        device.check("cuda")
    except ImportError as error:
        raise SystemExit(str(error)) from None
    if not torch.cuda.is_available():
        raise SystemExit("the installed PyTorch cannot use the GPU: nothing to compare with")
    options.precision = [name for name in options.precision if has(name)]
    roofline, rows = Roofline(), []
    print(f"{roofline.name}, {roofline.bytes / 1e12:.2f} TB/s copied")
    if roofline.flops is None:
        print("The rates of this GPU are not known here: no shares of its roofline")
    print(f"{'':70} {'ours, ms':>9} {'torch, ms':>9} {'ratio':>6} {'roofline':>8}")
    tables = [time_steps] if not options.only else []
    for table in (*tables, *([] if options.step else [time_passes])):
        for row in table(options, roofline):
            rows.append(row)
            share = "-" if row["roofline"] is None else f"{row['roofline']:.0%}"
            print(
                f"{row['name']:70} {row['ours'] * 1e3:9.4f} {row['torch'] * 1e3:9.4f} "
                f"{row['ratio']:6.2f} {share:>8}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"gpu": roofline.name, "rows": rows}, indent=1) + "\n")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--precision", choices=PRECISIONS, nargs="+", default=list(PRECISIONS))
    made.add_argument("--batch-size", type=int, default=128)
    made.add_argument("--image-size", type=int, default=32)
    made.add_argument("--repeats", type=int, default=9)
    made.add_argument("--only", metavar="TEXT", help="passes whose name contains this, and no step")
    made.add_argument("--step", action="store_true", help="the step alone")
    made.add_argument("--json", metavar="FILE", type=Path, help="write the rows")
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
