"""The first sentence of a scan: whether position zero sinks, how, and where else."""

from __future__ import annotations

from dataclasses import dataclass

from sinkscope.detect.attention import SINK
from sinkscope.report.text import interval_note, number_of, percent, ranges, short, visible
from sinkscope.result import ScanSummary
from sinkscope.schema.scan import SinkBeside, SinkFinding


@dataclass(frozen=True)
class Thresholds:
    """When a word may be used. Conventions of this report; whether there is a sink, the scan says.

    times_uniform   a sink below this many times uniform attention, over all heads, is called one
                    "in a few heads"
    times_more      without a sink: from here on P0 draws "more than even attention would give"
    norm_rise       below this ratio P0 is "not amplified in norm" (untrained Llamas reach 2)
    same_direction  mean cosine over first tokens from which the direction is "nearly the same"
    elsewhere       mean share on sinks elsewhere, or on a learned sink, that is worth a sentence
    """

    times_uniform: float = 3.0
    times_more: float = 1.5
    norm_rise: float = 1.5
    same_direction: float = 0.9
    elsewhere: float = 0.02


LIMITS = Thresholds()
ELSEWHERE = ("learned", "positions", "tokens")  # kinds of sink that are not at P0


def strength(scan: ScanSummary) -> str:
    """One of `sink`, `few` (in a few heads), `elsewhere`, `more` (than even), `none`, `unknown`."""
    share, uniform = number_of(scan.late_share), scan.uniform_late_share
    if scan.sink["kind"] in ELSEWHERE:
        return "elsewhere"
    if share is None or not uniform:
        return "unknown"
    times = share / uniform
    if scan.p0_sink:
        few = "few heads" in scan.sink["words"] or times < LIMITS.times_uniform
        return "few" if few else "sink"
    return "more" if times >= LIMITS.times_more else "none"


def headline(scan: ScanSummary) -> str:
    """Whether position zero sinks, how, and where else, with its late share."""
    kind, share = strength(scan), number_of(scan.late_share)
    if kind == "unknown":
        return "Whether position zero is a sink cannot be said: no late query sees it."
    if scan.p0_sink is None and share is not None:
        kind = "undecided"
    words = {
        "undecided": "So few and short prompts cannot say whether position zero is a sink",
        "sink": "Position zero is an attention sink",
        "few": "Position zero is an attention sink, in a few heads",
        "elsewhere": _held_elsewhere(scan),
        "more": "Position zero draws more than even attention would give it, but is no sink",
        "none": "Position zero is no attention sink, nor is anything else",
    }
    said = words[kind] + _how(scan)
    if share is None or not scan.uniform_late_share:
        return f"{said}; no late query sees position zero."
    note = interval_note(scan.late_share)
    interval = f" ({note})" if note else ""
    times = short(share / scan.uniform_late_share)
    return (
        f"{said}: over all heads, later queries give it {percent(share)} of their attention"
        f"{interval}, "
        f"{times} times the {percent(scan.uniform_late_share)} of uniform attention."
    )


def _how(scan: ScanSummary) -> str:
    """What must be said beside it: weak, in part of the prompts, with other positions."""
    if not scan.p0_sink:
        return ""
    found, parts = scan.sink, []
    if "weak" in found["words"]:
        parts.append(f"a weak one (no head gives it more than {round_percent(SINK)})")
    if "part of the prompts" in found["words"]:
        count = found["prompts"]
        parts.append(f"in {count} prompts only" if count != 1 else "in one prompt only")
    others = [place for place in found["positions"] if place]
    if others:
        parts.append(f"together with {plural('position', ranges(others))} {ranges(others)}")
    return "".join(f", {part}" for part in parts)


def _held_elsewhere(scan: ScanSummary) -> str:
    said = held(scan.sink)
    if scan.p0_sink is None:  # not seen, so nothing is said of it
        return said[0].upper() + said[1:]
    return f"Position zero is no attention sink, but {said}"


def held(found: SinkFinding | SinkBeside, other: str = "") -> str:
    """How many heads sink away from P0, and at what; `other ` before the heads."""
    count = found["heads"]
    heads = f"{count} {other}heads sink" if count > 1 else f"one {other}head sinks"
    if found["kind"] == "learned":
        return f"{heads} on a learned logit, which is no position"
    if found["kind"] == "positions":
        at = ranges(found["positions"])
        return f"{heads} at {plural('position', at)} {at}"
    tokens = ", ".join(f"'{visible(token)}'" for token in found["tokens"])
    return f"{heads} at tokens wherever they stand ({tokens})"


def round_percent(value: float) -> str:
    """A share in whole per cent."""
    return f"{100 * value:.0f}\u00a0%"


def plural(word: str, shown: str) -> str:
    """The word in its plural, unless one number is shown."""
    return word if shown.isdigit() else f"{word}s"
