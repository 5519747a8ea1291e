"""Tiles and limits: one table for each kind of arithmetic.

A block of threads computes a tile of the result, `rows` (channels) by `columns`, from `depth` terms
of the sum at a time. Each of its warps computes `warp_rows` by `warp_columns` of it, and each lane
of a warp `thread_rows` by `thread_columns`: these sums stay in registers. So larger tiles load less
for each multiplication, and smaller ones waste less at the edges and leave room for more blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..geometry import ConvGeometry
from .driver import SIMULATED

PRECISIONS = ("float32", "tf32", "3xtf32")
# The default, by compute capability: "float32" but where three products in TF32 cost less than one
# in float32. That is measured on 9.0; of 8.0 it is predicted from the units' rates, which are 8 to
# 1 for TF32 there, 7 to 1 on 9.0, no more than 2 to 1 on 8.6 and 8.9. It is never timed when a
# program runs: the bits of a result must not depend on that.
DEFAULT_PRECISION = {(8, 0): "3xtf32", (9, 0): "3xtf32"}


@dataclass(frozen=True)
class Tile:
    """One tile.

    Attributes
    ----------
    rows, columns, depth : the tile of the result, and the terms of the sum in one stage
    warp_rows, warp_columns : the part of it that one warp computes
    lane_rows, lane_columns : how its lanes are arranged, 8 x 4 on tensor cores
    stages : buffers in shared memory; all but one are being filled while one is multiplied
    blocks : blocks that fit on one multiprocessor from compute capability 8.0 on, and at least two
        on 7.5: registers are limited for it, and the tests read it in ptxas's report
    tensor : whether it is for tensor cores
    wide : whether the source is copied by 16 bytes, as the pictures of a 1x1 convolution allow
    direct : whether nothing is copied, but read where it lies (few.py)
    """

    rows: int
    columns: int
    depth: int
    warp_rows: int
    warp_columns: int
    lane_rows: int = 8
    lane_columns: int = 4
    stages: int = 2
    blocks: int = 2
    tensor: bool = False
    wide: bool = False
    direct: bool = False

    @property
    def lanes(self) -> int:
        """Lanes of a warp: 32 but in the simulator."""
        return self.lane_rows * self.lane_columns

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows // self.warp_rows * (self.columns // self.warp_columns) * self.lanes

    @property
    def thread_rows(self) -> int:
        """Rows of sums of one thread."""
        return self.warp_rows // self.lane_rows

    @property
    def thread_columns(self) -> int:
        """Columns of sums of one thread."""
        return self.warp_columns // self.lane_columns

    @property
    def pad(self) -> int:
        """Elements between the rows of a buffer, which keep its accesses in different banks."""
        return 8 if self.tensor else 4

    @property
    def row_pitch(self) -> int:
        """Elements of shared memory from one term to the next, of the rows' operand."""
        return self.rows + self.pad

    @property
    def column_pitch(self) -> int:
        """Elements of shared memory from one term to the next, of the columns' operand."""
        return self.columns + self.pad

    @property
    def stage_size(self) -> int:
        """Elements of shared memory of one stage."""
        return self.depth * (self.row_pitch + self.column_pitch)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: the stages, and four integers for each column."""
        return 4 * (self.stages * self.stage_size + 4 * self.columns)


ANY = 1 << 31
Table = tuple[tuple[int, int, Tile], ...]  # (at most so many rows, and columns or channels, tile)

# Tiles of a forward pass or an input gradient, by result channels and source channels, each of a
# group. Few channels leave little to multiply: there tensor cores would be idle most of the time.
_FEW = (4, ANY, Tile(4, 512, 1, 4, 128, lane_rows=1, lane_columns=32, blocks=6, direct=True))
_FLOAT32: Table = (
    _FEW,
    (32, ANY, Tile(32, 128, 8, 32, 32, blocks=4)),
    (ANY, ANY, Tile(64, 128, 8, 64, 32, blocks=3)),
)
_TENSOR: Table = (
    _FEW,
    (ANY, 8, Tile(32, 128, 8, 32, 32, stages=3, blocks=4, tensor=True)),
    (32, ANY, Tile(32, 128, 16, 32, 32, stages=3, blocks=4, tensor=True)),
    (64, ANY, Tile(64, 128, 16, 32, 64, stages=3, blocks=3, tensor=True)),
    (ANY, ANY, Tile(128, 128, 16, 64, 64, blocks=2, tensor=True)),
)
# "3xtf32" adds eight terms up before it adds them to the sums (mma.py), which takes registers: so
# there are fewer blocks, and where warps of 64x64 would spill, twice as many of half the size.
_THRICE: Table = (
    *_TENSOR[:2],
    (32, ANY, Tile(32, 128, 16, 32, 32, stages=3, blocks=3, tensor=True)),
    (64, ANY, Tile(64, 128, 16, 32, 64, stages=3, blocks=2, tensor=True)),
    (ANY, ANY, Tile(128, 128, 16, 64, 32, blocks=1, tensor=True)),
)
# Tiles of a weight gradient, by its rows (result channels) and columns (source channels x taps).
_DOT_FLOAT32: Table = (
    (32, 32, Tile(32, 32, 16, 32, 16, blocks=8)),
    (ANY, 32, Tile(128, 32, 8, 32, 32, blocks=4)),
    (ANY, ANY, Tile(64, 128, 8, 64, 32, blocks=3)),
)
_DOT_TENSOR: Table = (
    (32, 32, Tile(32, 32, 16, 32, 32, stages=3, blocks=9, tensor=True)),
    (ANY, 32, Tile(128, 32, 16, 32, 32, blocks=4, tensor=True)),
    (64, ANY, Tile(64, 96, 16, 32, 96, stages=3, blocks=4, tensor=True)),
    (ANY, ANY, Tile(128, 128, 16, 64, 64, blocks=2, tensor=True)),
)
_DOT_THRICE: Table = (
    _DOT_TENSOR[0],
    (ANY, 32, Tile(128, 32, 16, 32, 32, blocks=3, tensor=True)),
    (64, ANY, Tile(64, 128, 16, 32, 64, stages=3, blocks=2, tensor=True)),
    (ANY, ANY, Tile(128, 128, 16, 32, 64, blocks=1, tensor=True)),
)
# In the simulator each thread is one of Python's: few of them, and little for each to do.
_TOY: Table = ((ANY, ANY, Tile(8, 8, 4, 8, 8, lane_rows=2, lane_columns=2)),)
_TOY_FEW: Table = ((2, ANY, Tile(4, 16, 1, 4, 16, lane_rows=1, lane_columns=4, direct=True)), *_TOY)
_TOY_TENSOR: Table = ((ANY, ANY, Tile(32, 32, 8, 32, 32, tensor=True)),)

_TABLES = {
    ("spread", "float32"): _FLOAT32,
    ("spread", "tf32"): _TENSOR,
    ("spread", "3xtf32"): _THRICE,
    ("dot", "float32"): _DOT_FLOAT32,
    ("dot", "tf32"): _DOT_TENSOR,
    ("dot", "3xtf32"): _DOT_THRICE,
}


def table(kind: str, precision: str) -> Table:
    """Return the tiles of "spread" (forward, input gradient) or "dot" (weight gradient)."""
    if SIMULATED and precision == "float32":
        return _TOY_FEW if kind == "spread" else _TOY
    if SIMULATED:
        return _TOY_TENSOR
    return _TABLES[kind, precision]


def choose(kind: str, precision: str, rows: int, others: int, wide: bool = False) -> Tile:
    """Return the first tile of the table that is for so many rows, and columns or channels.

    Examples
    --------
    >>> choose("spread", "float32", rows=3, others=32).rows <= 8
    True
    """
    tiles = table(kind, precision)
    tile = next(tile for high, far, tile in tiles if rows <= high and others <= far)
    return replace(tile, wide=wide and not tile.direct)


# Depthwise convolutions (depthwise.py): groups in which each element takes part in so few products
# that the smallest tile would be padding for the most part. There a block is one large warp.
DEPTHWISE = 4
_LANES = 16 if SIMULATED else 128
DEPTHWISE_SPREAD = Tile(1, 4 * _LANES, 1, 1, 4 * _LANES, 1, _LANES, blocks=8)
DEPTHWISE_DOT = Tile(1, 9, _LANES, 1, 9, 1, _LANES, blocks=8)  # nine terms: a 3x3 kernel


def is_depthwise(geometry: ConvGeometry) -> bool:
    """Return whether a convolution's passes are those of depthwise.py.

    Examples
    --------
    >>> from deconv_core.geometry import conv
    >>> is_depthwise(conv((1, 8, 5, 5), (8, 1, 3, 3), groups=8))
    True
    """
    _, channels, *_ = geometry.weight_shape
    results = geometry.out_channels // geometry.groups
    return geometry.groups > 1 and channels * results <= DEPTHWISE


# A weight gradient is cut into chunks of positions, to have enough blocks for a large GPU: by shape
# alone, never by the device, so that the same bits come out on all.
DOT_BLOCKS = 32 if SIMULATED else 512
DOT_POSITIONS = 16 if SIMULATED else 512  # of a chunk, at least
