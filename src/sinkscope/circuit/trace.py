"""`trace`: how position zero becomes a sink, from recognition to the heads that read it.

1. Find the circuit: sink direction, writers, sink heads (`find`, where the steps are listed).
2. Sink margin of every head, and how much of it P0's direction or the query bias alone makes
   (`induction`).
3. Direct attribution: the sink heads' logits on P0, split exactly over what wrote P0's stream, with
   norms frozen (`keys`, `writes`).
4. What makes P0 recognisable: unmixed attention and the cone of values (`unmixed`), what writing
   neurons detect (`weights`), which experts P0 is sent to (`routing`).
5. Vocabulary items put at P0: does it become the sink whatever its token (`vocabulary`)?

The stages, unmixedness and the cone are those of Peng et al., arXiv 2603.06591; the vocabulary scan
and the weight view follow Sun et al., arXiv 2603.05498; the margin Ran-Milo et al., arXiv
2604.14722. Nothing is edited here: `verify` does that.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from sinkscope.circuit.arrays import trace_dataset
from sinkscope.circuit.find import find, find_circuit
from sinkscope.circuit.induction import induction
from sinkscope.circuit.observed import Observed
from sinkscope.circuit.record import FoundCircuit, Traced
from sinkscope.circuit.routing import Routing
from sinkscope.circuit.summary import trace_summary
from sinkscope.circuit.unit import NEURON, by_block
from sinkscope.circuit.unmixed import cones
from sinkscope.circuit.vocabulary import Vocabulary, affordable, scan_vocabulary
from sinkscope.circuit.weights import weight_view
from sinkscope.circuit.writes import Writes, written_along
from sinkscope.errors import Missing
from sinkscope.frame import Progress, chosen_prompts, result_of, silent
from sinkscope.observe.attention import check_reader
from sinkscope.observe.p0_stream import one_token_pass
from sinkscope.observe.stream import unit
from sinkscope.observe.together import together
from sinkscope.progress import shown
from sinkscope.result import Result
from sinkscope.schema.trace import WeightView
from sinkscope.settings import TraceSettings
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tokens import usable_vocabulary

__all__ = ["TraceSettings", "Traced", "find_circuit", "trace", "trace_one", "traced_result"]


@shown
def trace(
    subject: Subject,
    settings: TraceSettings | None = None,
    *,
    prompts: Prompts | None = None,
    scan: Result | None = None,
    progress: Progress = silent,
    **changes: Any,
) -> Result:
    """Trace how the sink of position zero is built.

    settings, changes  a TraceSettings, or its fields as keywords: trace(subject, n=16, bos="both")
    prompts            ready-made Prompts instead of what the settings describe
    scan               a scan of the same prompts: its sinking heads are taken as they are
    progress           called as progress(label, done, total); by default a bar

    Returns a Result with one group for each BOS policy. Raises InputError, and Unsupported for a
    model whose residual identity does not hold.
    """
    settings = dataclasses.replace(settings or TraceSettings(), **changes)
    check_reader(settings.reader)
    chosen = chosen_prompts(subject, settings, prompts)
    traced = [trace_one(subject, each, settings, scan, progress) for each in chosen]
    return traced_result(subject, settings, traced)


def trace_one(
    subject: Subject,
    prompts: Prompts,
    settings: TraceSettings,
    scan: Result | None = None,
    progress: Progress = silent,
    observed: Observed | None = None,
) -> Traced:
    """Trace one set of prompts; the circuit that `verify` takes is in `found.circuit`.

    observed  the pass over these prompts, where it was made already
    """
    found = find(
        subject,
        prompts,
        reader=settings.reader,
        seed=settings.seed,
        untrained=settings.untrained,
        scan=scan,
        progress=progress,
        observed=observed,
    )
    sites, u, seen = found.circuit.sites, found.circuit.direction, found.observed
    with together(subject) as start:
        read = start(_read_writes, subject, found)
        vocabulary = start(_vocabulary, subject, found, settings, progress)
        routing = start(_routing, subject, found)
        weights = start(_weights, subject, found)
        return Traced(
            subject=subject,
            whole=prompts,
            prompts=seen.prompts,
            seed=settings.seed,
            found=found,
            induction=induction(subject, sites, seen.prompts, seen, u),
            read=read(),
            cones=cones(seen),
            vocabulary=vocabulary(),
            routing=routing(),
            weights=weights(),
            text_cosine=_text_cosine(found),
        )


def _read_writes(subject: Subject, found: FoundCircuit) -> Writes | None:
    """What each component adds to the mean logit of the reading heads on P0, norms frozen."""
    logits = found.logits
    if isinstance(logits, Missing):
        return None
    total = len(logits.heads)

    def along(block: int) -> torch.Tensor:
        later = torch.tensor([place > block for place, _ in logits.heads])
        return (logits.gradient * later[None, :, None]).sum(1) / total

    stop = max(place for place, _ in logits.heads)
    tokens = found.observed.prompts.input_ids[: len(logits.value), 0]
    return written_along(subject, found.circuit.sites, tokens, along, stop)


def _vocabulary(
    subject: Subject, found: FoundCircuit, settings: TraceSettings, progress: Progress
) -> Vocabulary | None:
    """At the start of the norm's plateau, else where u was taken."""
    circuit = found.circuit
    if circuit.direction is None or not settings.vocabulary:
        return None
    point = circuit.plateau[0] if circuit.plateau is not None else circuit.read_point
    at_p0 = found.p0[:, found.at[point]]
    others = found.observed.sample[:, found.at[point]]
    u = circuit.direction
    midpoint = float((unit(at_p0) @ u).mean() + (unit(others) @ u).mean()) / 2
    least = float(at_p0.norm(dim=1).median()) / 2 if circuit.plateau is not None else 0.0
    size, tokens = usable_vocabulary(subject), found.observed.prompts.input_ids.numel()
    items = affordable(size, tokens, len(circuit.sites.blocks), point, settings.seed)
    return scan_vocabulary(subject, items, size, u, point, midpoint, least, progress)


