"""The verdict so far, in plain sentences: what a scan shows, against which null, and what not.

A scan observes and changes nothing, so no sentence here names a circuit or a cause.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from xarray import Dataset

from sinkscope.detect.attention import SINK
from sinkscope.report import frames
from sinkscope.report.scan.headline import LIMITS, headline, held, plural, round_percent
from sinkscope.report.text import number_of, percent, ranges, short, visible
from sinkscope.result import ScanSummary
from sinkscope.stats import nan_mean

NOT_SHOWN = (
    "A scan observes and changes nothing. It does not show which parts of the model make the "
    "sink, nor that any pattern shown here causes it: that takes causal tests, which are "
    "not part of a scan."
)


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
        headline(scan_summary),
        _by_type(scan_summary),
        _nulls(dataset),
        where(scan_summary, dataset),
        _what_sits_there(scan_summary),
        stream(dataset),
        elsewhere(dataset),
        classes(dataset),
        _unread(dataset),
        _unmeasured(scan_summary),
        NOT_SHOWN,
    )
    return [part for part in parts if part]


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


def where(scan: ScanSummary, data: Dataset) -> str:
    """How many heads sink at P0, and in which blocks; empty where that is not told."""
    found = sink_heads(data)
    total = int(np.isfinite(frames.late_share(data)).sum())
    if found is None or scan.p0_sink is None:
        return ""
    least = f"more than {round_percent(SINK)} of its late attention"
    if not found:
        return f"No head sinks at it (gives it {least}, and more than its nulls)."
    if {"weak", "part of the prompts"} & set(scan.sink["words"]):
        least = f"more than {round_percent(found[-1][2])} of its late attention"
    in_blocks = ranges([block for block, _, _ in found])
    beside = "; ".join(held(one, "other ") for one in scan.beside)
    return (
        f"{len(found)} of {total} heads are sinks (give it {least}, and more than their nulls), "
        f"in {plural('block', in_blocks)} {in_blocks}.{beside and f' Beside them, {beside}.'}"
    )


def _what_sits_there(scan: ScanSummary) -> str:
    """`position_zero` holds entries such as `'<s>' × 64`, most frequent first."""
    tokens = scan.position_zero
    if not tokens:
        return ""
    names = ", ".join(visible(token, 32) for token in tokens[:4])
    if len(tokens) == 1:
        return f"Every prompt has the same token at position zero: {names}."
    if tokens[0].endswith(frames.ONCE):
        return "No two prompts have the same token at position zero."
    return f"Prompts have different tokens at position zero, most often {names}."


def stream(data: Dataset) -> str:
    """Norm and direction of position zero's residual stream."""
    parts = []
    if frames.has(data, "norm_ratio"):
        parts.append(_norm(data))
    if frames.has(data, "p0_cosine"):
        parts.append(_direction(data))
    return _sentence("; ".join(parts))


def _norm(data: Dataset) -> str:
    ratio = frames.norm_ratio(data)
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


def elsewhere(data: Dataset) -> str:
    """What sinks away from position zero hold, where it is worth a sentence."""
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


def classes(data: Dataset) -> str:
    """What the sink heads read at position zero; empty without any, or where it is not known."""
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
        f"Of {sinks} sink head{'' if sinks == 1 else 's'}, "
        f"{_do(counts['no-op'], 'read')} next to nothing at position zero (no-op), "
        f"{_do(counts['broadcast'], 'hand')} one vector to every position (broadcast) and "
        f"{_do(counts['undecided'], 'lie')} between the thresholds."
    )


def _do(count: int, verb: str) -> str:
    return f"{count} {verb}{'s' if count == 1 else ''}"


def _unread(data: Dataset) -> str:
    missing = ~np.isfinite(frames.late_share(data)).any(axis=1)
    if not missing.any():
        return ""
    shown = ranges([int(block) for block in frames.blocks(data)[missing]])
    return (
        f"In {plural('block', shown)} {shown} no late query can see position zero, "
        "because it lies outside the attention window."
    )


def _unmeasured(scan: ScanSummary) -> str:
    reason = scan.massive.get("reason")
    return f"The residual stream was not read: {visible(reason)}." if reason else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." if text else ""
