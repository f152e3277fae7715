"""What a trace shows, in sentences. It observes: whether the parts cause the sink, verify tests."""

from __future__ import annotations

from sinkscope.report.parts import Said
from sinkscope.report.phases import phase_lines, phases_of, written_by
from sinkscope.report.text import counted, number_of, percent, ranges, short, sublayer, visible
from sinkscope.result import TraceSummary

NOT_SHOWN = (
    "A trace observes. Which of these parts the sink needs, and whether they are enough, is tested "
    "by sinkscope verify."
)
HOW = {
    "norm": "by the length of its stream",
    "direction": "by its direction",
    "both": "first by its direction, then by its length",
}
AMPLIFIED = {"norm": "norm", "direction": "direction", "both": "norm and direction"}

MEASURES = {
    "norm": "its norm",
    "cosine": "its cosine to the others' mean",
    "raw": "a linear probe on the stream",
    "normalised": "a linear probe on the normalised stream",
}


def sentences(trace: TraceSummary) -> list[str]:
    """The findings, the first as headline."""
    said = (_emergence(trace), _recognised(trace), _writers(trace), _readers(trace), _spike(trace))
    return [sentence for sentence in (*said, *phase_lines(trace)) if sentence]


def answers(trace: TraceSummary) -> list[Said]:
    """What a terminal shows by itself: phases in place of the one that is read most."""
    phases = phase_lines(trace)
    return [
        ("Since", _emergence(trace)),
        *(("Made by", line) for line in phases or [_writers(trace)]),
        *([] if phases else [("Read by", _readers(trace))]),
    ]


def _emergence(trace: TraceSummary) -> str:
    block = trace.emergence_block
    if block is None:
        return "Position zero is not separated from the other positions in any block."
    how = HOW.get(trace.amplification or "", "")
    where = "from its embedding" if block < 0 else f"from block {block}"
    how = f", {how}" if how and block >= 0 else ""
    return f"Position zero stands apart from the others{_for_good(trace)} {where} on{how}."


def _for_good(trace: TraceSummary) -> str:
    """Said where it stood apart before, and was taken back."""
    return " for good" if len(phases_of(trace)) > 1 else ""


def _recognised(trace: TraceSummary) -> str:
    point = trace.recognition_point
    if point is None:
        return ""
    by = [MEASURES[name] for name in trace.recognition.get("measures", [])]
    how = f", by {' and '.join(by)}" if by else ""
    return f"It is separable from other positions {place(point)}, whatever the tokens are{how}."


def place(point: str) -> str:
    """A place in the stream in words: x3: input of block 3, 3.attention: behind its attention."""
    if "." in point:
        block, kind = point.split(".", 1)
        return f"from behind the {sublayer(kind)} of block {block} on"
    return f"from the input of block {point.lstrip('x')} on"


def _writers(trace: TraceSummary) -> str:
    """The sublayer that writes most, and what the named units make together."""
    shares = {name: share for name, share in trace.write_shares.items() if share > 0}
    if not shares:
        return ""
    name, share = max(shares.items(), key=lambda item: item[1])
    who = written_by(name)
    said = f"{who[0].upper()}{who[1:]} writes {percent(share)} of {basis(trace)}"
    groups = [_group("head", trace.writing_heads)]
    neurons = [[*n, s] for n, s in zip(trace.writing_neurons, trace.writing_neuron_shares)]
    groups.append(_group("neuron", neurons))
    made = sorted(filter(None, groups))[::-1]
    if len(made) == 1 and percent(made[0][0]) == percent(share):
        return f"{said}, by {made[0][1]}."
    parts = [f"{percent(share)} by {units}" for share, units in made]
    return f"{said}; {' and '.join(parts)}." if parts else f"{said}."


def basis(trace: TraceSummary) -> str:
    """What the shares of writers are parts of."""
    return trace.named.get("shares_of", "the sink direction")


def _group(kind: str, rows: list) -> tuple[float, str] | None:
    """Share and name of the units of a kind together, from [block, index, share]."""
    if not rows:
        return None
    blocks = ranges([block for block, _, _ in rows])
    where = f"block{'' if blocks.isdigit() else 's'} {blocks}"
    return sum(share for *_, share in rows), f"{counted(len(rows), kind)} ({where})"


def _readers(trace: TraceSummary) -> str:
    heads = trace.reading_heads
    if not heads:
        return "No head reads it: there are no sink heads for position zero."
    blocks = ranges([block for block, _ in heads])
    count = "One sink head reads it" if len(heads) == 1 else f"{len(heads)} sink heads read it"
    return f"{count}, in {'block' if blocks.isdigit() else 'blocks'} {blocks}."


def _spike(trace: TraceSummary) -> str:
    ratio = number_of(trace.spike_ratio)
    if ratio is None:
        return ""
    tried, all_items = trace.spike_vocabulary, trace.vocabulary.get("of")
    of = f" of {tried:,} vocabulary items" if tried else ""
    if tried and all_items and tried < all_items:
        share = trace.vocabulary["ratio"]
        of += f" drawn from {all_items:,} ({percent(share.low)} to {percent(share.high)} of all)"
    return f"Placed at position zero, {percent(ratio)}{of} end on the sink's side of the direction."


def _recognition(trace: TraceSummary) -> str:
    """Where it is recognised, or that it is not."""
    reason = trace.recognition.get("reason")
    if reason:
        return f"Whether it is recognised was not measured: {visible(reason)}."
    return _recognised(trace) or "No measure separates position zero whatever the tokens are."


def _amplification(trace: TraceSummary) -> str:
    """In what it is amplified, how far, and how much of that is written early."""
    how = trace.amplification
    said = f"Amplified in {AMPLIFIED.get(how, visible(how))}" if how else "Not amplified"
    said = f"Observed: {said[0].lower()}{said[1:]}"
    ratio = (trace.emergence.get("norm") or {}).get("largest_ratio")
    if ratio is not None:
        said += f"; its norm is at most {short(ratio)} times the others'"
    early = number_of(trace.concentration.get("2"))
    if early is not None:
        said += f"; the first two blocks make {percent(early)} of the positive output (C₂)"
    return f"{said}."


def _routing(trace: TraceSummary) -> str:
    """Which expert position zero is sent to most, beside the other positions."""
    for block, found in trace.routing.items():
        share = found["p0"]["share"]
        expert = max(range(len(share)), key=lambda one: share[one])
        others = percent(found["others"]["share"][expert])
        return (
            f"In block {block} position zero goes to expert {expert} in {percent(share[expert])} "
            f"of the prompts, other positions in {others}."
        )
    return ""


CONCLUDED = {
    "recognition": _recognition,
    "amplification": _amplification,
    "induction": _readers,
    "routing": _routing,
}


def key_figures(trace: TraceSummary) -> list[tuple[str, str, str]]:
    """The few numbers at the top: value, what it is, what it is compared with."""
    keys = []
    if trace.emergence_block is not None:
        where = str(trace.emergence_block) if trace.emergence_block >= 0 else "embedding"
        what = f"is the block from which on position zero stands apart{_for_good(trace)} (l*)"
        keys.append((where, what, ""))
    second = number_of(trace.concentration.get("2"))
    if second is not None:
        keys.append((percent(second), "is written by the first two blocks (C₂)", ""))
    if trace.k90:
        keys.append((f"{trace.k90:,}", "neurons named as writers", ""))
    if trace.reading_heads:
        keys.append((f"{len(trace.reading_heads):,}", "sink heads read it", ""))
    return keys
