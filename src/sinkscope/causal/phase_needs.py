"""Whether each phase of position zero needs the one before it.

What an earlier phase wrote is replaced at P0 by the mean write of the other positions, and of the
later one is measured what is left through P0's key (`causal.phase_paths`): the late share of the
heads that read it, or its log norm ratio where no head does. The same of the removed phase itself
says whether it was removed at all.
"""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.causal.phase_paths import phase_needs
from sinkscope.causal.power import ABSENT, PART, UNDETERMINED
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import NECESSARY, NEGLIGIBLE
from sinkscope.errors import Missing, Unsupported
from sinkscope.result import Measured
from sinkscope.schema.verify import PhaseNeed

NEEDED, KEPT, NOT_REMOVED = "needed", "not needed", "not removed"
WORDS = {ABSENT: KEPT, PART: PART, UNDETERMINED: UNDETERMINED}


def need_rows(lab: CausalBench) -> list[PhaseNeed]:
    """A row for each phase but the first; why there are none is left in the notes of the bench."""
    phases, path = lab.circuit.phases, lab.screen.path
    if len(phases) < 2:
        return []
    try:
        if isinstance(path, Missing):
            raise Unsupported(path.reason)
        needs = phase_needs(path, phases)
    except Unsupported as refusal:
        why = str(refusal).rstrip(".")
        lab.notes.append(f"Whether a phase needs the one before it was not tested: {why}.")
        return []

    def left(removed: int, phase: int) -> tuple[Measured | None, Measured | None]:
        by_norm = phases[phase].phase.by == "norm"
        return (
            _left(needs.norm[removed, phase], needs.intact_norm[phase], lab) if by_norm else None,
            _left(needs.share[removed, phase], needs.intact_share[phase], lab),
        )

    rows: list[PhaseNeed] = []
    for phase in range(1, len(phases)):
        own, (norm, share) = left(phase - 1, phase - 1), left(phase - 1, phase)
        rows.append(
            {
                "phase": phase + 1,
                "removed": phase,
                "writers": list(phases[phase - 1].writes.writers),
                "outcome": needs_it(own[1] or own[0], share or norm),
                "norm_left": norm,
                "share_left": share,
                "removed_norm_left": own[0],
                "removed_share_left": own[1],
            }
        )
    return rows


def needs_it(removed: Measured | None, left: Measured | None) -> str:
    """What is left of a phase and of the one that was removed before it, in a word.

    needed where at least half of it is surely gone, not needed where surely less than a tenth is,
    in part between the two; not removed where half or more of the removed phase may be left.
    """
    if removed is None or removed.high is None or removed.high > 1 - NECESSARY:
        return NOT_REMOVED
    if left is None or left.low is None or left.high is None:
        return UNDETERMINED
    if left.high <= 1 - NECESSARY:
        return NEEDED
    if left.low > 1 - NEGLIGIBLE and left.high < 1 + NEGLIGIBLE:
        return KEPT
    return PART if left.low > 1 - NECESSARY else UNDETERMINED


def _left(edited: torch.Tensor, intact: torch.Tensor, lab: CausalBench) -> Measured | None:
    """Mean over prompts, over the mean intact; None where there is nothing to measure."""
    now, before = (np.asarray(each, dtype=np.float64) for each in (edited, intact))
    found = lab.draw.ratio(now, before)
    return None if found.value is None else found
