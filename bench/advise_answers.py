"""Are the answers of `advise` right? Models whose answer is known, or measured by other code.

    python bench/advise_answers.py --draws 200 --json

Each kind of question is drawn by seed, on constructed models:

fp16        a writing matrix of random size; truth: a plain pass of `model.half()`
outliers    a writing neuron of random size; truth: plain hooks on every linear map
repeats     with a circuit, a position embedding, a token or nothing at position zero; truth: which
keep        costs of a short cache from blocks run token by token, read by the same rule
bos         loss with and without BOS on POPULATION other texts, in plain transformers; draws whose
            truth lies within a third of the bound from it are left out

Exit code 1 where fewer than FLOOR of a kind are right; "undetermined" is not right.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sinkscope
from sinkscope.advice.bench import FEWEST
from sinkscope.advice.streaming import KEPT, PARTS, smallest
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.mixing.conditions import INTACT
from sinkscope.mixing.dose import Cost
from sinkscope.subject.load import Subject

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.plain_reference import streamed

FLOOR = 0.97
N, LENGTH, POPULATION = 8, 64, 96
KINDS = ("fp16", "outliers", "repeats", "keep", "bos")


def subject_of(mechanism: str, seed: int, **overrides: Any) -> tuple[Subject, Any]:
    spec = draw_spec(mechanism, seed, **{"family": "llama", **overrides})
    model, tokenizer, truth = build_in_memory(spec)
    return Subject.from_model(model, tokenizer, mechanism), truth


def answer(subject: Subject, question: str, n: int = N) -> Any:
    result = sinkscope.advise(subject, n=n, length=LENGTH, questions=question)
    return result.summary.advise[question]


def fp16(seed: int) -> tuple[str, str]:
    """Said and due: whether float16 overflows."""
    draw = random.Random(seed)
    subject, truth = subject_of(draw.choice(("p0-two-block", "p0-deeper")), seed)
    block = truth.amplifying_blocks[0]
    with torch.no_grad():
        subject.model.model.layers[block].mlp.down_proj.weight.mul_(draw.choice((1, 30, 300, 3000)))
    ids = sinkscope.build_prompts(subject, n=N, length=LENGTH).input_ids
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
    ids = sinkscope.build_prompts(subject, n=N, length=LENGTH).input_ids
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


def keep(seed: int) -> tuple[str, str]:
    """Said and due: the smallest number of first tokens, and whether fewer are excluded."""
    draw = random.Random(seed)
    subject, _ = subject_of(
        draw.choice(("p0-two-block", "p0-deeper", "uniform")), seed, carry=draw.choice((0.0, 1.0))
    )
    said = answer(subject, "streaming").answer
    prompts = sinkscope.build_prompts(subject, n=N, length=LENGTH)
    ids, units = prompts.input_ids, prompts.documents.numpy()
    costs: dict[int, dict[int, Cost]] = {}
    with torch.no_grad():
        whole = subject.model(ids).logits
        for part in PARTS:
            window = LENGTH // part
            plain = np.array([loss(x, row, window) for x, row in zip(whole, ids)])
            for kept in KEPT:
                short = streamed(subject, ids, window, kept)
                change = np.array([loss(x, row, window) for x, row in zip(short, ids)]) - plain
                costs.setdefault(window, {})[kept] = Cost(INTACT, *[change] * 4)
    within = sinkscope.AdviseSettings().within
    number, sure = smallest(costs, within, units)
    if len(np.unique(units)) < FEWEST:
        return said, "undetermined"
    last = number == KEPT[-1]
    due = (f"{number} or more" if sure else "undetermined") if last else (
        str(number) if sure else f"at most {number}"
    )  # fmt: skip
    return said, due


def loss(logits: torch.Tensor, ids: torch.Tensor, first: int) -> float:
    """Mean loss of the predictions made at `first` and later."""
    return float(torch.nn.functional.cross_entropy(logits[first:-1], ids[first + 1 :]))


def bos(seed: int) -> tuple[str, str] | None:
    """Said and due: whether BOS is needed; None where the truth is too close to the bound."""
    draw = random.Random(seed)
    mechanism = draw.choice(("bos-token", "p0-two-block", "uniform"))
    subject, _ = subject_of(mechanism, seed, carry=draw.choice((0.0, 1.0)))
    rows = sinkscope.build_prompts(
        subject, n=POPULATION, length=LENGTH, bos="with", seed=seed + 1
    ).input_ids
    with torch.no_grad():
        with_it, without = subject.model(rows).logits, subject.model(rows[:, 1:]).logits
        pairs = [loss(b, r[1:], 1) - loss(a, r, 2) for a, b, r in zip(with_it, without, rows)]
    within, change = sinkscope.AdviseSettings().within, float(np.mean(pairs))
    if abs(abs(change) - within) < within / 3:
        return None
    due = "needed" if change > within else "harmful" if change < -within else "harmless"
    return answer(subject, "bos", n=16).answer, due


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    for kind in asked.kinds.split(","):
        seeds = range(asked.seed, asked.seed + asked.draws)
        pairs = [(seed, pair) for seed in seeds if (pair := globals()[kind](seed)) is not None]
        wrong = [[seed, *pair] for seed, pair in pairs if pair[0] != pair[1]]
        due = {each: sum(pair[1] == each for _, pair in pairs) for each in {p[1] for _, p in pairs}}
        found[kind] = {"draws": len(pairs), "right": len(pairs) - len(wrong), "wrong": wrong}
        found[kind]["due"] = due if len(due) < 12 else len(due)
        if not asked.json:
            print(kind, f"{len(pairs) - len(wrong)} of {len(pairs)} right", wrong[:5])
    if asked.json:
        print(json.dumps(found, indent=2))
    sys.exit(any(one["right"] < FLOOR * one["draws"] for one in found.values()))


if __name__ == "__main__":
    main()
