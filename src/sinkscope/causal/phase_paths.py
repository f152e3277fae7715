"""Whether one phase of position zero needs another: an exact path test between them.

P0's phases (`circuit.phases`) lie on its own one-token stream, so what one of them owes to an
earlier one is seen there: the writes of one are replaced by the mean write of the other positions,
and every phase is measured again, by its norm and by the share of the heads that read it, through
P0's key alone (`intervene.p0_path`). What that says: `causal.phase_needs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sinkscope.circuit.phase_parts import PhaseParts
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import SetWrite
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.p0_path import KeyPath

KINDS = ("attention", "mlp")


@dataclass
class Needs:
    """What is left of each of k phases when one is removed; rows: removed, columns: looked at.

    edits   per phase, those that remove it
    norm    [k, k, n] log of P0's norm ratio at the phase's peak, nats; intact_norm [k, n]
    share   [k, k, n] mean late share of the phase's readers; intact_share [k, n]; NaN without any
    """

    edits: list[list[Edit]]
    norm: torch.Tensor
    share: torch.Tensor
    intact_norm: torch.Tensor
    intact_share: torch.Tensor


def without_writes(names: Sequence[str]) -> list[Edit]:
    """Edits that replace writes ("3.mlp") at P0 by the mean write of the other positions.

    Raises Unsupported for a write that is neither the attention's nor the MLP's.
    """
    edits: list[Edit] = []
    for name in names:
        block, _, kind = name.partition(".")
        if kind not in KINDS:
            raise Unsupported(f"{name} is no write of attention or MLP, and cannot be replaced.")
        edits.append(SetWrite(int(block), kind, 0, "mean"))
    return edits


def phase_needs(path: KeyPath, phases: Sequence[PhaseParts]) -> Needs:
    """Remove each phase's writers from P0 and look at every phase, at its peak and its readers."""
    edits = [without_writes(part.writes.writers) for part in phases]
    found = path.effects(edits)
    points = [part.phase.point for part in phases]

    def share(effects) -> torch.Tensor:
        nothing = torch.full(effects.share.shape[:2], torch.nan)
        reads = [effects.on(part.readers) if part.readers else nothing for part in phases]
        return torch.stack(reads, 1)

    return Needs(
        edits,
        found.norm[:, :, points].log().transpose(1, 2),
        share(found),
        path.intact.norm[0][:, points].log().T,
        share(path.intact)[0],
    )
