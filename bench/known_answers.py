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
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from transformers.utils import logging

from sinkscope import Subject, build_prompts
from sinkscope.causal.evidence import NECESSITY, SUFFICIENCY, Test
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.verify import VerifySettings, verify_one
from sinkscope.circuit.find import find
from sinkscope.circuit.model import Circuit
from sinkscope.circuit.record import FoundCircuit
from sinkscope.circuit.unit import EXPERT, NEURON
from sinkscope.detect.attention import AttentionStats
from sinkscope.errors import Missing
from sinkscope.intervene.engine import Engine
from sinkscope.known.constructed import MECHANISMS, Truth, build_in_memory, draw_spec
from sinkscope.observe.attention import observe
from sinkscope.result import Measured
from sinkscope.stats import bootstrap, paired_change
from sinkscope.subject.prompts import Prompts, vocabulary

FIRST_SEED = 90_000
PROMPTS, LENGTH, POPULATION, SAMPLES = 24, 64, 256, 40
AT_P0 = ("p0", "bos", "position-id-0")
MEASURED = ("sink rate", "necessity", "sufficiency")  # what has intervals
# floor name -> (bound, whether the value must be at least it)
FLOORS = {
    "verdict": (0.97, True),
    "decoy called p0-circuit": (0.01, False),
    "emergence block": (0.98, True),
    "recognition within one read point": (0.97, True),
    "neuron precision": (0.95, True),
    "neuron recall": (0.95, True),
    "head precision": (0.97, True),
    "head recall": (0.97, True),
    "writing expert": (0.98, True),
    "phases": (0.97, True),
    "control significant": (0.05, False),
    **{
        f"{what} {how}, {end}": bound
        for what in MEASURED
        for how in ("covered", "resampled")
        for end, bound in (("least", (0.93, True)), ("most", (0.97, False)))
    },
    "attribution error": (1e-4, False),
}


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
        "intervals": _intervals(subject, found, done, truth, others, seed),
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


def _intervals(
    subject: Subject, found, done, truth: Truth, others: Prompts, seed: int
) -> list[dict[str, Any]]:
    """Interval and truth on other windows of sink rate, necessity and sufficiency."""
    circuit = done.circuit
    rows = []
    if circuit.reading_heads:
        rows.append(_sink_rate(subject, circuit, found.observed.attention.alpha0, others, seed))
    if not done.tests:
        return rows
    at = truth.amplifying_blocks[:1]
    heads = circuit.reading_heads
    engine = Engine(
        subject,
        others,
        circuit.sites,
        direction=circuit.direction,
        heads=heads,
        positions=(0, done.engine.positions[1]),
    )
    lab = CausalBench(engine, circuit, heads, done.engine.positions[1], 0, seed)
    necessary = [t for t in done.tests if t.kind == NECESSITY and t.id == "N3" and t.block in at]
    if necessary:
        one = necessary[0]  # not the strongest: a choice by the data would bias its interval
        key, whole = lab.screen.changes([one.edits])[0], lab.intact_sink
        change = lab.run(one.edits).on(heads) - whole if key is None else key

        def necessity(rows: np.ndarray) -> Measured:
            return paired_change(change[rows], 0 * change[rows], whole[rows], seed)

        ours = one.key_change or one.sink_change
        rows.append(_row("necessity", ours, necessity, len(others), len(done.prompts)))
    sufficient = [t for t in done.tests if t.kind == SUFFICIENCY and t.id == "S1" and t.claim]
    if sufficient:
        one = sufficient[-1]
        gained = lab.margin_effect(lab.run(one.edits), lab.position)

        def sufficiency(rows: np.ndarray) -> Measured:
            return paired_change(gained[rows], 0 * gained[rows], seed=seed)

        rows.append(
            _row("sufficiency", one.margin_change, sufficiency, len(others), len(done.prompts))
        )
    return rows


def _sink_rate(subject: Subject, circuit, alpha: np.ndarray, others: Prompts, seed: int):
    """Sink rate of the reading heads, each at the eps that parts the other windows in two.

    At the usual eps every reading head of these models sinks on every window, and an interval
    without any width says nothing.
    """
    blocks, heads = np.array(circuit.reading_heads).T
    stats = AttentionStats(vocabulary(subject))
    for batch in others.batches():
        reads, layout, _ = observe(subject, batch)
        stats.add(reads, layout, batch.input_ids)
    elsewhere = stats.alpha0[:, blocks, heads]
    eps = np.median(elsewhere, 0)
    ours = bootstrap((alpha[:, blocks, heads] > eps).mean(1), seed)
    above = (elsewhere > eps).mean(1)
    return _row(
        "sink rate", ours, lambda rows: bootstrap(above[rows], seed), len(above), len(alpha)
    )


