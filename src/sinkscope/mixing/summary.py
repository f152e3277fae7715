"""The summary of `mix`: a row for each condition, and the two verdicts on them."""

from __future__ import annotations

import numpy as np

from sinkscope.errors import NOT_ASKED, Missing
from sinkscope.frame import opening_notes, too_few
from sinkscope.intervene.readout import over_heads
from sinkscope.mixing import thresholds
from sinkscope.mixing.collapse import ROUNDING as DOUBLE
from sinkscope.mixing.conditions import INTACT, OTHER_KEY, REDISTRIBUTED
from sinkscope.mixing.cuts import CUT_CONTROL
from sinkscope.mixing.dose import Cost, units_of
from sinkscope.mixing.record import Mixed
from sinkscope.mixing.thresholds import CONTROL_KEEPS, NO_DIFFERENT, ROUNDING
from sinkscope.mixing.use import WORDS, use_of, use_of_sink, what_is_open
from sinkscope.schema import Measured, MixRow, MixSummary
from sinkscope.schema.base import bounds_of
from sinkscope.schema.mix import (
    DepthRow,
    DoseStep,
    LengthRow,
    MixMediation,
    Paraphrases,
    PathBound,
    Theorem,
)
from sinkscope.stats import Draw, bootstrap, paired_change


def mix_summary(found: Mixed) -> MixSummary:
    """Everything that `mix` says about one BOS policy."""
    rows, draw = [_row(found, name) for name in found.conditions], found.draw
    if found.dropped is not None:
        rows.append(_dropped_row(found))
    by_name = {row.name: row for row in rows}
    return MixSummary(
        verdict=(verdict := use_of_sink(found, by_name)),
        sentence=f"{WORDS[verdict]}.",
        mixing=_mixing(found, by_name),
        sink_heads=[list(head) for head in found.heads],
        sink_heads_late_share=draw.mean(over_heads(found.spreads[INTACT.name].shares, found.heads)),
        spread=_by_name(rows, "spread"),
        jacobian=_by_name(rows, "influence"),
        effective_rank=_by_name(rows, "effective_rank"),
        row_entropy=_maps(found, "row_entropy"),
        smoothness=_maps(found, "smoothness"),
        conditions=rows,
        dose={
            name: [_step(one, found.draw) for one in each]
            for name, each in found.costs.items()
            if each[1:]
        },
        mediation=_mediation(found),
        length=_length(found),
        depth=_depth(found),
        theorem=_theorem(found),
        path_bound=_path_bound(found),
        thresholds=bounds_of(vars(thresholds)),
        notes=[
            *opening_notes(found.subject, found.prompts),
            *found.notes,
            *_notes(found, by_name),
        ],
        pairs={"n": len(found.pairs), "kinds": list(found.pairs.kinds)},
        reach={name: found.draw.mean(each.reach) for name, each in found.spreads.items()},
        paraphrases=_paraphrases(found),
    )


def _by_name(rows: list[MixRow], figure: str) -> dict[str, Measured]:
    found = {row.name: getattr(row, figure) for row in rows}
    return {name: value for name, value in found.items() if value is not None}


def _notes(found: Mixed, rows: dict[str, MixRow]) -> list[str]:
    """What was asked for and could not be measured, and controls that are none."""
    said = []
    if isinstance(found.influence, Missing) and found.influence != NOT_ASKED:
        said.append(f"No Jacobian norms: {found.influence.reason}")
    if isinstance(found.bound, Missing) and found.bound != NOT_ASKED:
        said.append(f"No path-sum bound: {found.bound.reason}")
    said += [each for each in [weak_control(rows), what_is_open(found, rows)] if each]
    unit = ("prompts", "pairs") if found.draw.units is None else ("documents", "text")
    return said + too_few(found.spreads[INTACT.name].final, found.draw.units, *unit)


def weak_control(rows: dict[str, MixRow]) -> str:
    """A sentence where the circuit cut's control takes part of the sink itself."""
    control = rows.get(CUT_CONTROL)
    left = control.sink_left.value if control is not None and control.sink_left else None
    if left is None or left >= CONTROL_KEEPS:
        return ""
    return (
        f"The control of the circuit cut leaves {left:.0%} of the sink: its units write part of it "
        "too, so it is a weaker cut rather than a control."
    )


def _row(found: Mixed, name: str) -> MixRow:
    condition = found.conditions[name]
    spread, intact = found.spreads[name], found.spreads[INTACT.name]
    row = MixRow(
        name=name,
        what=str(condition),
        control=found.controls.get(name),
        spread=found.draw.mean(spread.final),
        spread_change=found.draw.change(spread.final, intact.final, intact.final),
    )
    if condition.at_p0:
        share, left = (over_heads(each.shares, found.heads) for each in (intact, spread))
        row.sink_left = found.draw.ratio(left, share)
        norm = spread.p0_norm.astype(float) / np.maximum(intact.p0_norm, 1e-30)
        row.p0_norm = found.draw.mean(norm[:, 1:].mean(1))  # behind block 0
        row.p0_norm_error = float(np.abs(norm - 1).max())
    if condition.removals:
        row.mass_removed = found.draw.mean(over_heads(spread.removed, found.heads))
    if not isinstance(found.influence, Missing) and name in found.influence.names:
        by_name = dict(zip(found.influence.names, found.influence.influence))
        own, base = by_name[name], by_name[INTACT.name]
        row.influence = found.draw.mean(own)
        row.influence_change = found.draw.change(own, base, base)
    if name in found.collapses:
        ranks = found.collapses[name].values["effective_rank"][:, :, 1:].mean(-1)
        row.effective_rank = found.draw.mean(ranks[:, 0])
        row.effective_rank_without_p0 = found.draw.mean(ranks[:, 1])
    if name in found.costs:
        full = found.costs[name][-1]
        row.ce_change, row.kl = found.draw.mean(full.ce), found.draw.mean(full.kl)
        if name in found.controls and found.heads:  # without a sink nothing of it is taken away
            control = found.costs[found.controls[name]][-1]
            row.use = use_of(
                row.ce_change, found.draw.mean(control.ce), row.kl, found.draw.mean(control.kl)
            )
    return row


