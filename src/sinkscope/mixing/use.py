"""Is the sink used, or only there: what changes of loss and predictions say of what was removed."""

from __future__ import annotations

import math

import numpy as np

from sinkscope.causal.power import prompts_to_settle
from sinkscope.mixing.conditions import REDISTRIBUTED, VALUE_ZEROED
from sinkscope.mixing.record import Mixed
from sinkscope.mixing.thresholds import PREDICTIONS, USED
from sinkscope.result import Measured
from sinkscope.schema import MixRow
from sinkscope.stats import Draw, judged

DECIDING = (REDISTRIBUTED.name, VALUE_ZEROED.name)  # conditions that decide
UNDETERMINED, NO_SINK = "undetermined", "no sink"
WORDS = {
    "used": "The sink is used: without it the loss rises",
    "harmful": "The sink is harmful: without it the loss falls",
    "changes predictions": "The sink changes predictions, but not this loss: whether it is needed "
    "depends on the text",
    "present, not needed": "The sink is present, not needed: without it the loss changes by less "
    f"than {USED:g} nats a token, and the predictions by less than {PREDICTIONS:g} (KL)",
    UNDETERMINED: "Whether the loss needs the sink is open",
    NO_SINK: "The model does not sink at position zero, so there is no sink to take away; the "
    "conditions took every head's attention to it",
}


def use_of_sink(found: Mixed, rows: dict[str, MixRow]) -> str:
    """What the loss makes of the sink's mass and of its value; no sink where no head sinks.

    Either of them is enough for a finding; that the sink is not needed takes both.
    """
    if not found.heads:
        return NO_SINK
    uses = [rows[name].use for name in DECIDING]
    order = ("used", "harmful", UNDETERMINED, "changes predictions")
    return next((word for word in order if word in uses), "present, not needed")


def use_of(effect: Measured, control: Measured, kl: Measured, kl_control: Measured) -> str:
    """What a change of the loss, and of the predictions, says of what was taken away.

    used                 the loss rises by more than thresholds.USED, and than under the control
    harmful              the loss falls by more than that, and than under the control
    changes predictions  the loss stays within USED on both sides, but the KL of the predictions
                         lies above thresholds.PREDICTIONS, and above that of the control
    present, not needed  the loss stays within USED on both sides, and the KL below PREDICTIONS
    undetermined         anything else: the whole interval must lie on one side of each bound
    """
    side = judged(effect, USED)
    if effect.low is None or effect.high is None or side == "unclear":
        return UNDETERMINED
    if side == "more" and (control.high is None or effect.low > control.high):
        return "used"
    if side == "less" and (control.low is None or effect.high < control.low):
        return "harmful"
    if side != "same" or kl.low is None or kl.high is None:
        return UNDETERMINED
    if _predictions_change(kl, kl_control):
        return "changes predictions"
    return "present, not needed" if kl.high < PREDICTIONS else UNDETERMINED


def _needs(ce: np.ndarray, draw: Draw) -> str:
    """How many units of its interval tell a change of the loss [n] from USED, in their own words.

    Where prompts are windows of documents, documents are counted, each with as many windows as now.
    """
    units, prompts = draw.of_units(ce), len(ce)
    needed = prompts_to_settle(units, USED)
    if needed is None:
        return ""
    now, take = f"{prompts} prompts", f"{needed} prompts"
    if len(units) < prompts:
        now += f" of {len(units)} documents"
        take = f"{needed} documents by --text, {math.ceil(needed * prompts / len(units))} prompts"
    return f"{now} cannot tell that from {USED}: take {take} and as many pairs"


def _predictions_change(kl: Measured, control: Measured) -> bool:
    low = kl.low if kl.low is not None else 0.0
    return low > PREDICTIONS and (control.high is None or low > control.high)


def what_is_open(found: Mixed, rows: dict[str, MixRow]) -> str:
    """What is known where that is undetermined, and how many prompts would settle the loss."""
    if use_of_sink(found, rows) != UNDETERMINED:
        return ""
    row = next(rows[name] for name in DECIDING if rows[name].use == UNDETERMINED)
    change, kl = row.ce_change, row.kl
    if change is None or change.value is None or change.low is None or kl is None:
        return ""
    said = (
        f"{row.what[:1].upper()}{row.what[1:]}: the loss changes by {change.low:+.3f} to "
        f"{change.high:+.3f} nats a token"
    )
    ce = found.costs[row.name][-1].ce
    needs = _needs(ce if change.value >= 0 else -ce, found.draw)
    if judged(change, USED) == "unclear" and needs:
        said += f" ({needs})"
    control = found.draw.mean(found.costs[found.controls[row.name]][-1].kl)
    if _predictions_change(kl, control):
        said += f". The predictions do change, by {kl.low:.3f} to {kl.high:.3f} nats of KL"
    return f"{said}."
