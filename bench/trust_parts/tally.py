"""Draws counted: how often each answer is right, what was mistaken for what, and the floors."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from trust_parts.families import DECOYS

WRONG_KEPT = 60
# floor -> (least, most)
FLOORS: dict[str, tuple[float, float]] = {
    "verdict": (0.99, 1.0),
    "decoy called p0-circuit": (0.0, 0.0),
    "circuit": (0.97, 1.0),
    "recognition": (0.97, 1.0),
    "scan": (0.97, 1.0),
    "network without a sink called anything else": (0.0, 0.01),
    "few prompts: not wrong": (1.0, 1.0),
    "few prompts: says how many": (1.0, 1.0),
    "few prompts: that suffices": (0.95, 1.0),
    "timeline: emergence": (0.95, 1.0),
    "timeline: settling": (1.0, 1.0),
    "use of the sink": (0.97, 1.0),
    "interval, part of the prompts": (0.93, 0.97),
    "interval, few documents": (0.93, 0.97),
    "broken": (0.0, 0.0),
}


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares, counts by mechanism, the confusion of verdicts, and what few prompts need."""
    good = [draw for draw in draws if "error" not in draw and draw.get("known", True)]
    by_part = defaultdict(list)
    for draw in good:
        by_part[draw["part"]].append(draw)
    families, few = by_part["families"], by_part["prompts"]
    decoys = [draw for draw in families if draw["kind"] in DECOYS]
    networks = by_part["networks"]
    runs = [draw for draw in by_part["timelines"] if draw["foreseen"]]
    advised = [draw for draw in by_part["intervals"] if not draw["warned"]]
    values: dict[str, list] = {
        **{name: _right(families, name) for name in ("verdict", "circuit", "recognition", "scan")},
        "decoy called p0-circuit": _count(d["said"]["verdict"] == "p0-circuit" for d in decoys),
        "network without a sink called anything else": _count(
            not draw["right"]["verdict"] for draw in networks
        ),
        **{
            f"few prompts: {name}": _right(few, name)
            for name in ("not wrong", "says how many", "that suffices")
        },
        **{f"timeline: {name}": _right(runs, name) for name in ("emergence", "settling")},
        "use of the sink": _right(by_part["uses"], "use"),
        **{
            f"interval, {kind}": _right([d for d in advised if d["kind"] == kind], "held")
            for kind in ("part of the prompts", "few documents")
        },
        "broken": _count("error" in draw for draw in draws),
    }
    return {
        "values": values,
        "by_kind": _by_kind(good),
        "confusion": _confusion(families, networks),
        "few_prompts": _few(few),
        "not_shown": sum(not draw.get("shown", True) for draw in by_part["intervals"]),
        "asked_again": sum(draw.get("asked again") is not None for draw in families),
        "unknown": sum(not draw.get("known", True) for draw in draws),
        "wrong": _wrong(draws),
        "seconds": {
            part: _mean([d["seconds"] for d in each]) for part, each in by_part.items() if each
        },
    }


def missed_floors(values: dict[str, Any]) -> list[str]:
    """Floors that these values do not meet; a value of no draws meets none and misses none."""
    missed = []
    for name, (least, most) in FLOORS.items():
        hits, of = values["values"][name]
        if of and not least <= hits / of <= most:
            missed.append(f"{name}: {hits} of {of}, floor {least:g} to {most:g}")
    return missed


def table(values: dict[str, Any]) -> str:
    """What a terminal shows."""
    lines = [f"{name:46} {hits} of {of}" for name, (hits, of) in values["values"].items()]
    lines += [
        f"  {kind:28} " + ", ".join(f"{name} {hits}/{of}" for name, (hits, of) in rows.items())
        for kind, rows in values["by_kind"].items()
    ]
    lines += [
        f"due {due}, said {said}: {n}" for due, said, n, _ in values["confusion"] if due != said
    ]
    return "\n".join([*lines, *(str(row) for row in values["wrong"])])


def _right(draws: list[dict[str, Any]], name: str) -> list[int]:
    return _count(draw["right"][name] for draw in draws if name in draw["right"])


def _count(flags: Any) -> list[int]:
    flags = [bool(flag) for flag in flags]
    return [sum(flags), len(flags)]


def _by_kind(draws: list[dict[str, Any]]) -> dict[str, dict[str, list[int]]]:
    kinds: dict[str, list] = defaultdict(list)
    for draw in draws:
        kinds[f"{draw['part']}: {draw['kind']}"].append(draw)
    return {
        kind: {name: _right(each, name) for name in _names(each)}
        for kind, each in sorted(kinds.items())
    }


def _names(draws: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for draw in draws for name in draw["right"]))


def _confusion(families: list[dict], networks: list[dict]) -> list[list]:
    kinds: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for draw in families:
        kinds[draw["due"]["verdict"], draw["said"]["verdict"]][draw["kind"]] += 1
    for draw in networks:
        kinds["none", draw["said"]["verdict"]][draw["kind"]] += 1
    return [
        [*pair, each.total(), ", ".join(f"{kind} {n}" for kind, n in sorted(each.items()))]
        for pair, each in sorted(kinds.items())
    ]


def _few(draws: list[dict[str, Any]]) -> list[list]:
    """Of each verdict and number of prompts: right, undetermined and wrong."""
    counts: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for draw in draws:
        said = draw["said"]["verdict"]
        which = 0 if said == draw["due"] else 1 if draw["right"]["not wrong"] else 2
        counts[draw["due"], draw["n"]][which] += 1
    return [[*key, *each] for key, each in sorted(counts.items())]


def _wrong(draws: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for draw in draws:
        wrong = [name for name, right in draw.get("right", {}).items() if not right]
        if "error" in draw or (wrong and draw.get("known", True)):
            row = {k: draw.get(k) for k in ("part", "kind", "seed", "error") if draw.get(k)}
            said = draw.get("said", {})
            rows.append(row | {"wrong": wrong, "said": said.get("verdict")})
    return rows[:WRONG_KEPT]


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 2)
