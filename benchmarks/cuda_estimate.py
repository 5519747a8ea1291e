"""What DDNet's layers should cost on a GPU that is not at hand: tiles, registers, least times.

    python benchmarks/cuda_estimate.py --precision 3xtf32 --batch 128

Each kernel is compiled for compute capability 9.0 and assembled, but not run. Its time cannot be
less than its multiplications, those of padding included, at the peak rate of the units that it
uses, nor less than its arrays' bytes at the rate of a copy. The rates are an H100's, from the
design notes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from deconv_core import geometry
from deconv_core.cuda import config, conv, offline, plan, splitk, spread
from deconv_core.cuda.config import Tile
from deconv_core.geometry import ConvGeometry, ceil_div

RATES = {"float32": 67e12, "tf32": 495e12, "3xtf32": 165e12}  # operations a second
COPY = 3.0e12  # bytes a second
CC = (9, 0)
LAYERS = {
    "conv1": ((3, 32, 32), (32, 3, 3, 3), False),
    "conv2": ((32, 32, 32), (64, 32, 3, 3), False),
    "conv3": ((64, 32, 32), (128, 64, 3, 3), False),
    "deconv1": ((128, 32, 32), (128, 64, 3, 3), True),
    "deconv2": ((64, 63, 63), (64, 32, 3, 3), True),
    "deconv3": ((32, 125, 125), (32, 3, 3, 3), True),
}


@dataclass(frozen=True)
class Work:
    """One kernel of one layer: its operations, padding included, and the bytes of its arrays."""

    name: str
    tile: Tile
    kind: str
    operations: float
    useful: float
    nbytes: int

    def precision(self, asked: str) -> str:
        """Return the arithmetic that the tile does when this one is asked for."""
        return asked if self.tile.tensor else "float32"

    def seconds(self, asked: str) -> float:
        """Return the least time that the kernel can take."""
        return max(self.operations / RATES[self.precision(asked)], self.nbytes / COPY)

    def report(self, asked: str, ptxas: str) -> offline.Report:
        """Compile and assemble the kernel."""
        maker, signature = {
            "spread": (spread.spread_kernel, conv.SPREAD),
            "dot": (splitk.dot_kernel, conv.DOT),
        }[self.kind]
        kernel, tile = maker(self.tile, self.precision(asked), True), self.tile
        ptx = offline.compile_ptx(kernel, signature, CC, tile.threads, tile.blocks)
        return offline.assemble(ptx, CC, tile.threads, ptxas)


def _layer(name: str, batch: int) -> tuple[ConvGeometry, bool]:
    """Return a layer's geometry, and whether it is a transposed convolution."""
    (channels, *size), weight, transposed = LAYERS[name]
    describe = geometry.conv_transpose if transposed else geometry.conv
    stride = 2 if transposed else 1
    return describe((batch, channels, *size), weight, stride=stride, padding=1), transposed


def work(name: str, batch: int, precision: str) -> Iterator[Work]:
    """Yield a layer's kernels; the first layer has no use for the gradient to its input."""
    shape, transposed = _layer(name, batch)
    sizes = [shape.input_shape, shape.output_shape, shape.weight_shape]
    nbytes = 4 * sum(a * b * c * d for a, b, c, d in sizes)
    for label, adjoint in (("forward", transposed), ("input grad", not transposed)):
        if (name, label) == ("conv1", "input grad"):
            continue
        rows, channels = (size[1] for size in (sizes[:2] if adjoint else sizes[1::-1]))
        tile = config.choose("spread", precision, rows, channels)
        p, _ = plan.spread_plan(shape, adjoint, tile)
        columns = ceil_div(p.positions, tile.columns) * tile.columns
        done = 2.0 * columns * p.padded_rows * p.taps * p.padded
        yield Work(f"{name} {label}", tile, "spread", done, 2.0 * shape.macs, nbytes)
    rows, terms = sizes[2][0], sizes[2][1] * 9
    tile = config.choose("dot", precision, rows, terms)
    d, _ = plan.dot_plan(shape, tile)
    area = ceil_div(rows, tile.rows) * tile.rows * ceil_div(terms, tile.columns) * tile.columns
    partial = 8 * d.chunks * rows * terms  # the sums of all chunks, written and read again
    done = 2.0 * area * d.chunk * d.chunks
    yield Work(f"{name} weight grad", tile, "dot", done, 2.0 * shape.macs, nbytes + partial)


def main() -> None:
    """Print a table, and the sum of its times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", choices=config.PRECISIONS, default="3xtf32")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    options = parser.parse_args()
    ptxas = offline.find_tool("ptxas")
    if ptxas is None:
        parser.error("ptxas is not installed: pip install nvidia-cuda-nvcc")
    plan.to_device = lambda array: array  # there is no device to copy a plan to
    columns = "kernel", "tile", "units", "operations/byte", "registers", "shared", "blocks", "warps"
    print("| " + " | ".join((*columns, "padding", "least time")) + " |\n" + "|---" * 10 + "|")
    total = 0.0
    kernels = [work(name, options.batch, options.precision) for name in options.layers]
    for item in chain(*kernels):
        tile, found = item.tile, item.report(options.precision, ptxas)
        seconds = item.seconds(options.precision)
        total += seconds
        # Operations for each byte that a tile brings to shared memory.
        intensity = tile.rows * tile.columns / (2 * (tile.rows + tile.columns))
        limit = "copy" if seconds == item.nbytes / COPY else item.precision(options.precision)
        print(
            f"| {item.name} | {tile.rows}x{tile.columns}x{tile.depth} "
            f"| {item.precision(options.precision)} | {intensity:.0f} | {found.registers} "
            f"| {found.shared / 1024:.1f} KB | {found.blocks} "
            f"| {found.blocks * tile.threads // 32} of 64 "
            f"| {item.operations / item.useful - 1:.0%} | {seconds * 1e6:.0f} us ({limit}) |"
        )
    print(f"\nAll: at least {total * 1e3:.2f} ms; a GPU at hand is measured, not estimated.")


if __name__ == "__main__":
    main()
