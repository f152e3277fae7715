"""Does the tracing find what was written into the weights, and does the verdict follow?

    python bench/known_answers.py --draws 500 --jobs 2 --keep draws.jsonl --json > answers.json

Mechanisms come in turn; family, sizes, noise and weights are drawn by seed, none of which was used
to set a threshold. Each model is traced and verified on windows of the bundled text, and what comes
out is held against its truth. For intervals the truth is the same figure on POPULATION other
windows. One interval a draw says little of how often they hold: over 300 draws chance alone moves
the share by 1.3 points. So SAMPLES more prompt sets are drawn from those windows (with replacement,
which makes their mean the truth exactly), and the share of their intervals that hold it is given
beside the other.

With --only the named mechanisms alone come in turn; with --trace nothing is verified, and only what
the trace finds is held against the truth:

    python bench/known_answers.py --draws 100 --only p0-two-phase p0-hybrid --trace

With --keep every draw is written down as it ends, and a second run makes those that are missing.
Exit code 1 if a floor is missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from transformers.utils import logging

from sinkscope import Subject, build_prompts
from sinkscope.causal.evidence import Test
from sinkscope.causal.verify import VerifySettings, verify_one
from sinkscope.circuit.find import find
from sinkscope.circuit.model import Circuit
from sinkscope.circuit.record import FoundCircuit
from sinkscope.circuit.unit import EXPERT, NEURON
from sinkscope.errors import Missing
from sinkscope.known.constructed import MECHANISMS, Truth, build_in_memory, draw_spec

sys.path.insert(0, str(Path(__file__).resolve().parent))

from known_parts.intervals import intervals
from known_parts.tally import missed_floors, summary, table

FIRST_SEED = 90_000
PROMPTS, LENGTH, POPULATION = 24, 64, 256
AT_P0 = ("p0", "bos", "position-id-0")


def one_draw(first_seed: int, names: list[str], trace_only: bool, index: int) -> dict[str, Any]:
    """Trace and verify one constructed model, and hold what comes out against its truth."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    spec = draw_spec(names[index % len(names)], first_seed + index)
    draw: dict[str, Any] = {k: getattr(spec, k) for k in ("mechanism", "family", "seed", "noise")}
    start = time.perf_counter()
    try:
        model, tokenizer, truth = build_in_memory(spec)
        draw |= _analysed(Subject.from_model(model, tokenizer), truth, spec.seed, trace_only)
    except Exception as error:  # noqa: BLE001 - a draw that breaks is a failure, not the end
        draw["error"] = repr(error)
    return draw | {"seconds": time.perf_counter() - start}


def _analysed(subject: Subject, truth: Truth, seed: int, trace_only: bool) -> dict[str, Any]:
    bos = truth.bos
    windows = build_prompts(subject, n=PROMPTS + POPULATION, length=LENGTH, bos=bos, seed=seed)
    prompts, others = windows.take(slice(0, PROMPTS)), windows.take(slice(PROMPTS, None))
    found = find(subject, prompts, seed=seed)
    traced = _traced(found, truth)
    if trace_only:
        return traced
    circuit = found.circuit
    settings = VerifySettings(n=PROMPTS, length=LENGTH, bos=bos, seed=seed)
    done = verify_one(subject, prompts, circuit, settings)
    claims = [test for test in done.tests if test.claim and test.control_effect is not None]
    return traced | {
        "verdict": [done.verdict.verdict, truth.verdict],
        "missing": done.verdict.missing,
        "controls": [[test.id, _significant(test)] for test in claims],
        "intervals": intervals(subject, found, done, truth, others, seed),
        "passes": done.passes,
    }


def _traced(found: FoundCircuit, truth: Truth) -> dict[str, Any]:
    """What the trace found, held against the truth."""
    circuit = found.circuit
    return {
        "emergence": [circuit.emergence_block, emergence_of(truth)],
        "recognition": [circuit.recognition_point, truth.recognition_point],
        "recognised": _recognised(circuit, truth),
        "neurons": _sets(
            _places(circuit, NEURON), truth.writing_neurons if writes_at_p0(truth) else []
        ),
        "heads": _sets(circuit.reading_heads, truth.reading_heads if reads_p0(truth) else []),
        "experts": _sets(_places(circuit, EXPERT), truth.experts if writes_at_p0(truth) else []),
        "phases": phases_differ(circuit, truth) if truth.phases else None,
        "attribution_error": None if isinstance(found.logits, Missing) else found.logits.error,
    }


