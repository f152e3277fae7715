"""What `mix` says in words and tables: for the terminal and the top of its section."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sinkscope.report.mixing import charts as mixing_charts
from sinkscope.report.mixing.curves import mediated_changes
from sinkscope.report.parts import Findings, Table, table_of
from sinkscope.report.text import (
    NO_VALUE,
    bounds_of,
    minus,
    number_of,
    percent,
    percent_interval,
    short,
    visible,
)
from sinkscope.schema import MixRow, MixSummary

LIMIT = (
    "What is taken away here was there in training: a loss that rises says that this model uses "
    "its sink, not that a model without one would be worse."
)
AGREE = 0.1  # two ways to count a mediated share that differ by more are no share
UNIT = "\u00a0%"


def findings_of(one: MixSummary) -> Findings:
    """Sentences, key numbers and notes under one BOS policy."""
    headline, *sentences = _verdicts(one)
    return Findings(
        headline,
        [*sentences, *(sentence for say in SAID if (sentence := say(one)))],
        _keys(one),
        LIMIT,
        [visible(note) for note in one.notes],
    )


SPREAD = {
    "more": "Without its sink, {moved} {amount} more",
    "less": "Without its sink, {moved} {amount} less",
    "no different": "Without its sink, {moved} no further",
    "undetermined": "Whether {moved} further without the sink is open",
}


def _verdicts(one: MixSummary) -> list[str]:
    """Whether the loss needs the sink, and whether a change spreads further without it."""
    removed, zeroed = _row_of(one, "redistributed"), _row_of(one, "value-zeroed")
    if not one.sink_heads or removed is None or zeroed is None:
        return [one.sentence]
    change = number_of(removed.spread_change)
    amount = NO_VALUE if change is None else f"{abs(change):.1%}"
    moved = "a changed token moves later states"
    return [
        one.sentence,
        "Removing attention to P0 and renormalising changes the loss by "
        f"{_nats(removed.ce_change)}, zeroing its value by {_nats(zeroed.ce_change)}.",
        f"{SPREAD[one.mixing].format(moved=moved, amount=amount)}.",
    ]


def spread_said(one: MixSummary) -> str:
    """Whether a change travels further without the sink."""
    said = _verdicts(one)
    return said[-1] if len(said) > 1 else "Without a sink there is nothing to take away."


def collapse_said(one: MixSummary) -> str:
    """The effective rank of the stream with the sink and without it."""
    told = [
        f"{short(rank)} {words}"
        for name, words in (("intact", "with the sink"), ("redistributed", "without it"))
        if number_of(rank := one.effective_rank.get(name)) is not None
    ]
    return f"Effective rank, mean over depth: {', '.join(told)}." if told else ""


def sweeps_said(one: MixSummary) -> str:
    """What the sink does to the spread at the shortest and the longest length, with intervals."""
    if len(one.length) < 2:
        return "One block at a time."
    ends = [one.length[0], one.length[-1]]
    told = [f"{_with_interval(row['spread_change'])} at {row['length']:,} tokens" for row in ends]
    return f"Without the sink the spread changes by {' and by '.join(told)}."


def _nats(measured: Any) -> str:
    if number_of(measured) is None:
        return "an unknown amount"
    bounds = _bounds(measured, _signed)
    return f"{_signed(measured)} nats a token" + (f" ({bounds})" if bounds else "")


def _predictions(one: MixSummary) -> str:
    taken = _row_of(one, "redistributed")
    if taken is None or not one.sink_heads or number_of(taken.kl) is None:
        return ""
    return f"Its predictions then move by {short(taken.kl)} nats (KL)."


def _mediation(one: MixSummary) -> str:
    """A share of the whole where it is one; else each part as a change of its own."""
    share = number_of(one.mediation.get("share"))
    other = number_of(one.mediation.get("share_by_direct"))
    if share is None or other is None:
        return ""
    add_up = abs(other - share) <= AGREE
    if add_up and 0 <= share <= 1:
        bounds = percent_interval(one.mediation["share"])
        return (
            f"Of what ablating the circuit does to mixing, {percent(share)} ({bounds}\u00a0%) goes "
            "through the attention that position zero draws."
        )
    total, through, direct = map(_with_interval, mediated_changes(one).values())
    end = "work against each other" if add_up else "interact and do not add up to the whole"
    return (
        f"Ablating the circuit changes the spread by {total}: by {through} where only the "
        f"attention on position zero changes, by {direct} where all else does. The two {end}."
    )


def _paraphrases(one: MixSummary) -> str:
    if not one.paraphrases:
        return ""
    change = one.paraphrases["spread_change"]["redistributed"]
    return (
        f"Paraphrases ({one.paraphrases['n']} pairs): without the sink their difference spreads "
        f"{_with_interval(change)}."
    )


def _checks(one: MixSummary) -> str:
    said = []
    if one.theorem:
        holds = "holds" if one.theorem.get("holds") else "is violated"
        said.append(
            f"the spectral bound of Queipo-de-Llano et al. {holds} on "
            f"{one.theorem.get('streams')} streams"
        )
    if "holds" in one.path_bound:
        holds = "holds" if one.path_bound["holds"] else "is violated"
        said.append(
            f"the path-sum bound {holds} (norms at most {percent(one.path_bound['largest_ratio'])} "
            "of it)"
        )
    return f"Checked: {' and '.join(said)}." if said else ""


def _dropped(one: MixSummary) -> str:
    dropped = next((row for row in one.conditions if row.out_of_distribution), None)
    if dropped is None:
        return ""
    return (
        f"Dropping BOS changes the loss by {_signed(dropped.ce_change)} nats, which is out of "
        "distribution for a model that was trained with it."
    )


SAID = (_predictions, _mediation, _paraphrases, _checks, _dropped)


def _row_of(one: MixSummary, name: str) -> MixRow | None:
    return next((row for row in one.conditions if row.name == name), None)


def _keys(one: MixSummary) -> list[tuple[str, str, str]]:
    keys = []
    taken, control = _row_of(one, "redistributed"), _row_of(one, "other-key")
    if taken is not None and one.sink_heads:
        for measured, beside, show, words in (
            (taken.ce_change, control and control.ce_change, _signed, "nats of loss"),
            (taken.spread_change, control and control.spread_change, _change, "spread"),
        ):
            compared = f"{_bounds(measured, show)}; control {show(beside)}"
            keys.append((show(measured), f"{words} without the sink", compared))
    heads = len(one.sink_heads)
    keys.append(
        (str(heads), "heads sink", f"late share {percent(number_of(one.sink_heads_late_share))}")
    )
    return keys


def condition_tables(one: MixSummary) -> list[Table]:
    """What every condition takes and what mixes then; what loss and stream make of it."""
    named = {"Condition": lambda row: visible(mixing_charts.name_of(row.name))}
    mixing = {
        "Sink left": lambda row: percent(number_of(row.sink_left)),
        "Mass taken": lambda row: percent(number_of(row.mass_removed)),
        "Spread (95 %)": lambda row: _or_change(row, row.spread, row.spread_change, _with_interval),
    }
    if any(number_of(row.influence) is not None for row in one.conditions):
        mixing["Jacobian"] = lambda row: _or_change(
            row, row.influence, row.influence_change, _change
        )
    loss = {
        "P0 norm": lambda row: percent(number_of(row.p0_norm)),
        "Rank": lambda row: short(row.effective_rank),
        "Loss": lambda row: _signed(row.ce_change),
        "KL": lambda row: short(row.kl),
        "Use": lambda row: (
            "out of distribution" if row.out_of_distribution else row.use or NO_VALUE
        ),
    }
    return [
        table_of(title, one.conditions, named | columns, {1, 2, 3, 4})
        for title, columns in (("Mixing", mixing), ("Loss and stream", loss))
    ]


def _or_change(row: MixRow, value: Any, change: Any, show: Callable[[Any], str]) -> str:
    """The value of the intact model, or what a condition changes of it."""
    return short(value) if row.name == "intact" else show(change)


def _change(measured: Any) -> str:
    value = number_of(measured)
    if value is None:
        return NO_VALUE
    shown = f"{100 * value:+.1f}" if abs(value) >= 0.1 else f"{100 * value:+.2f}"
    return f"{_plain_zero(shown)}\u00a0%"


def _with_interval(measured: Any) -> str:
    bounds = _bounds(measured, _change)
    return f"{_change(measured)} ({bounds})" if bounds else _change(measured)


def _bounds(measured: Any, show: Callable[[Any], str]) -> str:
    """Both ends of an interval, the unit behind the second; empty without one."""
    bounds = bounds_of(measured)
    if bounds is None:
        return ""
    low, high = map(show, bounds)
    return f"{low.removesuffix(UNIT)} to {high}"


def _signed(measured: Any) -> str:
    value = number_of(measured)
    return NO_VALUE if value is None else _plain_zero(f"{value:+.3f}")


def _plain_zero(shown: str) -> str:
    """No sign on what rounds to zero."""
    return shown[1:] if float(shown) == 0 else minus(shown)
