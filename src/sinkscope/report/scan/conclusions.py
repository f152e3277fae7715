"""What each part of a scan comes to, in a sentence that follows from the numbers in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from xarray import Dataset

from sinkscope.detect.attention import SINK
from sinkscope.report import frames
from sinkscope.report.scan.headline import LIMITS
from sinkscope.report.scan.words import classes, elsewhere, strongest_heads, where
from sinkscope.report.text import counted, interval_note, number_of, percent, short
from sinkscope.result import ScanSummary
from sinkscope.stats import nan_mean


def rate(scan: ScanSummary) -> str:
    """The sink rate at the usual bound, with its interval."""
    measured = scan.sink_rate.get(str(SINK))
    if measured is None:
        return "The sink rate was not measured at the usual bound."
    note = interval_note(measured)
    interval = f" ({note})" if note else ""
    return f"Sink rate {percent(number_of(measured))} at ε = {SINK}{interval}."


def heads(scan: ScanSummary, data: Dataset) -> str:
    """How many heads sink; else which one gives position zero most."""
    said, ranked = where(scan, data), strongest_heads(data)
    if said or not ranked:
        return said or "No head gives position zero any late attention."
    block, head, share = ranked[0]
    return f"Head {head} of block {block} gives position zero most: {percent(share)}."


def maps(packed: dict[str, Any]) -> str:
    """How many heads can be looked at, on how many prompts."""
    on = counted(len(packed["tokens"]), "prompt")
    return f"{len(packed['heads'])} of {packed['total']} heads, on {on}."


def received(data: Dataset) -> str:
    """What position zero receives, beside the later position that receives most."""
    curve = nan_mean(nan_mean(data["received"].values, axis=1), axis=0)
    if len(curve) < 2 or not np.isfinite(curve[1:]).any():
        return f"Position zero receives {percent(float(curve[0]))} of the attention, mean head."
    most = int(np.nanargmax(curve[1:])) + 1
    return (
        f"Position zero receives {percent(float(curve[0]))}, the later position that receives most "
        f"(position {most}) {percent(float(curve[most]))}, of all queries that see it, mean head."
    )


def massive(scan: ScanSummary) -> str:
    """Whether there are massive activations by the usual rule."""
    found = scan.massive
    if "rule_met" not in found:
        return "Activations were not read."
    met = "There are massive activations" if found["rule_met"] else "No activation is massive"
    return f"{met} by the usual rule: at most {short(found.get('ratio'))} times the median one."


def reading(data: Dataset) -> str:
    """What sink heads read there; else the norm of position zero's values."""
    said = classes(data)
    if said or not frames.has(data, "value_norm_ratio"):
        return said or "Keys, queries and values were read where the architecture allows it."
    ratio = float(np.nanmedian(data["value_norm_ratio"].values))
    return f"Its value vectors are {short(ratio)} times as long as the median ones, median head."


def elsewhere_mass(data: Dataset) -> str:
    """Mass on sinks that are not position zero."""
    least = percent(LIMITS.elsewhere)
    return elsewhere(data) or f"Nothing but position zero holds {least} or more of the attention."


def blocks(data: Dataset) -> str:
    """The block whose heads give position zero most."""
    means = nan_mean(frames.late_share(data), axis=1)
    if not np.isfinite(means).any():
        return "No late query sees position zero in any block."
    best = int(np.nanargmax(means))
    return (
        f"Highest in block {int(frames.blocks(data)[best])}: {percent(float(means[best]))} of late "
        "attention, mean over its heads."
    )
