"""Every bound that decides a verdict, each with its reason; they travel with the result."""

from __future__ import annotations

from sinkscope.detect.attention import OVER_UNIFORM
from sinkscope.detect.decision import ELSEWHERE, LEARNED

__all__ = ["ELSEWHERE", "LEARNED", "OVER_UNIFORM"]  # their home is detect

ALPHA = 0.05
NECESSARY = 0.5
NEGLIGIBLE = 0.1
SPECIFIC = 0.5
INDUCED = 0.25
ORDINARY = 0.3
LOST = 0.5
PART = 0.1
MINOR = 0.25
KEPT = 0.5
FAITHFUL = 0.9
COMPLETE = 0.2
SPARSE = 0.05

REASONS = {
    "ALPHA": "error rate of the paired test of an edit against its control, after Holm",
    "NECESSARY": "an edit that the sink needs removes at least this part of it; half is the point "
    "from which what is left is the smaller part",
    "NEGLIGIBLE": "a control that moves the sink, or the margin, by less than this part of what "
    "there is to move does nothing of interest",
    "SPECIFIC": "a control must have at most this part of the effect of its edit",
    "INDUCED": "part of the gap between P0's sink margin and that of an ordinary position which "
    "the position must gain; the margin is a logarithm, so a quarter of it is far from noise",
    "ORDINARY": "share, P0 left out of the keys, from which the sink heads of a block sink at "
    "the other position before anything is edited (Gu's bound); such a prompt is left out",
    "LOST": "part of a head's sink that must be gone for a token, an id or a bias to carry it",
    "PART": "part of the sink that the heads of a token, a position id or the circuit must surely "
    "hold for the verdict to name it; what moves the sink by less does nothing of interest",
    "MINOR": "part of the sink below which what is not sure to hold PART is left out",
    "KEPT": "part of the sink that the circuit alone must keep (faithfulness) to be sufficient",
    "FAITHFUL": "part of the sink that the reported circuit is grown to keep alone",
    "COMPLETE": "part of it that everything but the reported circuit may keep",
    "SPARSE": "and it may have at most this part of all units; half a model is no circuit",
    "LEARNED": "mass on a learned logit from which a head counts as sinking there, as for P0 (Gu)",
    "ELSEWHERE": "mass on a few kinds of token, away from P0, from which a head sinks there; such "
    "tokens stand at many positions and what each receives adds up, so it must be the larger part",
    "OVER_UNIFORM": "and these tokens must hold this many times what uniform attention gives them",
}
