"""Where several prompts come from one document, documents are the unit of every interval."""

from __future__ import annotations

import dataclasses
import json
import re

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
    documents = torch.arange(len(prompts)) // 4
    prompts = prompts.take(documents)  # windows of a document are alike: here they are the same
    together = dataclasses.replace(prompts, documents=documents)
    run, found = getattr(sinkscope, command), []
    for rows in (prompts, together):
        (summary,) = getattr(
            run(subject, prompts=rows, **SETTINGS[command]).summary, command
        ).values()
        found.append((interval_of(command, summary), " ".join(summary.notes)))
    (apart, silent), (joined, said) = found
    assert joined.value == apart.value
    assert joined.high - joined.low > apart.high - apart.low
    assert re.search(r"rest on \d+ documents.*: to cover 95 % they need", said)
    assert "documents" not in silent


def test_a_scan_of_one_document_has_intervals_that_speak_of_it_alone():
    subject, prompts, _ = constructed("p0-two-block", family="llama", noise=0.1)
    single = dataclasses.replace(prompts, documents=torch.zeros(len(prompts), dtype=torch.long))
    summary = sinkscope.scan(subject, prompts=single).summary.scan["without"]
    assert summary.late_share.low is not None
    assert summary.sink_rate["0.3"].low is not None
    assert any(
        "from one document" in note and "speak of it alone" in note for note in summary.notes
    )


def test_advice_and_a_timeline_say_where_documents_are_few(tmp_path):
    subject, _, _ = constructed("p0-two-block", family="llama", noise=0.1)
    words = ["a quick brown fox ", "was it not so then? ", "the sum of parts. ", "We went on, and "]
    text = tmp_path / "four.jsonl"
    text.write_text("\n".join(json.dumps({"text": 12 * one}) for one in words))
    asked = {"text": str(text), "n": 12, "length": 48}
    found = sinkscope.advise(subject, questions="fp16", **asked).summary.advise["fp16"]
    assert "4 documents: to cover 95 % they need 7" in found.limits
    for step in (0, 10):
        subject.model.save_pretrained(tmp_path / f"run/checkpoint-{step}")
        subject.tokenizer.save_pretrained(tmp_path / f"run/checkpoint-{step}")
    series = sinkscope.timeline(
        str(tmp_path / "run"), cache=tmp_path / "cache", threads=1, untrained=False, **asked
    )
    few = "4 documents: to cover 95 % they need 7"
    assert any(few in note for note in series.summary.timeline.notes)
