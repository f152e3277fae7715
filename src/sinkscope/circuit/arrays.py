"""The arrays of a trace, labelled: dimensions, units and references travel with the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sinkscope.circuit.components import neuron_writes, unit_writes
from sinkscope.circuit.record import Traced
from sinkscope.circuit.unit import HEAD
from sinkscope.errors import Missing
from sinkscope.frame import Labels, labelled
from sinkscope.stats import nan_mean

if TYPE_CHECKING:
    import xarray

SUN = "Sun et al., arXiv 2603.05498"
PENG = "Peng et al., arXiv 2603.06591"
BLOCK_HEAD = ("block", "head")
TOP_NEURONS = 256  # kept for each block
# name -> (dimensions, long name, units, reference). `point` l is the input of block l.
LABELS: Labels = {
    "direction": (("channel",), "sink direction u, unit length", "1", ""),
    "norm_ratio": (("point",), "norm of P0 over the median norm of the others", "1", ""),
    "norm_ratio_by_prompt": (("sequence", "point"),
        "norm of P0 over the median norm of the others", "1", ""),
    "distance": (("point",), "unit P0 along u less the others' mean, over first tokens", "1", ""),
    "deviations": (("point",), "the same in standard deviations of the others", "1", ""),
    "p0_along": (("point",), "cosine of P0 to u, mean over first tokens", "1", ""),
    "cosine": (("point",), "mean pairwise cosine of P0 over first tokens", "1", PENG),
    "separability": (
        ("measure", "read_point"),
        "held-out AUROC of P0 against the same token ids at other positions",
        "1",
        "",
    ),
    "late": (BLOCK_HEAD, "late share of P0", "1", "Ran-Milo et al., arXiv 2604.14722"),
    "uniform_late": (("block",), "late share of P0 under uniform attention", "1", ""),
    "reads": (BLOCK_HEAD, "whether a head sinks at P0", "1", ""),
    "margin": (BLOCK_HEAD, "sink margin of late queries", "nat", ""),
    "margin_by_prompt": (("sequence", *BLOCK_HEAD), "sink margin of late queries", "nat", ""),
    "margin_from_direction": (BLOCK_HEAD, "sink margin with P0's key from u alone", "nat", ""),
    "query_bias": (BLOCK_HEAD, "part of the logit on P0 that the query bias makes", "nat", ""),
    "write": (("contribution",), "write at P0 along u, mean over first tokens", "1", ""),
    "block_write": (("block",), "write of a whole block at P0 along u", "1", ""),
    "head_write": (BLOCK_HEAD, "write of a head at P0 along u", "1", PENG),
    "neuron_write": (("block", "rank"), "write of the strongest neurons along u", "1", ""),
    "neuron": (("block", "rank"), "which neurons they are", "1", ""),
    "unmixedness": (("block", "position"), "sum of squared attention, mean over heads", "1", PENG),
    "cone_axis": (BLOCK_HEAD, "norm of the mean unit value", "1", PENG),
    "cone_r2": (BLOCK_HEAD, "fit of the cone to the norm of the output", "1", PENG),
    "cone_isotropy": (BLOCK_HEAD, "participation ratio around the axis", "1", PENG),
    "attention_norm": (("block", "position"), "norm of what attention adds", "1", PENG),
    "attention_variance": (("block", "position"),
        "variance over channels of what attention adds", "1", "Li et al., arXiv 2605.06611"),
    "vocabulary_item": (("token",), "token id of the item at P0", "1", ""),
    "vocabulary_along": (("token",), "cosine to u with this item at P0", "1", SUN),
    "vocabulary_norm": (("token",), "norm with this item at P0", "1", SUN),
    "vocabulary_sinks": (("token",), "whether this item becomes the sink", "1", SUN),
    "logit_parts": (("reader", "part"),
        "mean logit of a sink head on P0 made by each output, norms frozen", "nat", ""),
}  # fmt: skip


def trace_dataset(traced: Traced) -> xarray.Dataset:
    """All arrays of one trace as an xarray Dataset."""
    import xarray

    values = {**_curves(traced), **_heads(traced), **_writes(traced), **_stage_one(traced)}
    values |= _vocabulary(traced)
    dataset = xarray.Dataset(labelled(LABELS, values), coords=_coordinates(traced, values))
    circuit = traced.found.circuit
    dataset.attrs.update(
        bos=traced.prompts.bos,
        length=traced.prompts.length,
        sequences=len(traced.prompts),
        first_tokens=len(traced.found.tokens),
        read_point=f"x{circuit.read_point}" if circuit.direction is not None else "none",
    )
    return dataset


def _coordinates(traced: Traced, values: dict[str, Any]) -> dict[str, Any]:
    anatomy = traced.subject.anatomy.blocks
    found: dict[str, Any] = {
        "layer_type": ("block", np.array([b.layer_type for b in anatomy], dtype=object))
    }
    if "separability" in values:
        found["read_point"] = np.array(traced.found.circuit.sites.points, dtype=object)
        found["measure"] = np.array(list(traced.found.recognition.curves), dtype=object)
    writes = traced.found.writes
    if writes is not None:
        found["contribution"] = np.array(["embedding", *writes.total], dtype=object)
    logits = traced.found.logits
    if not isinstance(logits, Missing):
        found["part"] = np.array([*logits.names, "bias"], dtype=object)
        found["reader"] = np.array([f"{b}.{h}" for b, h in logits.heads], dtype=object)
    return found


def _curves(traced: Traced) -> dict[str, Any]:
    found = traced.found
    by_prompt = np.exp(found.observed.log_ratio[:, found.at])
    values: dict[str, Any] = {
        "norm_ratio": np.exp(found.norm.curve),
        "norm_ratio_by_prompt": by_prompt,
    }
    if found.direction is not None:
        values |= {
            "direction": found.circuit.direction.numpy(),  # type: ignore[union-attr]
            "distance": found.direction.curve,
            "deviations": found.direction.apart,
            "p0_along": found.direction.aligned,
            "cosine": found.direction.cosine,
        }
    if found.recognition.curves:
        values["separability"] = np.stack(list(found.recognition.curves.values()))
    return values


def _heads(traced: Traced) -> dict[str, Any]:
    circuit, induction = traced.found.circuit, traced.induction
    late = circuit.late
    width = late.shape[1]
    values: dict[str, Any] = {
        "late": late,
        "uniform_late": circuit.uniform_late,
        "reads": traced.found.reading.sinking,
    }
    if induction.margin.shape[2] == width:
        values["margin_by_prompt"] = induction.margin
        values["margin"] = nan_mean(induction.margin)
        values["query_bias"] = induction.bias
        if induction.from_u is not None:
            values["margin_from_direction"] = nan_mean(induction.from_u)
    logits = traced.found.logits
    if not isinstance(logits, Missing):
        parts = np.concatenate(
            [logits.parts.mean(0).numpy(), logits.bias.mean(0).numpy()[:, None]], 1
        )
        values["logit_parts"] = parts
    return values


def _writes(traced: Traced) -> dict[str, Any]:
    writes, circuit = traced.found.writes, traced.found.circuit
    if writes is None:
        return {}
    blocks, heads = circuit.late.shape
    values: dict[str, Any] = {
        "write": np.array([writes.embedding, *writes.total.values()]),
        "block_write": traced.block_writes,
    }
    per_head = np.full((blocks, heads), np.nan)
    for unit, value in unit_writes(writes):
        if unit.kind == HEAD and unit.index < heads:
            per_head[unit.place] = value
    values["head_write"] = per_head
    neurons = neuron_writes(writes)
    if neurons:
        rank = min(TOP_NEURONS, max(len(row) for row in neurons.values()))
        top, ids = np.full((blocks, rank), np.nan), np.full((blocks, rank), -1)
        for block, row in neurons.items():
            order = np.argsort(-np.abs(row), kind="stable")[:rank]
            top[block, : len(order)], ids[block, : len(order)] = row[order], order
        values |= {"neuron_write": top, "neuron": ids.astype(np.int32)}
    return values


def _stage_one(traced: Traced) -> dict[str, Any]:
    blocks, heads = traced.found.circuit.late.shape
    values: dict[str, Any] = {}
    curves = traced.found.observed.out_curves
    if curves:
        length = max(c.shape[1] for c in curves.values())
        norm, variance = np.full((2, blocks, length), np.nan)
        for block, (by_norm, by_variance) in curves.items():
            norm[block, : len(by_norm)], variance[block, : len(by_variance)] = by_norm, by_variance
        values |= {"attention_norm": norm, "attention_variance": variance}
    if traced.cones:
        length = max(cone.unmixed.shape[0] for cone in traced.cones.values())
        unmixed = np.full((blocks, length), np.nan)
        shape = np.full((3, blocks, heads), np.nan)
        for block, cone in traced.cones.items():
            unmixed[block, : len(cone.unmixed)] = cone.unmixed.mean(1)
            width = min(heads, len(cone.axis))
            shape[:, block, :width] = np.stack([cone.axis, cone.r2, cone.isotropy])[:, :width]
        values |= {"unmixedness": unmixed}
        values |= {"cone_axis": shape[0], "cone_r2": shape[1], "cone_isotropy": shape[2]}
    return values


def _vocabulary(traced: Traced) -> dict[str, Any]:
    scanned = traced.vocabulary
    if scanned is None:
        return {}
    return {
        "vocabulary_item": scanned.items,
        "vocabulary_along": scanned.along,
        "vocabulary_norm": scanned.norm,
        "vocabulary_sinks": scanned.sinks,
    }
