"""The headline findings of a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sinkscope.circuit.components import main_components, raised
from sinkscope.circuit.concentration import (
    by_number,
    concentration,
    later_amplification,
    log_norm_share,
    step_down,
)
from sinkscope.circuit.notes import notes
from sinkscope.circuit.phase_parts import PhaseParts
from sinkscope.circuit.recognition import APART
from sinkscope.circuit.record import Traced
from sinkscope.circuit.routing import OTHERS, P0
from sinkscope.circuit.unit import EXPERT, HEAD, NEURON, SHARED
from sinkscope.circuit.unmixed import asymmetry
from sinkscope.errors import Missing
from sinkscope.result import Measured, TraceSummary
from sinkscope.schema.trace import (
    Attribution,
    DirectionStability,
    Emergence,
    Margins,
    NamedWriters,
    NormEmergence,
    PhaseRow,
    Recognised,
    Routed,
    TypeOfLayer,
    VocabularyScan,
)
from sinkscope.stats import Draw
from sinkscope.subject.prompts import token_text

NAMED = 20  # items named in a list


def trace_summary(traced: Traced) -> TraceSummary:
    """Reduce one trace to its summary."""
    found, circuit = traced.found, traced.found.circuit
    log_ratio = found.norm.curve
    block_writes = traced.block_writes
    components = found.components
    stepped = None
    if circuit.plateau is not None and block_writes is not None:
        stepped = step_down(log_ratio, block_writes, circuit.plateau)
    emergence = circuit.emergence_block
    return TraceSummary(
        emergence_block=emergence,
        phases=[_phase(part, len(log_ratio) - 1) for part in circuit.phases],
        emergence=_emergence(traced),
        amplification=circuit.amplification,
        recognition_point=circuit.recognition_point,
        recognition=_recognition(traced),
        concentration={} if block_writes is None else dict(by_number(concentration(block_writes))),
        concentration_log_norm=by_number(log_norm_share(log_ratio)),
        writing_neurons=[list(unit.place) for unit in circuit.of(NEURON)],
        writing_neuron_shares=[share for _, _, share in components.rows(NEURON)],
        writing_heads=components.rows(HEAD),
        writing_experts=components.rows(EXPERT),
        k90=components.k90,
        named=_named(traced),
        write_shares=_write_shares(traced),
        reading_heads=[list(head) for head in circuit.reading_heads],
        reading_block=circuit.reading_block,
        spike_ratio=None if traced.vocabulary is None else traced.vocabulary.ratio.value,
        spike_vocabulary=None if traced.vocabulary is None else len(traced.vocabulary.sinks),
        margins=_margins(traced),
        attribution=_attribution(traced),
        routing=_routing(traced),
        direction_stability=_stability(traced),
        step_down=stepped,
        secondary=[]
        if block_writes is None or emergence is None
        else later_amplification(block_writes, emergence),
        notes=notes(traced),
        p0_sink=traced.found.reading.answer if traced.whole.enough else None,
        read_point=None if circuit.direction is None else f"x{circuit.read_point}",
        writing_shared_neurons=components.rows(SHARED),
        writing_whole=[[name, share] for name, share in components.whole],
        weights=traced.weights,
        by_type=_by_type(traced),
        vocabulary=_vocabulary(traced),
    )


def _phase(part: PhaseParts, depth: int) -> PhaseRow:
    """One phase as a row."""
    phase, writes = part.phase, part.writes
    return {
        "by": phase.by,
        "rise": list(phase.rise),
        "emergence_block": phase.block,
        "peak": f"x{phase.point}",
        "height": float(np.exp(phase.height)) if phase.by == "norm" else phase.height,
        "plateau": [f"x{point}" for point in phase.plateau(depth)],
        "fall": None if phase.fall is None else list(phase.fall),
        "writers": [[name, writes.share[name]] for name in writes.writers],
        "takers": [[name, writes.share[name]] for name in writes.takers],
        "writing_neurons": writes.components.rows(NEURON),
        "writing_heads": writes.components.rows(HEAD),
        "reading_heads": [list(head) for head in part.readers],
        "sink_heads": [list(head) for head in part.sink_heads],
        "concentration": part.concentration,
        "most_read": part.most_read,
    }


def _emergence(traced: Traced) -> Emergence:
    """The two curves' figures, the plateau, and what they were held against."""
    found = traced.found
    norm: NormEmergence = {
        "block": found.norm.block,
        "largest_ratio": found.norm.ratio,
        "untrained_ratio": found.norm.null,
        "plateau": None if found.norm.plateau is None else [f"x{p}" for p in found.norm.plateau],
    }
    if isinstance(found.null, Missing) and found.norm.plateau is not None:
        norm["untrained"] = found.null.reason
    entry: Emergence = {"norm": norm, "direction": {"block": None}}
    if found.direction is not None:
        at = found.circuit.read_point
        entry["direction"] = {
            "block": found.direction.block,
            "distance": float(found.direction.curve[at]),
            "deviations": float(found.direction.apart[at]),
            "p0_along": float(found.direction.aligned[at]),
        }
    return entry


