"""The arrays of `mix`, labelled: dimensions, units and references travel with the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sinkscope.errors import Missing
from sinkscope.frame import Labels, labelled
from sinkscope.mixing.collapse import BOTH, NAMES
from sinkscope.mixing.conditions import INTACT
from sinkscope.mixing.record import Mixed

if TYPE_CHECKING:
    import xarray


BARBERO = "Barbero et al., arXiv 2504.02732"
QUEIPO = "Queipo-de-Llano et al., arXiv 2510.06477"
PAIR = ("condition", "sequence", "kind", "point")
# name -> (dimensions, long name, units, reference)
LABELS: Labels = {
    "spread": (PAIR, "mean relative change of later positions' streams", "1", BARBERO),
    "spread_map": (("condition", "kind", "point", "offset"),
        "relative change of the stream by distance behind the changed token", "1", BARBERO),
    "at_edit": (PAIR, "relative change at the changed token itself", "1", ""),
    "stream_norm": (("condition", "sequence", "point"),
        "mean norm of later positions' streams", "1", ""),
    "p0_norm": (("condition", "sequence", "point"), "norm of position zero's stream", "1", ""),
    "late_share": (("condition", "sequence", "layer", "head"),
        "late share of the key acted on (P0, but for controls at another key)", "1", ""),
    "rank_collapse": (("few", "p0", "pilot", "point"),
        "norm around the mean row over the whole norm", "1", BARBERO),
    "representational_collapse": (("few", "p0", "pilot", "point"),
        "distance of the last two rows over the last's norm",
        "1", "Barbero et al., arXiv 2406.04267"),
    "effective_rank": (("few", "p0", "pilot", "point"), "exp of matrix entropy", "1", QUEIPO),
    "matrix_entropy": (("few", "p0", "pilot", "point"),
        "entropy of squared singular values", "nat", QUEIPO),
    "anisotropy": (("few", "p0", "pilot", "point"),
        "largest share of squared singular values", "1", QUEIPO),
    "token_cosine": (("few", "p0", "pilot", "point"), "mean cosine of two positions", "1", ""),
    "theorem_slack": (("few", "pilot", "point"), "σ₁² − (M + αR) over ‖X‖²", "1", QUEIPO),
    "row_entropy": (("p0", "pilot", "layer"), "entropy of a row over its largest", "1", QUEIPO),
    "smoothness": (("p0", "pilot", "layer"), "1 − half the variation along a row", "1", BARBERO),
    "jacobian": (("few", "example", "target", "source"), "‖∂x^L_j/∂x^0_i‖_F", "1", BARBERO),
    "jacobian_low": (("few", "example", "target", "source"), "95 % interval, lower end", "1", ""),
    "jacobian_high": (("few", "example", "target", "source"), "95 % interval, upper end", "1", ""),
    "path_bound": (("to", "source_of_bound"), "path-sum bound on the frozen norm", "1", BARBERO),
    "frozen_jacobian": (("to", "source_of_bound"), "‖∂x^L_j/∂x^0_i‖_F, attention frozen", "1", ""),
    "dose_ce": (("dosed", "step", "sequence"), "change of the loss", "nat", ""),
    "dose_kl": (("dosed", "step", "sequence"), "KL from the intact prediction", "nat", ""),
    "dose_left": (("dosed", "step", "sequence"), "late share left in sinking heads", "1", ""),
    "length_spread": (("length", "length_prompt"), "spread at the last read point", "1", BARBERO),
    "length_spread_without": (("length", "length_prompt"),
        "the same with the sink's mass redistributed", "1", ""),
    "length_share": (("length", "length_prompt"), "late share of P0, sinking heads", "1", ""),
    "repeat_collapse": (("length", "length_prompt"),
        "‖x_n − x_{n+1}‖∞ with the last token repeated", "1", "Barbero et al., arXiv 2406.04267"),
    "repeat_collapse_without": (("length", "length_prompt"),
        "the same with the sink's mass redistributed", "1", ""),
    "depth_spread": (("block", "pilot"), "spread with the sink gone from one block", "1", ""),
    "mediation": (("world", "sequence"), "spread at the last read point in four worlds", "1", ""),
}  # fmt: skip


def mix_dataset(found: Mixed) -> xarray.Dataset:
    """Group mix/<bos> of the result."""
    import xarray

    values = _values(found)
    names = list(found.spreads)
    few = list(found.collapses)
    coordinates: dict[str, Any] = {
        "condition": names,
        "kind": list(found.pairs.kinds),
        "few": few,
        "p0": list(BOTH),
        "dosed": list(found.costs),
        "edited": ("sequence", found.pairs.last.numpy()),
    }
    if "spread_map" in values:
        coordinates["offset"] = np.arange(1, values["spread_map"].shape[-1] + 1)
    if not isinstance(found.influence, Missing):
        coordinates["target"] = found.influence.targets
    if found.lengths is not None:
        coordinates["length"] = found.lengths.lengths
    if found.depth:
        coordinates["block"] = list(found.depth)
    if not isinstance(found.mediation, Missing):
        coordinates["world"] = ["intact", "cut", "masses-of-cut", "masses-of-intact"]
    return xarray.Dataset(labelled(LABELS, values), coordinates, {"bos": found.prompts.bos})


def _values(found: Mixed) -> dict[str, np.ndarray]:
    spreads = list(found.spreads.values())
    values = {
        "spread": np.stack([each.curves for each in spreads]),
        "spread_map": np.stack([each.by_offset() for each in spreads]),
        "at_edit": np.stack([each.at_edit for each in spreads]),
        "stream_norm": np.stack([each.norm for each in spreads]),
        "p0_norm": np.stack([each.p0_norm for each in spreads]),
        "late_share": np.stack([each.shares for each in spreads]),
        "row_entropy": found.maps["row_entropy"].transpose(1, 0, 2),
        "smoothness": found.maps["smoothness"].transpose(1, 0, 2),
        "theorem_slack": np.stack([each.sigma for each in found.collapses.values()]),
    }
    for name in NAMES:
        each = [one.values[name].transpose(1, 0, 2) for one in found.collapses.values()]
        values[name] = np.stack(each)
    values |= _doses(found)
    if not isinstance(found.influence, Missing):
        values["jacobian"] = found.influence.norm
        if found.influence.low is not None and found.influence.high is not None:
            values["jacobian_low"] = found.influence.low
            values["jacobian_high"] = found.influence.high
    if not isinstance(found.bound, Missing):
        values["path_bound"], values["frozen_jacobian"] = found.bound.bound, found.bound.frozen
    if found.lengths is not None:
        values["length_spread"] = found.lengths.intact
        values["length_spread_without"] = found.lengths.without
        values["length_share"] = found.lengths.share
        values["repeat_collapse"] = found.lengths.repeat
        values["repeat_collapse_without"] = found.lengths.repeat_without
    if found.depth:
        values["depth_spread"] = np.stack(list(found.depth.values()))
    if not isinstance(found.mediation, Missing):
        worlds = found.mediation
        values["mediation"] = np.stack(
            [worlds.intact, worlds.cut, worlds.masses_of_cut, worlds.masses_of_intact]
        )
    return values


def _doses(found: Mixed) -> dict[str, np.ndarray]:
    """Dose curves, NaN where a condition has fewer steps."""
    steps = max(len(each) for each in found.costs.values())
    n = len(found.spreads[INTACT.name].final)
    values = {f"dose_{name}": np.full((len(found.costs), steps, n), np.nan) for name in _DOSED}
    for at, each in enumerate(found.costs.values()):
        for step, cost in enumerate(each):
            for name in _DOSED:
                values[f"dose_{name}"][at, step] = getattr(cost, name)
    return values


_DOSED = ("ce", "kl", "left")
