"""What must be known beside the figures of a trace, in sentences."""

from __future__ import annotations

import numpy as np

from sinkscope.circuit.reading import in_part
from sinkscope.circuit.record import Traced
from sinkscope.circuit.writers import Named
from sinkscope.errors import NOT_ASKED, Missing
from sinkscope.frame import few_documents, opening_notes

SHORT = 32  # tokens below which late queries and curves over positions mean little
APART_TOKENS = 0.1  # parts of the named writers that differ by less are alike


def notes(traced: Traced) -> list[str]:
    """Sentences on prompts, sink heads, direction, named writers and what was not measured."""
    found, circuit = traced.found, traced.found.circuit
    said = opening_notes(traced.subject, traced.prompts)
    if len(traced.prompts) < len(traced.whole):
        said.append(in_part(len(traced.prompts), len(traced.whole)))
    if traced.prompts.length < SHORT:
        said.append(
            f"The prompts have {traced.prompts.length} tokens: below {SHORT}, late queries and "
            "curves over positions say little."
        )
    said += few_documents(found.observed.log_ratio[:, -1], traced.prompts.units)
    if not circuit.reading_heads:
        said.append("No head sinks at position zero, so there is nothing that reads it.")
    elif not circuit.sinks:
        said.append("Fewer than one head in a hundred sinks at position zero.")
    if circuit.direction is None:
        said.append("Nothing sets position zero apart: no sink direction was taken.")
    said += _unread(traced)
    said += notes_on_writers(found.named)
    if found.norm.plateau is None and circuit.direction is not None and not _unread(traced):
        said.append(
            "The norm of position zero is not amplified; writes are taken along the part of the "
            "sink direction that the sink heads read."
        )
    if isinstance(found.null, Missing) and found.null != NOT_ASKED:
        said.append(found.null.sentence)
    if found.recognition.reason:
        said.append(f"Separability was not measured: {found.recognition.reason}.")
    if found.recognition.sinks:
        said.append(
            f"Recognition leaves out {found.recognition.sinks} other positions that hold the sink "
            "as well: with them, no read point tells position zero apart for two blocks."
        )
    if found.recognition.probe_reason:
        said.append(f"Linear probes were not fitted: {found.recognition.probe_reason}.")
    if found.writes is not None and found.writes.without_units:
        name, reason = next(iter(found.writes.without_units.items()))
        count = len(found.writes.without_units)
        many = "1 sublayer is" if count == 1 else f"{count} sublayers are"
        said.append(f"{many} not split into units ({name}: {reason}).")
    if isinstance(found.logits, Missing):
        said.append(f"The sink logit is not attributed: {found.logits.reason}.")
    if len(found.tokens) == 1:
        said.append("Position zero always holds the same token, so it was traced for that one.")
    return said


def _unread(traced: Traced) -> list[str]:
    """Rises of the norm that no sink head reads, where sink heads read another."""
    phases = traced.found.circuit.phases
    if not any(part.sink_heads for part in phases):
        return []
    return [
        f"Position zero's norm rises in block {part.phase.block} to "
        f"{np.exp(part.phase.height):.3g} times the others', and no sink head reads that."
        for part in phases
        if part.phase.by == "norm" and not part.sink_heads
    ]


def notes_on_writers(named: Named | None) -> list[str]:
    """What must be known of the named writers."""
    if named is None:
        return []
    if named.rejected is not None:
        count = len(named.rejected.writers)
        return [
            f"No writer is named: without the {count} components that make 90 % of what the sink "
            f"heads read, they keep {named.kept:.0%} of their share of position zero."
        ]
    notes = []
    if named.of_heads:
        notes.append(
            f"The named writers are those of {named.of_heads} sink heads, which keep "
            f"{named.kept:.0%} of their share of position zero without them; the other sink heads "
            "keep more than half of theirs even without all units that were found."
        )
    if named.fewest:
        notes.append(
            f"Without the {named.fewest} components that make 90 % of what sink heads read, they "
            f"keep more than half of their sink: {len(named.components.writers)} are named."
        )
    largest = max((abs(share) for _, share in named.components.shares), default=0.0)
    if largest > 1:
        notes.append(
            f"Named writers work against each other: one alone writes {largest:,.1f} times what is "
            "raised in all, so their shares say who writes, not how much of the sink is theirs."
        )
    here, there = named.prompts, named.vocabulary
    if here is None or there is None or abs(here - there) < APART_TOKENS:
        return notes
    notes.append(
        f"The named writers make {here:.0%} of what the sink heads read over the prompts' own "
        f"first tokens, and {there:.0%} over first tokens drawn evenly from the vocabulary."
    )
    return notes