def _recognition(traced: Traced) -> Recognised:
    recognised = traced.found.recognition
    points = traced.found.circuit.sites.points
    entry: Recognised = {
        "threshold": APART,
        "positions": recognised.positions,
        "texts": recognised.texts,
        "tokens": recognised.tokens,
        "sinks": recognised.sinks,
        "measures": list(recognised.measures),
        "auroc": {
            name: {p: _nan(a) for p, a in zip(points, curve)}
            for name, curve in recognised.curves.items()
        },
        "reason": recognised.reason or None,
        "probe_reason": recognised.probe_reason or None,
    }
    ratios = asymmetry(traced.found.observed)
    if ratios:
        first = min(ratios)
        entry["attention_output"] = {
            "block": first,
            "norm": ratios[first]["norm"],
            "variance": ratios[first]["variance"],
        }
    if traced.cones:
        first = min(traced.cones)
        cone = traced.cones[first]
        entry["cone"] = {
            "block": first,
            "axis": float(cone.axis.mean()),
            "r2": _nan(np.nanmean(cone.r2)) if np.isfinite(cone.r2).any() else None,
            "isotropy": float(cone.isotropy.mean()),
            "unmixedness_p0": float(cone.unmixed[0].mean()),
            "unmixedness_others": float(np.nanmean(cone.unmixed[1:])),
        }
    return entry


def _write_shares(traced: Traced) -> dict[str, float]:
    """Share of embedding and sublayers in all that is raised: those above zero add up to 1."""
    found = traced.found
    writes = found.writes if found.named is None else found.named.writes
    total = 0.0 if writes is None else raised(writes)
    if writes is None or total <= 0:
        return {}
    return {
        "embedding": writes.embedding / total,
        **{name: value / total for name, value in writes.total.items()},
    }


def _named(traced: Traced) -> NamedWriters:
    named = traced.found.named
    if named is None:
        return {}
    rejected = () if named.rejected is None else named.rejected.units
    along_u = named.writes is traced.found.writes
    return {
        "shares_of": "the sink direction" if along_u else "what the sink heads read",
        "kept": named.kept,
        "of_heads": named.of_heads,
        "rejected": [[unit.block, unit.kind, unit.index] for unit in rejected],
        "prompts": named.prompts,
        "vocabulary": named.vocabulary,
    }


def _margins(traced: Traced) -> Margins:
    """Means over the reading heads, intervals over prompts; nats."""
    induction, logits = traced.induction, traced.found.logits
    heads = traced.found.circuit.reading_heads
    if isinstance(logits, Missing) and not (heads and np.isfinite(induction.margin).any()):
        return {"reason": logits.reason}
    draw = Draw(traced.prompts.units, traced.seed)
    at = tuple(np.array(heads).T)
    margin = induction.margin[(slice(None), *at)].mean(1)
    entry: Margins = {"mean": draw.mean(margin)}
    if induction.from_u is not None:
        alone = induction.from_u[(slice(None), *at)].mean(1)
        entry["from_direction"] = draw.mean(alone)
        entry["share_from_direction"] = _ratio(alone.mean(), margin.mean())
    bias = induction.bias[at]
    if np.isfinite(bias).any():
        entry["query_bias"] = Measured(value=float(np.nanmean(bias)))
        if not isinstance(logits, Missing):
            entry["share_query_bias"] = _ratio(float(np.nanmean(bias)), float(logits.value.mean()))
    return entry


