"""One step of a tile whose scalars are broadcast: `spread` and `cross`."""

from __future__ import annotations

from typing import Any

from ..config import MACHINE, REREAD_LANES, REREAD_VECTORS
from ..vectors.emit import Emitter


def add_products(
    emit: Emitter, scalars: Any, pitch: int, vectors: list[Any], total: list[list[Any]]
) -> None:
    """Add the products of a step's scalars, `pitch` elements apart, and vectors to their sums.

    A scalar is broadcast into a register for all of its multiply-adds. Some of those that lie side
    by side are read from memory by each instead: one instruction fewer, but a load for each vector
    instead of one. So a core runs out of neither, above all one that another thread shares.
    """
    rereading = MACHINE.broadcasting and pitch == 1 < len(vectors) <= REREAD_VECTORS
    places = [scalars]
    if rereading:
        places += [emit.alias(scalars) for _ in vectors[1:]]
    for i, sums in enumerate(total):
        each = rereading and i % REREAD_LANES == REREAD_LANES - 1
        for v, vector in enumerate(vectors):
            if v == 0 or each:
                scalar = emit.broadcast(emit.builder.load(emit.step(places[v], i * pitch)))
            emit.multiply_add(scalar, vector, sums[v])
