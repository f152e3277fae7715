"""What two results differ in: first what was done, then the figures that differ beyond noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sinkscope.causal.thresholds import ALPHA
from sinkscope.report import frames
from sinkscope.report.causal.names import name_of, short_edit
from sinkscope.report.parts import Table
from sinkscope.report.text import as_shown, bounds_of, minus, percent_change, points, short, visible
from sinkscope.result import COMMANDS, Result
from sinkscope.schema import Measured
from sinkscope.stats import difference, holm

Key = tuple[str, ...]  # a key of the summary, level by level, in words
NATS = ("ce change", "kl", "margin", "nats", "logit")  # figures that are no shares, by their key
SHARES = (  # figures that are shown as percentages
    *("share", "rate", "change", "faithfulness", "completeness", "necessity", "left", "total"),
    *("curve", "concentration"),
)
# of a list, what tells its rows apart; lists of other rows are not compared
ROW_KEYS = (("id", "edit"), ("name",), ("stage",), ("length",), ("block",), ("components",))
# keys of the summary that say too little by themselves
WORDS = {
    "sink rate": "sink rate at ε =",
    "sink rate after 2": "sink rate of blocks 2 and up at ε =",
    "from direction": "from the sink direction alone",
    "necessity": "change of the sink without it",
    "total": "change of the sink without it, in all",
    "sufficiency": "nats that another position gains",
    "mediation": "part that passes through the next stage",
    "sink change": "change of the sink, in all",
    "key change": "change of the sink through P0's key",
    "others change": "change of the sink through other positions",
    "control change": "change of the sink under its control",
    "control key change": "change of the sink through P0's key under its control",
    "margin change": "change of the sink margin (nats)",
    "control margin change": "change of the sink margin under its control (nats)",
    "ce change": "change of the loss (nats a token)",
    "kl": "KL (nats)",
    "reading heads late share": "late share of the sink heads",
    "random": "faithfulness of random sets",
    "margins": "sink margin (nats)",
}
ROW_WORDS = {"components": "circuit of units:"}
MOST = 12  # rows
LABELS = frames.POLICIES.values()


def done_differently(result: Result, other: Result) -> str:
    """What of model, prompts, settings and environment is not the same, in one sentence."""
    mine, theirs = result.summary, other.summary
    told: list[str] = []
    if mine.model.weights_sha256 != theirs.model.weights_sha256:
        told.append(f"model ({visible(mine.model.id)} and {visible(theirs.model.id)})")
    shared = [bos for bos in mine.prompts.sha256 if bos in theirs.prompts.sha256]
    changed = [bos for bos in shared if mine.prompts.sha256[bos] != theirs.prompts.sha256[bos]]
    if changed or not shared:
        told.append("prompts")
    held = (_settings(mine.command), _settings(theirs.command))
    for name in held[0]:  # what one of them alone is asked for is another command, told below
        here, there = (_setting(each.get(name)) for each in held)
        if name in held[1] and here != there:
            told.append(f"{name} ({here} and {there})")
    done = [[name for name in COMMANDS if getattr(each, name)] for each in (mine, theirs)]
    if done[0] != done[1]:
        told.append(f"commands ({' + '.join(done[0])} and {' + '.join(done[1])})")
    used = [each.environment.model_dump() for each in (mine, theirs)]
    for name, value in used[0].items():
        if value != used[1].get(name) and name not in ("platform", "seed"):
            told.append(f"{name} ({visible(value)} and {visible(used[1].get(name))})")
    same = "The two runs are of the same model, prompts and settings."
    return f"The two runs differ in {', '.join(told)}." if told else same


def _setting(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else visible(value)


def run_names(*results: Result) -> list[str]:
    """What runs are called side by side: by their models, where these tell them apart."""
    names = [frames.model_name(result).rsplit("/", 1)[-1] for result in results]
    if len(set(names)) == len(names):
        return names
    return ["This run", *(["Other run"] if len(names) == 2 else map(run_name, results[1:]))]


def run_name(result: Result) -> str:
    """Model id, revision and number format of a run."""
    return f"{frames.model_name(result)} ({visible(result.summary.environment.dtype)})"


def _settings(command: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run by name; of several merged commands the first that has one."""
    found: dict[str, Any] = {}
    for name, value in command.items():
        if isinstance(value, dict):
            found = _settings(value) | found
        elif name != "name":
            found.setdefault(name, value)
    return found


