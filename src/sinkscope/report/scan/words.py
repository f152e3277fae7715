"""The verdict so far, in plain sentences: what a scan shows, against which null, and what not.

A scan observes and changes nothing, so no sentence here names a circuit or a cause.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from xarray import Dataset

from sinkscope.detect.attention import SINK
from sinkscope.report import frames
from sinkscope.report.text import number_of, percent, percent_interval, ranges, short, visible
from sinkscope.result import ScanSummary
from sinkscope.stats import nan_mean


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
NOT_SHOWN = (
    "A scan observes and changes nothing. It does not show which parts of the model make the "
    "sink, nor that any pattern shown here causes it: that takes causal tests, which are "
    "not part of a scan."
)


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


def heads_above_random(data: Dataset) -> float | None:
    """Share of heads that give P0 more than the 99th percentile of random target positions."""
    if not frames.has(data, "random_target_p99"):
        return None
    share, bound = frames.late_share(data), np.asarray(data["random_target_p99"].values)
    seen = np.isfinite(share) & np.isfinite(bound)
    return float((share[seen] > bound[seen]).mean()) if seen.any() else None


def strongest_heads(data: Dataset) -> list[tuple[int, int, float]]:
    """(block, head, late share) of every head that gives P0 something, strongest first."""
    return _named(data, np.nan_to_num(frames.late_share(data)) > 0)


def sink_heads(data: Dataset) -> list[tuple[int, int, float]] | None:
    """(block, head, late share) of the heads that sink, strongest first; None if not told."""
    sinking = sinking_layers(data)
    return None if sinking is None else _named(data, sinking)


def sinking_layers(data: Dataset) -> np.ndarray | None:
    """[layer, head] which heads sink at P0, as `detect` found; None where that is not told."""
    return data["sinking"].values > 0 if frames.has(data, "sinking") else None


def _named(data: Dataset, chosen: np.ndarray) -> list[tuple[int, int, float]]:
    share, blocks = frames.late_share(data), frames.blocks(data)
    found = [(int(blocks[i]), int(h), float(share[i, h])) for i, h in np.argwhere(chosen)]
    return sorted(found, key=lambda item: -item[2])


def verdict_so_far(scan_summary: ScanSummary, dataset: Dataset) -> list[str]:
    """What the scan of one BOS policy shows, as sentences; the first is the headline."""
    parts = (
        _headline(scan_summary),
        _by_type(scan_summary),
        _nulls(dataset),
        _where(scan_summary, dataset),
        _what_sits_there(scan_summary),
        _stream(dataset),
        _elsewhere(dataset),
        _classes(dataset),
        _unread(dataset),
        _unmeasured(scan_summary),
        NOT_SHOWN,
    )
    return [part for part in parts if part]


def _headline(scan: ScanSummary) -> str:
    kind, share = strength(scan), number_of(scan.late_share)
    if kind == "unknown":
        return "Whether position zero is a sink cannot be said: no late query sees it."
    words = {
        "sink": "Position zero is an attention sink",
        "few": "Position zero is an attention sink, in a few heads",
        "elsewhere": f"Position zero is no attention sink, but {_held_elsewhere(scan)}",
        "more": "Position zero draws more than even attention would give it, but is no sink",
        "none": "Position zero is no attention sink, nor is anything else",
    }
    said = words[kind] + _how(scan)
    if share is None or not scan.uniform_late_share:
        return f"{said}; no late query sees position zero."
    interval = percent_interval(scan.late_share)
    interval = f" (95\u00a0% interval {interval}\u00a0%)" if interval else ""
    times = short(share / scan.uniform_late_share)
    return (
        f"{said}: later queries give it {percent(share)} of their attention{interval}, "
        f"{times} times the {percent(scan.uniform_late_share)} of uniform attention."
    )


def _how(scan: ScanSummary) -> str:
    """What must be said beside it: weak, in part of the prompts, with other positions."""
    if not scan.p0_sink:
        return ""
    found, parts = scan.sink, []
    if "weak" in found["words"]:
        parts.append(f"a weak one (no head gives it more than {_round_percent(SINK)})")
    if "part of the prompts" in found["words"]:
        parts.append(f"in {found['prompts']} prompts only")
    others = [place for place in found["positions"] if place]
    if others:
        parts.append(f"together with {_plural('position', ranges(others))} {ranges(others)}")
    return "".join(f", {part}" for part in parts)


def _held_elsewhere(scan: ScanSummary) -> str:
    found = scan.sink
    heads = f"{found['heads']} heads sink" if found["heads"] > 1 else "one head sinks"
    if found["kind"] == "learned":
        return f"{heads} on a learned logit, which is no position"
    if found["kind"] == "positions":
        at = ranges(found["positions"])
        return f"{heads} at {_plural('position', at)} {at}"
    return f"{heads} at tokens wherever they stand ({', '.join(map(visible, found['tokens']))})"


def _by_type(scan: ScanSummary) -> str:
    """Late share by kind of attention, where there is more than one."""
    by_type = scan.late_share_by_type
    if len(by_type) < 2:
        return ""
    shown = [f"{visible(kind)} {percent(number_of(share))}" for kind, share in by_type.items()]
    return f"By kind of attention: {', '.join(shown)}."


def _nulls(data: Dataset) -> str:
    parts = []
    above = heads_above_random(data)
    if above is not None:
        count = f"{percent(above)} of the heads give" if above else "No head gives"
        parts.append(
            f"{count} it more late attention than the 99th percentile of random keys that the same "
            "queries see (1\u00a0% would by chance)"
        )
    if frames.has(data, "untrained_late"):
        untrained = np.asarray(data["untrained_late"].values, dtype=np.float64)
        means = nan_mean(untrained, axis=(1, 2))
        seeds = f"{len(means)} seeds" if len(means) > 1 else "one seed"
        most = percent(float(np.nanmax(means)))
        parts.append(f"the same architecture untrained ({seeds}) gives it at most {most}")
    return _sentence("; ".join(parts))


def _where(scan: ScanSummary, data: Dataset) -> str:
    found = sink_heads(data)
    total = int(np.isfinite(frames.late_share(data)).sum())
    if found is None:
        return ""
    least = f"more than {_round_percent(SINK)} of its late attention"
    if not found:
        return f"No head sinks at it (gives it {least}, and more than its nulls)."
    if {"weak", "part of the prompts"} & set(scan.sink["words"]):
        least = f"more than {_round_percent(found[-1][2])} of its late attention"
    in_blocks = ranges([block for block, _, _ in found])
    return (
        f"{len(found)} of {total} heads are sinks (give it {least}, and more than their nulls), "
        f"in {_plural('block', in_blocks)} {in_blocks}."
    )


def _round_percent(value: float) -> str:
    return f"{100 * value:.0f}\u00a0%"


def _plural(word: str, shown: str) -> str:
    return word if shown.isdigit() else f"{word}s"


def _what_sits_there(scan: ScanSummary) -> str:
    """`position_zero` holds entries such as `'<s>' × 64`, most frequent first."""
    tokens = scan.position_zero
    if not tokens:
        return ""
    names = ", ".join(visible(token, 32) for token in tokens[:4])
    if len(tokens) == 1:
        return f"Every prompt has the same token at position zero: {names}."
    return f"Prompts have different tokens at position zero, most often {names}."


def _stream(data: Dataset) -> str:
    parts = []
    if frames.has(data, "norm_ratio"):
        parts.append(_norm(data))
    if frames.has(data, "p0_cosine"):
        parts.append(_direction(data))
    return _sentence("; ".join(parts))


def _norm(data: Dataset) -> str:
    ratio = frames.nanmedian(data["norm_ratio"].values, axis=0)
    peak = int(np.nanargmax(ratio))
    if ratio[peak] < LIMITS.norm_rise:
        return (
            "its residual stream is not amplified in norm "
            f"(at most {short(ratio[peak])} times the median token's)"
        )
    points = data["point"].values
    return (
        f"its residual stream is up to {short(ratio[peak])} times as long as the median "
        f"token's ({_at(int(points[peak]), int(points[-1]))})"
    )


def _direction(data: Dataset) -> str:
    cosine = np.asarray(data["p0_cosine"].values, dtype=np.float64)
    peak = int(np.nanargmax(cosine))
    where = _at(int(data["point"].values[peak]), int(data["point"].values[-1]))
    if cosine[peak] >= LIMITS.same_direction:
        return (
            "its direction becomes nearly the same whatever the first token is "
            f"(mean cosine {cosine[peak]:.2f} {where})"
        )
    return (
        "its direction keeps depending on the first token "
        f"(mean cosine at most {cosine[peak]:.2f}, {where})"
    )


def _at(point: int, last: int) -> str:
    return "at the output of the last block" if point == last else f"at the input of block {point}"


def _elsewhere(data: Dataset) -> str:
    parts: list[str] = []
    labels = {
        "elsewhere_mass": "of the attention goes to sinks away from position zero",
        "learned_mass": "goes to a learned sink, which is no position",
    }
    for name, label in labels.items():
        if not frames.has(data, name):
            continue
        share = float(nan_mean(data[name].values, None))
        if share >= LIMITS.elsewhere:
            parts.append(f"{percent(share)} {label}")
    return _sentence("; ".join(parts))


def _classes(data: Dataset) -> str:
    if not frames.has(data, "head_class"):
        return ""
    classes = np.asarray(data["head_class"].values, dtype=int)
    counts: dict[str, Any] = {
        name: int((classes == number).sum()) for number, name in enumerate(frames.HEAD_CLASSES)
    }
    sinks = sum(counts[name] for name in frames.HEAD_CLASSES[1:])
    if not sinks:
        return ""
    return (
        f"Of {sinks} sink heads, {counts['no-op']} read next to nothing at position zero (no-op), "
        f"{counts['broadcast']} hand one vector to every position (broadcast) and "
        f"{counts['undecided']} lie between the thresholds."
    )


def _unread(data: Dataset) -> str:
    missing = ~np.isfinite(frames.late_share(data)).any(axis=1)
    if not missing.any():
        return ""
    shown = ranges([int(block) for block in frames.blocks(data)[missing]])
    return (
        f"In {_plural('block', shown)} {shown} no late query can see position zero, "
        "because it lies outside the attention window."
    )


def _unmeasured(scan: ScanSummary) -> str:
    reason = scan.massive.get("reason")
    return f"The residual stream was not read: {visible(reason)}." if reason else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." if text else ""
