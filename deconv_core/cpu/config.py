"""The host's vectors, and every tile and block size: one table per machine family.

A tile is `lanes` scalars by `vectors` vectors of accumulators. They, the vectors of one operand and
one scalar of the other must fit the registers, and there must be enough of them to hide the latency
of a multiply-add (4 cycles, 2 a cycle): from 8 to 24 on 32 registers, 8 to 12 on 16.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from dataclasses import dataclass

import llvmlite.binding as llvm
from numba import config


@dataclass(frozen=True)
class Machine:
    """Vector width in bytes, and the tiles that keep its registers full.

    Attributes
    ----------
    spread : (lanes, vectors) pairs for `tiles/spread.py`, largest first; ends with one lane. The
        first is that of `tiles/cross.py` too
    dot : (lanes, vectors) pairs for `tiles/dot.py`, largest first; ends with one lane
    masked : whether loads are masked by bits, for free
    broadcasting : whether multiply-adds broadcast a scalar from memory, for free
    turns : (taps, channels) pairs: of channels of so many taps, `tiles/spread.py` multiplies so
        many in a turn of its loop, all steps one after the other
    cross_channels : source channels that Winograd's products take for all tiles of a block before
        the next ones, so that their weights stay in the nearest cache; 0 for all
    near_bytes : of a packed source that stays in the second-level cache along with its weights
    crossing : whether vectors that lie across two cache lines take much longer from that cache
    """

    vector_bytes: int
    spread: tuple[tuple[int, int], ...]
    dot: tuple[tuple[int, int], ...]
    masked: bool = False
    broadcasting: bool = False
    turns: tuple[tuple[int, int], ...] = ()
    cross_channels: int = 0
    near_bytes: int = 3 << 18
    crossing: bool = False


_WIDE = (  # for 32 registers
    ((12, 2), (8, 3), (4, 6), (3, 6), (2, 8), (1, 8)),
    ((4, 6), (3, 6), (2, 8), (1, 9)),
)
_FAMILIES = {
    "avx512": Machine(64, *_WIDE, masked=True, broadcasting=True),
    "avx2": Machine(
        32,
        ((6, 2), (5, 2), (4, 3), (3, 3), (2, 5), (1, 8)),
        ((4, 3), (3, 3), (2, 5), (1, 9)),
        turns=((1, 2), (2, 1), (3, 1), (4, 1)),
        cross_channels=64,
        near_bytes=3 << 17,
        crossing=True,
    ),
    "neon": Machine(16, *_WIDE),
    "sse": Machine(16, ((6, 2), (4, 2), (2, 4), (1, 8)), ((4, 2), (2, 4), (1, 9))),
}


def _host_family() -> str:
    """Return the name of the family whose instructions Numba will generate."""
    if platform.machine() in ("aarch64", "arm64"):
        return "neon"
    if config.CPU_NAME or config.CPU_FEATURES:
        text = config.CPU_FEATURES or ""
        features = {name: f"+{name}" in text.split(",") for name in ("avx512f", "avx2")}
    else:
        features = dict(llvm.get_host_cpu_features())
    if features.get("avx512f"):
        return "avx512"
    return "avx2" if features.get("avx2") else "sse"


def _matrix_registers() -> bool:
    """Tell whether there are matrix registers (AMX), and have the system let this process use them.

    Linux keeps their 8 KB for those who ask: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
    """
    if config.CPU_NAME or config.CPU_FEATURES:
        features = {name.strip("+"): True for name in (config.CPU_FEATURES or "").split(",")}
    else:
        features = dict(llvm.get_host_cpu_features())
    if FAMILY != "avx512" or not (features.get("amx-tile") and features.get("amx-bf16")):
        return False
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0


FAMILY = _host_family()
MACHINE = _FAMILIES[FAMILY]
MATRIX = _matrix_registers()

LINE = 64  # bytes of a cache line
PACK_BYTES = 7 << 17  # packed source of one block: about a common second-level cache,
NEAR_POSITIONS = 512  # or `MACHINE.near_bytes`, where that leaves a block so many positions
MANY_PHASES = 16  # of a source, whose channels are packed in chunks for so many positions
CROSSED_CHANNELS = 64  # of source and result, with which 1x1 passes are packed too, if they take
CROSSED_MACS = 1 << 24  # so many multiply-adds, and if vectors across cache lines take long
PANEL_PHASES = 16  # write phases that are computed in turn from the same packed source
PANEL_BYTES = 1 << 20  # a tile's results before they are unpacked, for so many phases
LEAST_LANES = 3.5  # that a tile of fewer takes as long as: it waits for what it loads
FULLER_SHARE = 0.98  # of the products of even blocks that those of others must be at most
UNEVEN_BLOCKS = 4  # that there must be at least, as fewer would not share out well
UNPACK_COST = 6  # products that it costs to unpack a result from there
LANES_BYTES = 3 << 13  # a weight gradient's lanes: half of a common first-level cache
PLAIN_RUN = 4  # units of a 1x1 convolution's weight gradient that share a tile's streams
BLOCK_POSITIONS = 2048  # output positions of one block: its panel stays in cache too
PLANE_POSITIONS = 4096  # of a depthwise block: packed, it stays in the nearest cache
CHANNEL_RUN = 16  # channels of a depthwise weight gradient that are read side by side
PREFETCH_AHEAD = 1024  # elements, at least, between what is packed and what is called for
SMALL_BAND = 512  # elements of a depthwise band below which its results are called for as well
CACHE_BYTES = 1 << 25  # about a common last-level cache: larger results are stored past it
MIN_BLOCKS = 8  # blocks are cut smaller until there are so many, whatever the number of threads,
MIN_TASKS = 64  # or until, with their units, they make so many tasks
SHARED_MACS = 1 << 18  # multiply-adds below which a pass runs on the calling thread
WORKER_MACS = 1 << 18  # multiply-adds worth waking one more thread for, where there are many
PARTIAL_BYTES = 1 << 25  # partial sums of a weight gradient
MAX_CHUNKS = 32
# Products that a transformed element of the source costs, and a sum of products: where vectors are
# narrow, products take longer and the transform little more; but a tile makes fewer of a sum's
# products while it takes as long to begin and to write it.
TILED_SOURCE, TILED_SUM = (8, 4) if MACHINE.vector_bytes == 64 else (5, 8)
TILED_PIXEL = 12  # the same of a pixel of the source,
TILED_RESULT = 5  # of the result that it is made into,
TILED_WEIGHT = 45  # and of the weight
# Tiles of a block: so many at most, or fewer, but so many at least, until there are so many tasks.
TILE_BLOCKS = 36, 72, 32
BLOCK_TILES = 6  # A block costs as much as so many more,
MOST_STEP = 160  # and its rows of tiles have so many at most, where folds are woven.
# Of a weight that is transformed for each block, by the thread that uses it:
NEAR_WEIGHT = 24 if MACHINE.vector_bytes == 64 else 12
NEAR_BLOCKS = 1, 132, 8  # the same of such blocks as TILE_BLOCKS,
NEAR_CHANNELS = 96  # channels whose weights are transformed together,
NEAR_WEIGHTS_BYTES = 9 << 14  # and their bytes, at most: they stay in the second-level cache
# Of the direct products, those of Winograd's tiles may be so many, costs included.
TILED_SHARE = 0.99 if MACHINE.vector_bytes == 64 else 0.92
GRAD_SHARE = 0.97  # the same of a weight gradient,
GRAD_MOVES = 1.15  # whose transforms cost so many times as much: two operands share the cache,
GRAD_WEIGHT = 60  # whose sums cost so many products,
# or so many, and so many more for all taps of a pair of channels, where sums become taps in cache:
GRAD_NEAR_WEIGHT, GRAD_NEAR_TAPS = 6, 320
# where the tiles of a block of source channels take so many bytes (narrow vectors gain nothing),
GRAD_NEAR_BYTES = 1 << 20 if MACHINE.vector_bytes == 64 else 0
GRAD_NEAR_TASKS = 32  # and make one block anyway, or leave so many tasks;
GRAD_NEAR_TERMS = {2: 16, 3: 32}  # so many of them are added up in a row, by a tile's results.
GRAD_TASKS = 128  # Others are cut into more chunks until there are so many tasks,
GRAD_SUMS_BYTES = 7 << 20  # or sums of so many bytes, but into two in any case
GRAD_TILES_BYTES = 1 << 19, 5 << 17  # a weight gradient's: to count chunks with, and at most
GRAD_BLOCK = 8  # tiles' products that it costs to add up those of a block, or of some of its tiles
TILE_LANES_BYTES = 1 << 22  # a weight gradient's transformed lanes that are packed together
DOT_TERMS = 96, 64  # products that an element of a weight gradient's vectors adds up in a row
FEW_TAPS = 4  # with so few, the second of these: their streams share less of what they read
AHEAD_STEPS = 48  # of a tile, between the weights that it multiplies and those it calls for
AHEAD_PLANES = 2  # channels, the same of its source;
AHEAD_TAPS = 4  # or for so many taps, where turns of the loop make channels short;
AHEAD_BYTES = 1 << 15  # of a packed plane, at most, or nothing is called for
AHEAD_TILES = 2  # where that comes from memory, tiles
WIDE_TERMS = 96  # products added up in a row along a wide kernel's rows,
WIDE_SHARE = 0.8  # which may take so many of those that sums over positions take
ROW = 32  # channels of an element of a transformed tile: side by side, and added up in a row
AHEAD_CROSS = 12  # steps of a tile over channels between the weights it multiplies and calls for
# Where multiply-adds broadcast from memory, they do so for each so many-th lane of a tile by
# positions, of so many vectors at most.
REREAD_LANES = 4
REREAD_VECTORS = 3
SUM_TERMS = 48  # products added up in a row: sums of such sums lose less to rounding,
LEAST_TERMS = 8  # and fewer, so many at least,
CAREFUL_MACS = 1 << 24  # in passes of so many multiply-adds
# Matrix registers may make so many times the direct products of vectors,
MATRIX_SHARE = 1.1
MATRIX_TERMS = 96  # if a result is a sum of at least so many products, as moving it costs as well,
MATRIX_MACS = 1 << 25  # and each of its phases takes so many; below, they gain little,
MATRIX_PHASES = 1  # and the source has at most so many phases: with more, blocks become small
# Of a block that they multiply: its source's bytes, and its positions, at least and at most.
MATRIX_BYTES = 3 << 18
MATRIX_POSITIONS = 128, 1024
MATRIX_TASKS = 16  # that there must be, so that many threads have work; blocks are cut for that
MATRIX_WEIGHTS = 1 << 14  # weights that are packed together, about
MATRIX_STEPS = 8  # of 32 channels, that are added up in a row: up to twice as many less two
# Products of matrices: of another plan's products they may take so many, moves included, without
# and with strides to write at.
GEMM_SHARE = 0.95, 0.72
WEIGHT_COST = 12  # products that it saves, with strides, not to send packed weights through memory
MOVE_COST = 128  # products that moving a part of a column costs
GEMM_POSITIONS = 1 << 16  # of a product, at most: there are tables of them
GRAD_POSITIONS = 1 << 13  # of one that is a weight gradient
COLUMN_BYTES = 1 << 23  # of a block of the column matrix
LEAST_TILES = 16  # of a block, however many bytes: its weights are packed for so many
GEMM_TASKS = 16  # blocks are cut smaller until there are so many tasks
CHUNK_ROWS = 256  # of one matrix that are used from the nearest cache
MOST_SUMS = 160  # tiles, times write phases, of a block: the sums of one unit stay in cache
STREAM_COST = 24  # products, for each position, that packing a column by position costs
SOURCE_COST = 16  # products that packing an element of a picture costs
SUMS_COST = 4  # vectors of products that it costs to add up those of a weight gradient
# With images innermost: of another plan's products they may take so many, transposing included,
# in passes and in weight gradients.
BATCH_SHARE = 0.92, 1.0
BATCH_LEAST = 0.75  # of the images of a block that there must be
TRANSPOSE_COST = 12  # products that it costs to transpose an element
BATCH_PIXELS = 400  # of a picture, at most: there are tables of them
BATCH_CHUNK_BYTES = 1 << 19  # of channels, whose weights and results share the second-level cache
BATCH_TASKS = 16  # blocks are cut into rows until there are so many tasks,
PART_PIXELS = 64  # of so many results at least
TABLE_PIXELS = 256  # that are transposed by one table, of several channels where pictures are small
GRAD_BATCH = 16  # images of a block of a weight gradient
SUMMED_COST = 1.1  # products of that which one takes, as sums are written after every few
BATCH_TERMS = 128  # pixels whose products an element of its vectors adds up where these are images