def _attribution(traced: Traced) -> Attribution:
    """Mean logit of the reading heads on P0, split over what was added to P0's stream."""
    logits = traced.found.logits
    if isinstance(logits, Missing):
        return {"reason": logits.reason}
    parts = logits.parts.mean((0, 1))
    order = parts.abs().argsort(descending=True)[:NAMED].tolist()
    entry: Attribution = {
        "logit": float(logits.value.mean()),
        "heads": len(logits.heads),
        "parts": {logits.names[i]: float(parts[i]) for i in sorted(order)},
        "bias": float(logits.bias.mean()),
        "error": logits.error,
    }
    if traced.read is not None:
        components = main_components(traced.read)
        entry["neurons"] = components.rows(NEURON)[:NAMED]
        entry["writing_heads"] = components.rows(HEAD)[:NAMED]
        entry["unit_error"] = traced.read.error
    return entry


def _routing(traced: Traced) -> dict[str, Routed]:
    """Of the blocks that write, and of the first routed one: where P0 and the others are sent."""
    others = traced.found.observed.routing
    if not traced.routing.blocks:
        return {}
    writing = {unit.block for unit in traced.found.circuit.of(EXPERT)}
    shown = sorted(writing | {min(traced.routing.blocks)})
    return {
        str(block): {
            "p0": traced.routing.summary(block, P0),
            "others": others.summary(block, OTHERS),
        }
        for block in shown
        if block in traced.routing.blocks and block in others.blocks
    }


def _stability(traced: Traced) -> DirectionStability:
    """Over first tokens (mean pairwise cosine at the read point), and over the text behind."""
    found = traced.found
    entry: DirectionStability = {"first_tokens": len(found.tokens), "text": traced.text_cosine}
    if found.direction is not None:
        entry["cosine"] = _nan(found.direction.cosine[found.circuit.read_point])
        entry["cosine_at_embedding"] = _nan(found.direction.cosine[0])
    return entry


def _by_type(traced: Traced) -> dict[str, TypeOfLayer]:
    """Blocks and reading heads by kind of layer; kinds are never averaged together."""
    anatomy, late = traced.subject.anatomy.blocks, traced.found.circuit.late
    margin = traced.induction.margin
    found: dict[str, TypeOfLayer] = {}
    for kind in sorted({block.layer_type for block in anatomy}):
        blocks = [block.index for block in anatomy if block.layer_type == kind]
        heads = [head for head in traced.found.circuit.reading_heads if head[0] in blocks]
        entry: TypeOfLayer = {"blocks": len(blocks), "reading_heads": len(heads)}
        if np.isfinite(late[blocks]).any():
            entry["late_share"] = float(np.nanmean(late[blocks]))
        if np.isfinite(margin[:, blocks]).any():
            entry["margin"] = float(np.nanmean(margin[:, blocks]))
        found[kind] = entry
    return found


def _vocabulary(traced: Traced) -> VocabularyScan:
    scanned = traced.vocabulary
    if scanned is None:
        return {}
    missed = scanned.items[~scanned.sinks]
    return {
        "point": f"x{scanned.point}",
        "of": scanned.of,
        "ratio": scanned.ratio,
        "not_sinking": [
            {"id": int(i), "token": token_text(traced.subject.tokenizer, int(i))}
            for i in missed[:NAMED]
        ],
    }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if abs(whole) > 1e-9 else None


def _nan(value: Any) -> float | None:
    number = float(value) if not isinstance(value, torch.Tensor) else float(value.item())
    return number if np.isfinite(number) else None
