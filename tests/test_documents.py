"""Where several prompts come from one document, documents are the unit of every interval."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import sinkscope
from tests.test_circuit import constructed

SETTINGS = {
    "trace": {"untrained": False, "vocabulary": False},
    "verify": {"rows": 12, "draws": 4},
    "mix": {"pairs": 12, "circuit": False, "jacobian": False, "sweeps": False},
}


def interval_of(command, summary):
    if command == "trace":
        return summary.margins["mean"]
    if command == "verify":
        return summary.stages[-1].reading_heads_late_share
    return summary.sink_heads_late_share


@pytest.mark.parametrize("command", list(SETTINGS))
def test_windows_of_a_document_are_drawn_together(command):
    subject, prompts, _ = constructed("p0-two-block", family="llama", noise=0.1)
    together = dataclasses.replace(prompts, documents=torch.arange(len(prompts)) // 4)
    run, found = getattr(sinkscope, command), []
    for rows in (prompts, together):
        (summary,) = getattr(
            run(subject, prompts=rows, **SETTINGS[command]).summary, command
        ).values()
        found.append((interval_of(command, summary), " ".join(summary.notes)))
    (apart, silent), (joined, said) = found
    assert joined.value == apart.value
    assert (joined.low, joined.high) != (apart.low, apart.high)
    assert "documents, which are too few" in said
    assert "documents" not in silent