def beyond_noise(result: Result, other: Result) -> tuple[Table, str]:
    """Figures whose difference lies beyond noise, largest first, and how many were compared.

    A difference has the interval of `stats.difference`. Of N figures some differ by chance, so its
    p (normal, from that interval) is adjusted over all of them (Holm) and held against ALPHA.
    """
    mine, theirs = (dict(figures(one)) for one in (result, other))
    bound = shared_policies(result, other)
    shared = [key for key in mine if key in theirs]
    changes = {key: difference(mine[key], theirs[key]) for key in shared}
    known = [key for key in shared if changes[key].low is not None]
    adjusted = dict(zip(known, holm([_p(changes[key]) for key in known])))
    told = [key for key in known if (adjusted[key] or 0.0) < ALPHA]
    told.sort(key=lambda key: _p(changes[key]))
    table = Table("Differences beyond noise", ["Figure", *run_names(result, other), "Difference"])
    table.numeric = {1, 2, 3}
    for key in told[:MOST]:
        values = [each[key].value or 0.0 for each in (mine, theirs)]
        said = _said(key if len(bound) > 1 else tuple(one for one in key if one not in LABELS))
        table.rows.append([said, *map(_show(key), values), _difference(_show(key), *values)])
    of = f"of {len(known)} figures that both have with an interval (p < {ALPHA}, Holm)"
    policies = frames.policies(result) + frames.policies(other)
    apart = "The two runs share no BOS policy, so " if policies and not bound else ""
    if not known:
        said = f"{apart}nothing is compared." if apart else ""
        return table, said or "No figure has an interval in both runs."
    if apart:
        apart += f"only {', '.join(dict.fromkeys(key[0] for key in known))} is compared. "
    if not told:
        return table, f"{apart}No difference lies beyond noise, {of}."
    count = "1 differs" if len(told) == 1 else f"{len(told)} differ"
    rest = f"; the {MOST} clearest are shown" if len(told) > MOST else ""
    return table, f"{apart}{count} beyond noise, {of}{rest}."


def shared_policies(result: Result, *others: Result) -> list[str]:
    """BOS policies of all runs."""
    found = frames.policies(result)
    return [bos for bos in found if all(bos in frames.policies(other) for other in others)]


def figures(result: Result) -> Iterator[tuple[Key, Measured]]:
    """Every figure of a summary with an interval, by its key in words, its BOS policy in it."""
    for name in COMMANDS:
        held = getattr(result.summary, name)
        if hasattr(held, "model_dump"):
            yield from _figures(held.model_dump(), (name,))
            continue
        for panel, one in (held or {}).items():
            yield from _figures(one.model_dump(), (name, frames.label(panel)))


def _figures(value: Any, key: Key) -> Iterator[tuple[Key, Measured]]:
    if isinstance(value, dict):
        if {"value", "low", "high"} <= value.keys():
            if value["value"] is not None and value["low"] is not None:
                yield key, Measured(**{name: value[name] for name in ("value", "low", "high")})
            return
        if key[-1].endswith("by type") and len(value) == 1:
            return  # the one type there is says what the figure without types says
        for name, each in value.items():
            yield from _figures(each, (*key, visible(name).replace("_", " ")))
    elif isinstance(value, list):
        for row in value:
            if isinstance(row, dict) and (named := _row_name(row)):
                yield from _figures(row, (*key[:-1], named))


def _row_name(row: dict[str, Any]) -> str:
    for names in ROW_KEYS:
        if all(row.get(name) is not None for name in names):
            if names == ("id", "edit"):
                return f"{name_of(row['id'])}, {short_edit(row['edit'], 0)}"
            word = "" if names == ("name",) else f"{ROW_WORDS.get(names[0], names[0])} "
            return f"{word}{visible(row[names[0]])}"
    return ""


def _p(change: Measured) -> float:
    """Two-sided p of a difference being zero, normal, from its interval on the side of zero."""
    from scipy.stats import norm

    value, (low, high) = change.value or 0.0, bounds_of(change) or (0.0, 0.0)
    wide = abs(value - (low if value > 0 else high))
    if wide == 0.0:
        return 0.0 if value else 1.0
    return float(2 * norm.sf(abs(value) / wide * norm.isf(0.025)))


def _show(key: Key) -> Callable[[float | None], str]:
    """How a figure is shown: shares as percentages."""
    if any(word in " ".join(key[-2:]) for word in NATS):
        return _plain
    return percent_change if any(word in " ".join(key[1:]) for word in SHARES) else _plain


def _plain(value: float | None) -> str:
    return minus(short(value))


def _difference(show: Callable[[float | None], str], left: float, right: float) -> str:
    """Left minus right, of both as they are shown; of shares in points."""
    if show is percent_change:
        return f"{points(as_shown(left, True) - as_shown(right, True))} points"
    change = as_shown(left) - as_shown(right)
    return f"+{show(change)}" if change > 0 else show(change)


def _said(key: Key) -> str:
    """A key in words; a threshold stands behind what it is of."""
    said = [WORDS.get(name, name) for name in key]
    return ": ".join(said).replace("=: ", "= ")
