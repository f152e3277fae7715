"""Draws counted: what was found of what was written, the intervals that hold, and the floors."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

# Preferring the farthest key sets nothing apart in any block; and where either of two carriers is
# enough, the sink stays without the one that has writers, so that none is named.
WITHOUT_BLOCK = ("rotary-distance", "p0-or-bos")
MEASURED = ("sink rate", "necessity", "sufficiency")  # what has intervals
# floor name -> (bound, whether the value must be at least it)
FLOORS = {
    "verdict": (0.97, True),
    "decoy called p0-circuit": (0.01, False),
    "emergence block": (0.98, True),
    "recognition within one read point": (0.97, True),
    "neuron precision": (0.95, True),
    "neuron recall": (0.95, True),
    "head precision": (0.97, True),
    "head recall": (0.97, True),
    "writing expert": (0.98, True),
    "phases": (0.97, True),
    "control significant": (0.05, False),
    **{
        f"{what} {how}, {end}": bound
        for what in MEASURED
        for how in ("covered", "resampled")
        for end, bound in (("least", (0.93, True)), ("most", (0.97, False)))
    },
    "attribution error": (1e-4, False),
}


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of floors; intervals with any spread apart from those without."""
    good = [draw for draw in draws if "error" not in draw]
    tested = [draw for draw in good if "verdict" in draw]
    decoys = [draw for draw in tested if draw["verdict"][1] != "p0-circuit"]
    placed = [draw for draw in good if draw["mechanism"] not in WITHOUT_BLOCK]
    routed = [draw for draw in good if draw["mechanism"] == "p0-expert"]
    errors = [d["attribution_error"] for d in good if d["attribution_error"] is not None]
    controls = [flag for draw in tested for _, flag in draw["controls"]]
    values: dict[str, Any] = {
        "draws": len(draws),
        "broken": len(draws) - len(good),
        "verdict": _share(draw["verdict"][0] == draw["verdict"][1] for draw in tested),
        "decoy called p0-circuit": _share(d["verdict"][0] == "p0-circuit" for d in decoys),
        "emergence block": _share(draw["emergence"][0] == draw["emergence"][1] for draw in placed),
        "recognition within one read point": _share(
            draw["recognised"] for draw in good if draw["recognised"] is not None
        ),
        **_precision_recall("neuron", [draw["neurons"] for draw in placed]),
        **_precision_recall("head", [draw["heads"] for draw in good]),
        "writing expert": _share(draw["experts"][1:] == [0, 0] for draw in routed),
        "phases": _share(not d["phases"] for d in good if d.get("phases") is not None),
        "control significant": _share(controls),
        "attribution error": max(errors, default=None),
    }
    covered, resampled = defaultdict(list), defaultdict(list)
    for draw in tested:
        for row in draw["intervals"]:
            covered[row["what"], row["spread"]].append(row["held"])
            if row["spread"]:
                resampled[row["what"]].append(row["resampled"])
    values["intervals that hold the truth"] = {
        f"{what} ({'with spread' if spread else 'no spread'})": [_share(flags), len(flags)]
        for (what, spread), flags in sorted(covered.items())
    }
    for what in MEASURED:
        share = _share(covered[what, True])
        values[f"{what} covered, least"] = values[f"{what} covered, most"] = share
        share = _share(resampled[what])
        values[f"{what} resampled, least"] = values[f"{what} resampled, most"] = share
    values["mean seconds"] = float(np.mean([draw["seconds"] for draw in draws]))
    return values


def _share(flags: Any) -> float | None:
    """Share of True, or mean of shares."""
    flags = list(flags)
    return sum(flags) / len(flags) if flags else None


def _precision_recall(name: str, counts: list[list[int]]) -> dict[str, float | None]:
    right, wrong, missed = np.sum(counts, 0).tolist() if counts else (0, 0, 0)
    return {
        f"{name} precision": right / (right + wrong) if right + wrong else None,
        f"{name} recall": right / (right + missed) if right + missed else None,
    }


def missed_floors(values: dict[str, Any]) -> list[str]:
    """Floors that these values do not meet."""
    missed = ["some draws broke"] if values["broken"] else []
    for name, (bound, at_least) in FLOORS.items():
        value = values[name]
        if value is not None and (value < bound if at_least else value > bound):
            missed.append(f"{name}: {value:.4g}, floor {bound:g}")
    return missed


def table(values: dict[str, Any], draws: list[dict[str, Any]]) -> str:
    lines = [f"{name:40} {value}" for name, value in values.items() if not isinstance(value, dict)]
    for name, (share, count) in values["intervals that hold the truth"].items():
        lines.append(f"intervals hold: {name:24} {share:.3f} of {count}")
    wrong = Counter(
        (d["mechanism"], *d["verdict"])
        for d in draws
        if "verdict" in d and d["verdict"][0] != d["verdict"][1]
    )
    lines += [
        f"{mechanism}: {ours} instead of {truth}, {n} times"
        for (mechanism, ours, truth), n in sorted(wrong.items())
    ]
    lines += [
        f"seed {d['seed']} {d['mechanism']}: {', '.join(d['phases'])}"
        for d in draws
        if d.get("phases")
    ]
    lines += [f"seed {d['seed']} {d['mechanism']}: {d['error']}" for d in draws if "error" in d]
    return "\n".join(lines)
