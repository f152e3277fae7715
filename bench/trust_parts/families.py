"""Models whose circuit is known: verdict, circuit and recognition of the newer mechanisms."""

from __future__ import annotations

from typing import Any

from sinkscope import Subject
from sinkscope.known.constructed import Truth, build_in_memory, draw_spec
from trust_parts.asking import ask_as_advised, read_point

CIRCUITS = (
    "p0-weak", "p0-few-heads", "p0-part", "p0-head-groups", "p0-suppression", "p0-real-tokens",
    "p0-small-vocabulary", "p0-spike-before", "p0-spike-after", "p0-unread-writers",
)  # fmt: skip
MIXTURES = ("p0-and-bos", "p0-or-bos", "p0-and-position")
DECOYS = (
    "position-amplified", "position-several", "position-full", "position-periodic",
    "position-ramp", "position-one", "rotary-distance",
)  # fmt: skip
KINDS = (*CIRCUITS, *DECOYS, *MIXTURES, *DECOYS)  # decoys twice: half of a thousand are some


def one(seed: int) -> dict[str, Any]:
    """One model, what is true of it, and what was said: on more prompts where it asked for them."""
    spec = draw_spec(KINDS[seed % len(KINDS)], seed)
    model, tokenizer, truth = build_in_memory(spec)
    subject = Subject.from_model(model, tokenizer)
    first, again = ask_as_advised(subject, bos=truth.bos, seed=seed)
    said = again or first
    due = {
        "verdict": truth.verdict,
        "block": truth.amplifying_blocks[0] if truth.amplifying_blocks else None,
        "neurons": sorted(truth.writing_neurons),
        "heads": sorted(truth.reading_heads),
        "recognition": truth.recognition_point,
    }
    return {
        "kind": truth.mechanism,
        "family": truth.family,
        "noise": truth.noise,
        "due": due,
        "said": said,
        "asked again": first["take"] if again else None,
        "right": judged(truth, said, due),
    }


# What else is true: what carries a sink at another position than zero is not tested.
ALSO = {"position-one": ("other",)}


def judged(truth: Truth, said: dict[str, Any], due: dict[str, Any]) -> dict[str, bool]:
    """Which answers are right; one that the truth does not state is left out."""
    right = {"verdict": said["verdict"] in (due["verdict"], *ALSO.get(truth.mechanism, ()))}
    if truth.mechanism in CIRCUITS:
        for answer in ("block", "neurons", "heads"):
            right[answer] = said[answer] == due[answer]
        right["circuit"] = all(right[answer] for answer in ("block", "neurons", "heads"))
    if truth.mechanism in MIXTURES:  # without its neurons another carrier goes on: none is named
        right["heads"] = said["heads"] == due["heads"]
        right["none wrongly named"] = all(each in due["neurons"] for each in said["neurons"])
    if truth.recognition_point is not None:
        found = said["recognition"]
        right["recognition"] = (
            found is not None and abs(read_point(found) - read_point(due["recognition"])) <= 1
        )
    if said["sink"] is not None:
        right["scan"] = _scanned(truth, said["sink"])
    return right


def _scanned(truth: Truth, sink: dict[str, Any]) -> bool:
    """Whether the scan says where the sink is, and how weak or rare."""
    if truth.at not in ([], [0]):
        kind = "p0" if 0 in truth.at else "positions"
        return sink["kind"] == kind and sorted(sink["positions"]) == truth.at
    if sink["kind"] != "p0":
        return False
    needed = {
        "p0-weak": "weak",
        "p0-part": "part of the prompts",
    }.get(truth.mechanism)
    return needed is None or any(needed in word for word in sink["words"])