def _routing(subject: Subject, found: FoundCircuit) -> Routing:
    routing = Routing(subject, found.circuit.sites)
    if found.observed.routing.blocks:
        one_token_pass(subject, found.tokens, lambda: routing.hooks(lambda: None))
    return routing


def _weights(subject: Subject, found: FoundCircuit) -> list[WeightView]:
    circuit, observed = found.circuit, found.observed
    writing = by_block(circuit.writers, NEURON)
    if circuit.direction is None or not writing:
        return []
    points = circuit.sites.points
    signals: dict[int, dict[str, torch.Tensor]] = {}
    for block in writing:
        # what the MLP reads: the stream behind the attention, where there is such a point
        at = points.index(f"x{block}") + int(circuit.sites.mid[block])
        stream = found.p0[:, at].mean(0) - observed.sample[:, at].mean(0)
        added = [p0 - rest for b, (p0, rest) in observed.attention_out.items() if b <= block]
        attention = torch.stack(added).sum(0) if added else torch.zeros_like(stream)
        signals[block] = {"attention": attention, "stream": stream}
    return weight_view(subject, circuit.sites, circuit.writers, signals, circuit.direction)


def _text_cosine(found: FoundCircuit) -> float | None:
    """Least cosine, over prompts and read points, of P0 within a prompt and its token alone."""
    within = found.observed.first_rows
    if within is None:
        return None
    return float((unit(within) * unit(found.here[: len(within)])).sum(-1).min())


def traced_result(subject: Subject, settings: TraceSettings, traced: list[Traced]) -> Result:
    """The result of one trace for each BOS policy."""
    prompts = [each.whole for each in traced]
    result = result_of("trace", subject, settings, prompts, traced, trace_summary, trace_dataset)
    _compare_policies(result.summary, traced)
    return result


def _compare_policies(summary, traced: list[Traced]) -> None:
    """How far the sink directions without and with BOS agree."""
    if len(traced) != 2:
        return
    u, v = (each.found.circuit.direction for each in traced)
    cosine = float(np.clip(float(u @ v), -1, 1)) if u is not None and v is not None else None
    for each in summary.trace.values():
        each.direction_stability["cosine_between_policies"] = cosine
