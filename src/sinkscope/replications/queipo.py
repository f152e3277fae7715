"""Queipo-de-Llano et al. 2026 (arXiv 2510.06477): drop P0's MLP write, and sink and valley go.

For P0 alone x ← x + attention in one block. Read out are the sink rate (share of heads whose first
key receives at least 0.3), the norm of P0, and the least matrix entropy over blocks, in bits:
H = −Σ p_j log₂ p_j with p_j = σ_j²/‖X‖²_F of the representation X [T, d].
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import SetWrite
from sinkscope.intervene.edits.base import Edit
from sinkscope.mixing.collapse import matrix_entropy, spectrum
from sinkscope.replications.base import RowResult, read_replication
from sinkscope.replications.bench import Bench, rate, spread

TAU = 0.3
ALIKE = 1.5  # blocks without which P0 is as short as this, times the shortest, count alike
SINK, VALLEY, NORM, WHERE = "sink rate", "least entropy, bits", "norm of P0, ×", "block"


def entropy_bits(x: torch.Tensor) -> float:
    """Matrix entropy of the rows x [T, d], in bits."""
    return matrix_entropy(spectrum(x)) / math.log(2)


def _measure(bench: Bench, edits: list[Edit]) -> RowResult:
    look = bench.look(edits, reduce=entropy_bits)
    assert look.stream is not None
    values = {
        SINK: spread(rate(look.alpha[..., 0], TAU), bench.seed),
        VALLEY: spread(np.nanmin(look.stream[:, 1:], 1), bench.seed),
        NORM: spread(bench.run(edits).norm[:, 0, 1:].max(1), bench.seed),
    }
    return RowResult(values, edits)


def _drop(bench: Bench, block: int, position: int = 0) -> list[Edit]:
    if bench.sites.mlp(block) is None:
        raise Unsupported(f"block {block} has no MLP of its own to drop.")
    return [SetWrite(block, "mlp", position, "zero")]


def strongest(bench: Bench) -> int:
    """The block whose MLP write P0's norm needs most; the last of several, which amplifies what
    the others hand on."""
    blocks = [block for block in range(bench.depth) if bench.sites.mlp(block) is not None]
    if not blocks:
        raise Unsupported("no block has an MLP of its own to drop.")
    tops = [float(bench.run(_drop(bench, block)).norm[:, 0, 1:].max(1).mean()) for block in blocks]
    return max(block for block, top in zip(blocks, tops) if top <= ALIKE * min(tops))


def _at_strongest(position: int):
    def measure(bench: Bench) -> RowResult:
        block = strongest(bench)
        found = _measure(bench, _drop(bench, block, position))
        found.values[WHERE] = spread(np.array([block]))
        found.note = f"the block, of all, without whose MLP write P0 stays shortest: {block}"
        return found

    return measure


REPLICATION = read_replication(
    "queipo-2025",
    {
        "intact": lambda bench: _measure(bench, []),
        "block 0": lambda bench: _measure(bench, _drop(bench, 0)),
        "strongest": _at_strongest(0),
        "control": _at_strongest(5),
    },
)
