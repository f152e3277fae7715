"""Are the answers of `advise` right? Models whose answer is known, or measured by other code.

    python bench/advise_answers.py --draws 200 --keep advise.jsonl
    python bench/advise_answers.py --draws 200 --keep advise.jsonl --write    and keep the summary

Each kind of question is drawn by seed, on constructed models. A run with --keep goes on where the
last one ended. Kinds:

fp16        a writing matrix of random size; truth: a plain pass of `model.half()`
outliers    a writing neuron of random size; truth: plain hooks on every linear map
repeats     with a circuit, a position embedding, a token or nothing at position zero; truth: which
keep        truth: the rule of the answer on other texts, from a plain cache, token by token
bos         truth: the loss with BOS and without it on other texts, in plain transformers

Texts of `keep` and `bos` are windows of the excerpt drawn independently, a document each: TEXTS for
the answer, OTHERS for the truth. Where a number that decides lies within a third of the bound from
it, the draw has no known answer: it is left out, and another is drawn. An answer that leaves
something undetermined is not right.

Exit code 1 where fewer than FLOOR of a kind are right.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sinkscope
from sinkscope.advice.streaming import KEPT, PARTS
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.subject.documents import read_documents
from sinkscope.subject.load import Subject

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.plain_reference import served

FLOOR = 0.97
N, LENGTH = 8, 64
TEXTS, OTHERS = {"keep": 24, "bos": 64}, {"keep": 32, "bos": 160}
WITHIN = sinkscope.AdviseSettings().within
KINDS = ("fp16", "outliers", "repeats", "keep", "bos")
RESULTS = Path(__file__).parent / "results" / "advise.json"


def subject_of(mechanism: str, seed: int, **overrides: Any) -> tuple[Subject, Any]:
    spec = draw_spec(mechanism, seed, **{"family": "llama", **overrides})
    model, tokenizer, truth = build_in_memory(spec)
    return Subject.from_model(model, tokenizer, mechanism), truth


def answer(subject: Subject, question: str) -> Any:
    result = sinkscope.advise(subject, n=N, length=LENGTH, questions=question)
    return result.summary.advise[question]


def fp16(seed: int) -> tuple[str, str]:
    """Said and due: whether float16 overflows."""
    draw = random.Random(seed)
    subject, truth = subject_of(draw.choice(("p0-two-block", "p0-deeper")), seed)
    block = truth.amplifying_blocks[0]
    with torch.no_grad():
        subject.model.model.layers[block].mlp.down_proj.weight.mul_(draw.choice((1, 30, 300, 3000)))
    ids = sinkscope.build_prompts(subject, n=N, length=LENGTH, by_turns=True).input_ids
    said = answer(subject, "fp16").answer == "overflows"
    with torch.no_grad():
        finite = bool(torch.isfinite(subject.model.half()(ids).logits).all())
    return str(said), str(not finite)


def outliers(seed: int) -> tuple[str, str]:
    """Said and due: the maps with an outlier, and where the largest stands."""
    draw = random.Random(seed)
    subject, truth = subject_of(draw.choice(("p0-two-block", "p0-deeper")), seed)
    block, *_, neuron = truth.writing_neurons[0]
    mlp = subject.model.model.layers[block].mlp
    factor = draw.choice((0.1, 30.0, 100.0, 1000.0))
    with torch.no_grad():
        mlp.up_proj.weight[neuron] *= factor
        mlp.down_proj.weight[:, neuron] /= factor
    found = answer(subject, "quantisation").outliers
    ids = sinkscope.build_prompts(subject, n=N, length=LENGTH, by_turns=True).input_ids
    sizes: dict[str, torch.Tensor] = {}
    for name, module in subject.model.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda m, args, out, name=name: sizes.__setitem__(name, args[0].abs())
            )
    with torch.no_grad():
        subject.model(ids)
    due = []
    for name, x in sizes.items():
        by_token = x.amax(-1)
        if float(by_token.max()) > 20 * float(by_token.median()):
            _, position, channel = np.unravel_index(int(x.argmax()), x.shape)
            due.append((f"model.layers.{name}", int(position), int(channel)))
    said = [(one["module"], one["position"], one["channel"]) for one in found]
    return str(sorted(said)), str(sorted(due))


def repeats(seed: int) -> tuple[str, str]:
    """Said and due: whether repeats take over, and whether the patch undoes it."""
    kinds = {
        "p0-two-block": ("2.0", "works"),
        "p0-deeper": ("2.0", "works"),
        "bos-token": ("none", None),
        "delimiter": ("none", None),
        "uniform": ("none", None),
    }
    mechanism = random.Random(seed).choice(list(kinds))
    subject, _ = subject_of(mechanism, seed)
    facts = answer(subject, "repeats").facts
    return str((str(facts.get("repeats")), facts.get("patch"))), str(kinds[mechanism])


def keep(seed: int) -> tuple[str, str] | None:
    """Said and due: the smallest number of first tokens; None where the truth is too close."""
    draw = random.Random(seed)
    mechanism = draw.choice(("p0-two-block", "p0-deeper", "bos-token", "uniform"))
    subject, _ = subject_of(mechanism, seed, carry=draw.choice((0.0, 1.0, 1.0)))
    said, ids = on_windows(subject, "keep", "streaming", seed)
    lost = {  # window -> nats a token with a cache that keeps the last of KEPT
        LENGTH // part: loss(
            served(subject.model, ids, LENGTH // part, KEPT[-1]), ids, LENGTH // part
        )
        for part in PARTS
    }
    for number in KEPT[:-1]:
        rises = [
            loss(served(subject.model, ids, window, number), ids, window) - full
            for window, full in lost.items()
        ]
        if any(abs(rise - WITHIN) < WITHIN / 3 for rise in rises):
            return None
        if max(rises) <= WITHIN:
            return said, str(number)
    return said, f"{KEPT[-1]} or more"


def bos(seed: int) -> tuple[str, str] | None:
    """Said and due: whether BOS is needed; None where the truth is too close to the bound."""
    draw = random.Random(seed)
    mechanism = draw.choice(("bos-token", "bos-token", "p0-two-block", "uniform"))
    subject, _ = subject_of(mechanism, seed, carry=draw.choice((0.0, 1.0, 1.0)))
    said, ids = on_windows(subject, "bos", "bos", seed)
    first = torch.full((len(ids), 1), subject.tokenizer.bos_token_id)
    rows = torch.cat([first, ids[:, :-1]], 1)
    with_it, without = (subject.model(each).logits for each in (rows, rows[:, 1:]))
    change = loss(without, rows[:, 1:], 1) - loss(with_it, rows, 2)
    if abs(abs(change) - WITHIN) < WITHIN / 3:
        return None
    return said, "needed" if change > WITHIN else "harmful" if change < -WITHIN else "harmless"


def on_windows(subject: Subject, kind: str, question: str, seed: int) -> tuple[str, torch.Tensor]:
    """The answer on windows of the excerpt, a document each, and the ids [n, T] of others."""
    novels, _ = read_documents("builtin")
    draw = random.Random(f"windows {seed}")
    texts = []
    for _ in range(TEXTS[kind] + OTHERS[kind]):
        novel = draw.choice(novels)
        at = draw.randrange(len(novel) - LENGTH)
        texts.append(novel[at : at + LENGTH])  # of at least as many tokens
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.jsonl"
        file.write_text("\n".join(json.dumps({"text": x}) for x in texts[: TEXTS[kind]]), "utf-8")
        result = sinkscope.advise(
            subject, n=TEXTS[kind], length=LENGTH, text=str(file), questions=question
        )
    ids = subject.tokenizer(texts[TEXTS[kind] :], add_special_tokens=False)["input_ids"]
    return result.summary.advise[question].answer, torch.tensor([row[:LENGTH] for row in ids])


def loss(logits: torch.Tensor, ids: torch.Tensor, first: int) -> float:
    """Mean loss of the predictions made at `first` and later, over all rows [n, T]."""
    flat = logits[:, first:-1].flatten(0, 1), ids[:, first + 1 :].flatten()
    return float(torch.nn.functional.cross_entropy(*flat))


def drawn(
    kind: str, count: int, seed: int, kept: dict[tuple[str, int], Any], file: Path | None
) -> tuple[list[tuple[int, list[str]]], int]:
    """(seed, said and due) of as many draws that have a known answer, and how many have none."""
    found: list[tuple[int, list[str]]] = []
    at = seed
    while len(found) < count:
        if (kind, at) not in kept:
            with torch.no_grad():
                pair = globals()[kind](at)
            kept[kind, at] = pair
            if file:
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"kind": kind, "seed": at, "pair": pair}) + "\n")
        if kept[kind, at] is not None:
            found.append((at, list(kept[kind, at])))
        at += 1
    return found, at - seed - count


def summary(found: list[tuple[int, list[str]]], left_out: int, seed: int) -> dict[str, Any]:
    """How many are right, which are wrong, and what was due."""
    wrong = [[seed, *pair] for seed, pair in found if pair[0] != pair[1]]
    due = Counter(pair[1] for _, pair in found)
    return {
        "seed": seed,
        "draws": len(found),
        "right": len(found) - len(wrong),
        "left_out": left_out,
        "due": dict(due) if len(due) < 12 else len(due),
        "wrong": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--keep", type=Path, help="JSON lines, one draw each")
    parser.add_argument("--write", action="store_true", help="keep it in results/advise.json")
    asked = parser.parse_args()
    kept: dict[tuple[str, int], Any] = {}
    if asked.keep and asked.keep.exists():
        lines = map(json.loads, asked.keep.read_text("utf-8").splitlines())
        kept = {(line["kind"], line["seed"]): line["pair"] for line in lines}
    results: dict[str, Any] = {}
    for kind in asked.kinds.split(","):
        results[kind] = summary(*drawn(kind, asked.draws, asked.seed, kept, asked.keep), asked.seed)
        print(kind, json.dumps(results[kind]))
    if asked.write:
        before = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(before | results, indent=2) + "\n", "utf-8")
    return int(any(one["right"] < FLOOR * one["draws"] for one in results.values()))


if __name__ == "__main__":
    sys.exit(main())