def _row(
    what: str, ours: Measured, on: Callable[[np.ndarray], Measured], population: int, n: int
) -> dict[str, Any]:
    """An interval, the truth, and how often intervals of n other prompts hold it.

    on  measures the same on these rows of the population
    """
    truth = on(np.arange(population)).value
    draws = np.random.default_rng(0).integers(population, size=(SAMPLES, n))
    held = [_holds(on(rows), truth) for rows in draws]
    width = 0.0 if ours.low is None or ours.high is None else ours.high - ours.low
    return {
        "what": what,
        "interval": [ours.low, ours.value, ours.high],
        "truth": truth,
        "spread": width > 1e-6,
        "held": _holds(ours, truth),
        "resampled": sum(held) / len(held),
    }


def _holds(interval: Measured, truth: float | None) -> bool:
    if interval.low is None or interval.high is None or truth is None:
        return False
    return interval.low - 1e-6 <= truth <= interval.high + 1e-6


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of floors; intervals with any spread apart from those without."""
    good = [draw for draw in draws if "error" not in draw]
    tested = [draw for draw in good if "verdict" in draw]
    decoys = [draw for draw in tested if draw["verdict"][1] != "p0-circuit"]
    routed = [draw for draw in good if draw["mechanism"] == "p0-expert"]
    errors = [d["attribution_error"] for d in good if d["attribution_error"] is not None]
    controls = [flag for draw in tested for _, flag in draw["controls"]]
    values: dict[str, Any] = {
        "draws": len(draws),
        "broken": len(draws) - len(good),
        "verdict": _share(draw["verdict"][0] == draw["verdict"][1] for draw in tested),
        "decoy called p0-circuit": _share(d["verdict"][0] == "p0-circuit" for d in decoys),
        "emergence block": _share(draw["emergence"][0] == draw["emergence"][1] for draw in good),
        "recognition within one read point": _share(
            draw["recognised"] for draw in good if draw["recognised"] is not None
        ),
        **_precision_recall("neuron", [draw["neurons"] for draw in good]),
        **_precision_recall("head", [draw["heads"] for draw in good]),
        "writing expert": _share(draw["experts"][1:] == [0, 0] for draw in routed),
        "phases": _share(not d["phases"] for d in good if d.get("phases") is not None),
        "control significant": _share(controls),
        "attribution error": max(errors, default=None),
    }
    covered, resampled = defaultdict(list), defaultdict(list)
    for draw in tested:
        for row in draw["intervals"]:
            covered[row["what"], row["spread"]].append(row["held"])
            if row["spread"]:
                resampled[row["what"]].append(row["resampled"])
    values["intervals that hold the truth"] = {
        f"{what} ({'with spread' if spread else 'no spread'})": [_share(flags), len(flags)]
        for (what, spread), flags in sorted(covered.items())
    }
    for what in MEASURED:
        share = _share(covered[what, True])
        values[f"{what} covered, least"] = values[f"{what} covered, most"] = share
        share = _share(resampled[what])
        values[f"{what} resampled, least"] = values[f"{what} resampled, most"] = share
    values["mean seconds"] = float(np.mean([draw["seconds"] for draw in draws]))
    return values


def _share(flags: Any) -> float | None:
    """Share of True, or mean of shares."""
    flags = list(flags)
    return sum(flags) / len(flags) if flags else None


def _precision_recall(name: str, counts: list[list[int]]) -> dict[str, float | None]:
    right, wrong, missed = np.sum(counts, 0).tolist() if counts else (0, 0, 0)
    return {
        f"{name} precision": right / (right + wrong) if right + wrong else None,
        f"{name} recall": right / (right + missed) if right + missed else None,
    }


def missed_floors(values: dict[str, Any]) -> list[str]:
    """Floors that these values do not meet."""
    missed = ["some draws broke"] if values["broken"] else []
    for name, (bound, at_least) in FLOORS.items():
        value = values[name]
        if value is not None and (value < bound if at_least else value > bound):
            missed.append(f"{name}: {value:.4g}, floor {bound:g}")
    return missed


def table(values: dict[str, Any], draws: list[dict[str, Any]]) -> str:
    lines = [f"{name:40} {value}" for name, value in values.items() if not isinstance(value, dict)]
    for name, (share, count) in values["intervals that hold the truth"].items():
        lines.append(f"intervals hold: {name:24} {share:.3f} of {count}")
    wrong = Counter(
        (d["mechanism"], *d["verdict"])
        for d in draws
        if "verdict" in d and d["verdict"][0] != d["verdict"][1]
    )
    lines += [
        f"{mechanism}: {ours} instead of {truth}, {n} times"
        for (mechanism, ours, truth), n in sorted(wrong.items())
    ]
    lines += [
        f"seed {d['seed']} {d['mechanism']}: {', '.join(d['phases'])}"
        for d in draws
        if d.get("phases")
    ]
    lines += [f"seed {d['seed']} {d['mechanism']}: {d['error']}" for d in draws if "error" in d]
    return "\n".join(lines)


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