def _dropped_row(found: Mixed) -> MixRow:
    assert found.dropped is not None
    (spread, cost), intact = found.dropped, found.spreads[INTACT.name].final
    return MixRow(
        name=cost.condition.name,
        what="the same text without its BOS token",
        spread=found.draw.mean(spread.final),
        spread_change=found.draw.change(spread.final, intact, intact),
        ce_change=found.draw.mean(cost.ce),
        out_of_distribution=True,
    )


def _maps(found: Mixed, name: str) -> dict[str, Measured]:
    values = found.maps[name].mean(-1)  # [n, 2]
    return {"with_p0": found.draw.mean(values[:, 0]), "without_p0": found.draw.mean(values[:, 1])}


def _step(one: Cost, draw: Draw) -> DoseStep:
    units = sum(len(units_of(edit)) for edit in one.condition.edits)
    return {
        "dose": next((edit.dose for edit in one.condition.removals), units),
        "left": draw.mean(one.left),
        "removed": draw.mean(one.removed),
        "ce_change": draw.mean(one.ce),
        "kl": draw.mean(one.kl),
    }


def _mediation(found: Mixed) -> MixMediation:
    if isinstance(found.mediation, Missing):
        return {"reason": found.mediation.reason}
    each = found.mediation
    return {
        "defined": each.defined,
        "total": each.total,
        "through": each.through,
        "direct": each.direct,
        "share": each.share,
        "share_by_direct": each.share_by_direct,
    }


def _length(found: Mixed) -> list[LengthRow]:
    sweep = found.lengths
    if sweep is None:
        return []
    return [
        {
            "length": length,
            "sink_heads_late_share": bootstrap(sweep.share[i]),
            "spread": bootstrap(sweep.intact[i]),
            "spread_without": bootstrap(sweep.without[i]),
            "spread_change": paired_change(sweep.without[i], sweep.intact[i], sweep.intact[i]),
            "repeat": bootstrap(sweep.repeat[i]),
            "repeat_without": bootstrap(sweep.repeat_without[i]),
        }
        for i, length in enumerate(sweep.lengths)
    ]


def _depth(found: Mixed) -> list[DepthRow]:
    intact = found.spreads[INTACT.name].final
    return [
        {
            "block": block,
            "heads": sum(b == block for b, _ in found.heads),
            "spread_change": found.draw.change(
                spread, intact[: len(spread)], intact[: len(spread)]
            ),
        }
        for block, spread in (found.depth or {}).items()
    ]


def _theorem(found: Mixed) -> Theorem:
    every = list(found.collapses.values())
    entropy = [slack for one in every for slack in one.entropy[np.isfinite(one.entropy)]]
    return {
        "holds": all(one.holds for one in every),
        "least_slack": float(min(one.sigma.min() for one in every)),
        "least_entropy_slack": float(min(entropy)) if entropy else None,
        "streams": int(sum(one.sigma.size for one in every)),
        "rounding": DOUBLE,
    }


def _path_bound(found: Mixed) -> PathBound:
    if isinstance(found.bound, Missing):
        return {"reason": found.bound.reason}
    causal = np.tril(np.ones_like(found.bound.bound, dtype=bool))
    frozen, bound = found.bound.frozen[causal], found.bound.bound[causal]
    ratio = np.where(frozen == 0, 0.0, frozen / np.where(bound == 0, np.finfo(float).tiny, bound))
    return {
        "holds": bool(ratio.max() <= 1 + 1e-4),
        "largest_ratio": float(ratio.max()),
        "median_ratio": float(np.median(ratio)),
        "tokens": len(causal),
    }


def _paraphrases(found: Mixed) -> Paraphrases:
    if found.paraphrases is None:
        return {}
    pairs, spreads = found.paraphrases
    intact = spreads[INTACT.name].final
    return {
        "n": len(pairs),
        "skipped": pairs.skipped,
        "spread": {name: bootstrap(each.final) for name, each in spreads.items()},
        "spread_change": {
            name: paired_change(each.final, intact, intact) for name, each in spreads.items()
        },
    }


def _mixing(found: Mixed, rows: dict[str, MixRow]) -> str:
    """Whether a change spreads further once the sink is gone, and the control does not do it."""
    change, control = (rows[n].spread_change for n in (REDISTRIBUTED.name, OTHER_KEY))
    if change is None or change.low is None or change.high is None or change.value is None:
        return "undetermined"
    low = high = 0.0
    if control is not None and control.low is not None and control.high is not None:
        low, high = min(control.low, 0.0), max(control.high, 0.0)
    if change.low > high and change.value > ROUNDING:
        return "more"
    if change.high < low and change.value < -ROUNDING:
        return "less"
    return (
        "no different" if max(abs(change.low), abs(change.high)) < NO_DIFFERENT else "undetermined"
    )
