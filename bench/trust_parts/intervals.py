"""Intervals of sinks that only a part of the prompts has, and of windows from few documents."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import sinkscope
from sinkscope import Subject, build_prompts
from sinkscope.detect.attention import read_attention
from sinkscope.known.constructed import build_in_memory, draw_spec
from trust_parts.asking import LENGTH, NUMBER

KINDS = ("part of the prompts", "few documents")
COUNTS = (24, 48, 96)  # prompts; those that the scan advises against are left out
DOCUMENTS = (8, 16, 32)
WINDOWS = 4  # windows of a document
POPULATION = 1536


def one(seed: int) -> dict[str, Any]:
    """One model, one scan, and whether the interval of the late share holds that of many others."""
    generator = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    model, tokenizer, truth = build_in_memory(draw_spec("p0-part", seed, family="llama"))
    subject = Subject.from_model(model, tokenizer)
    often = float(generator.choice([0.1, 0.25, 0.5]))
    with tempfile.TemporaryDirectory() as folder:
        if kind == "few documents":
            documents = int(generator.choice(DOCUMENTS))
            n = documents * WINDOWS
            text = _documents(
                generator, truth.tokens, documents, often, Path(folder) / "some.jsonl"
            )
            others = _documents(
                generator, truth.tokens, POPULATION, often, Path(folder) / "many.jsonl"
            )
        else:
            documents, n, text, others = None, int(generator.choice(COUNTS)), "builtin", "builtin"
        asked = {"length": LENGTH, "bos": "without", "untrained": False}
        ours = _scan(subject, n=n, text=text, seed=seed, **asked)
        value = _late_of_many(subject, others, seed + 1)
    late, shown = ours.late_share, ours.sink["kind"] == "p0"
    held = None if late.low is None or not shown else bool(late.low <= value <= late.high)
    words = " ".join(ours.notes)
    return {
        "kind": kind,
        "n": n,
        "documents": documents,
        "interval": [late.low, late.value, late.high],
        "truth": value,
        "shown": shown,  # what none of the prompts holds, no interval over them can tell
        "warned": bool(NUMBER.search(words)) or "interval" in words,
        "right": {} if held is None else {"held": held},
    }


def _late_of_many(subject: Subject, text: str, seed: int) -> float:
    """Late share over so many other windows that its own error is small beside an interval."""
    many = build_prompts(
        subject, n=POPULATION, length=LENGTH, bos="without", kind="text", text=text, seed=seed
    )
    return float(np.nanmean(read_attention(subject, many).late))


def _scan(subject: Subject, **settings: Any) -> Any:
    (found,) = sinkscope.scan(subject, **settings).summary.scan.values()
    return found


def _documents(
    generator: np.random.Generator, marked: list[int], count: int, often: float, file: Path
) -> str:
    """Documents whose windows all begin with a marked token, or none does; `often` of the first."""
    ours = [token - 2 for token in marked if 33 <= token - 2 < 127]
    others = [byte for byte in range(33, 127) if byte + 2 not in marked]
    lines = []
    for _ in range(count):
        letters = ours if generator.random() < often else others
        text = bytes(generator.choice(letters, WINDOWS * LENGTH).tolist()).decode()
        lines.append(json.dumps({"text": text}))
    file.write_text("\n".join(lines), encoding="utf-8")
    return str(file)
