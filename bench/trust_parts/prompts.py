"""Few prompts: no wrong verdict, only how many it would take; and do those suffice?"""

from __future__ import annotations

from typing import Any

from sinkscope import Subject
from sinkscope.known.constructed import build_in_memory, draw_spec
from trust_parts.asking import UNDETERMINED, ask_as_advised

KINDS = (
    "p0-two-block", "bos-token", "position-embedding", "query-bias", "learned-sink", "delimiter",
    "p0-and-bos", "rotary-distance", "position-several", "norm-unread", "p0-part",
)  # fmt: skip
COUNTS = (2, 3, 4, 6, 8, 12, 16)


def one(seed: int) -> dict[str, Any]:
    """One model on a few prompts, and on as many as were asked for."""
    kind, n = KINDS[seed % len(KINDS)], COUNTS[seed // len(KINDS) % len(COUNTS)]
    model, tokenizer, truth = build_in_memory(draw_spec(kind, seed))
    subject = Subject.from_model(model, tokenizer)
    said, again = ask_as_advised(subject, n, bos=truth.bos, seed=seed)
    then = again["verdict"] if again else None
    right = {"not wrong": said["verdict"] in (truth.verdict, UNDETERMINED)}
    if said["verdict"] == UNDETERMINED:
        right["says how many"] = again is not None
    if again is not None:
        right["that suffices"] = then == truth.verdict
    return {"kind": kind, "n": n, "due": truth.verdict, "said": said, "then": then, "right": right}