def phases_differ(circuit: Circuit, truth: Truth) -> list[str]:
    """What of the phases is not as written: their number, spans, writers, takers, readers."""
    if len(circuit.phases) != len(truth.phases):
        return [f"{len(circuit.phases)} phases instead of {len(truth.phases)}"]
    differ = []
    for number, (part, stated) in enumerate(zip(circuit.phases, truth.phases), 1):
        found = {
            "rise": list(part.phase.rise),
            "fall": part.phase.fall and list(part.phase.fall),
            "writers": list(part.writes.writers),
            "takers": list(part.writes.takers),
            "reading_heads": sorted(map(list, part.readers)),
        }
        stated = {**stated, "reading_heads": sorted(stated["reading_heads"])}
        differ += [
            f"{name} of phase {number}" for name, one in found.items() if one != stated[name]
        ]
    return differ


def reads_p0(truth: Truth) -> bool:
    """Whether some head reads position zero (the BOS and position id 0 stand there)."""
    return truth.position in AT_P0 or 0 in truth.at


def writes_at_p0(truth: Truth) -> bool:
    """Whether the writing neurons write at position zero; delimiters have theirs elsewhere."""
    if truth.at and 0 not in truth.at:
        return False
    return truth.massive_at in (*AT_P0, "position-ids") or (
        truth.massive_at is None and reads_p0(truth) and truth.mechanism != "rotary-distance"
    )


def emergence_of(truth: Truth) -> int | None:
    """Block after which P0 is set apart: the first that amplifies, −1 the embedding."""
    if not writes_at_p0(truth):
        return None
    return truth.amplifying_blocks[0] if truth.amplifying_blocks else -1


def _places(circuit: Circuit, kind: str) -> list[tuple[int, int]]:
    return [unit.place for unit in circuit.of(kind)]


def _recognised(circuit: Circuit, truth: Truth) -> bool | None:
    """Whether the recognition point is that of the truth, or next to it; None: not stated.

    Nothing is not stated for position embeddings with noise: theirs tells P0 apart to a probe that
    has enough token ids to see it, which random tokens give and text may not. Nor is it where P0 is
    one of several positions that are alike, or the first of positions that change little by little.
    """
    points, found, stated = circuit.sites.points, circuit.recognition_point, truth.recognition_point
    if stated is None:
        if truth.position == "position-ids" or truth.mechanism == "position-ramp":
            return None
        return None if truth.family == "gpt2" and truth.noise else found is None
    return found is not None and abs(points.index(found) - points.index(stated)) <= 1


def _sets(found: Any, truth: Any) -> list[int]:
    """Right, wrong, missed."""
    ours, theirs = ({tuple(map(int, one)) for one in each} for each in (found, truth))
    return [len(ours & theirs), len(ours - theirs), len(theirs - ours)]


def _significant(test: Test) -> bool:
    return test.control_p_holm is not None and test.control_p_holm < 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="JSON lines, one draw each")
    parser.add_argument("--only", nargs="+", choices=list(MECHANISMS), default=list(MECHANISMS))
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted = range(options.seed, options.seed + options.draws)
    draws = [draw for draw in _kept(options.keep) if draw["seed"] in wanted]
    done = {draw["seed"] for draw in draws}
    todo = [seed - options.seed for seed in wanted if seed not in done]
    work = partial(one_draw, options.seed, options.only, options.trace)
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        steps = pool.imap_unordered(work, todo)
        for draw in track(steps, "draws", len(todo), console=Console(stderr=True)):
            draws.append(draw)
            if options.keep:
                with options.keep.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(draw) + "\n")
    draws.sort(key=lambda draw: draw["seed"])
    values = summary(draws)
    missed = missed_floors(values)
    if options.json:
        print(json.dumps({"floors": values, "missed": missed, "draws": draws}, indent=1))
    else:
        print(table(values, draws))
        print("\n".join(f"missed: {one}" for one in missed) or "every floor is met")
    return 1 if missed else 0


def _kept(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
