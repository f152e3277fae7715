"""Floors of `sinkscope mix`.

python bench/mixing.py jacobian   norms by vjp against one autograd Jacobian of the whole stack
python bench/mixing.py coverage   how often the intervals of estimated norms hold the exact norm
python bench/mixing.py paths      the path-sum bound on 1,000 random models and inputs
python bench/mixing.py theorem    the spectral theorem on every model of the matrix
python bench/mixing.py pair       constructed models that mix once their sink is cut, and twins
python bench/mixing.py spread     perturbation maps with and without the sink, in plain forwards
python bench/mixing.py            all of them; --json for machines
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BLOCKS, LENGTH, PAIRS = 12, 512, 64
WIDTH, HEADS, VOCABULARY = 256, 4, 4096
SEVERAL = ("llama", "gpt2", "gemma2", "gpt_neox", "qwen3_moe", "gpt_oss")
FAMILIES = ("llama", "gpt2", "mixtral", "gpt_oss")


def doubled(name: str):
    """A tiny model in double precision."""
    from sinkscope.subject.load import Subject
    from sinkscope.subject.tiny import tiny_model

    subject = Subject.from_model(tiny_model(name))
    if name in ("qwen3_moe", "gpt_oss"):  # grouped matrix products are single precision only
        subject.model.set_experts_implementation("eager")
    subject.model.double()
    return subject


def jacobian() -> dict:
    """Largest relative difference of any norm between vjp and autograd, by family."""
    from sinkscope.mixing.jacobian import jacobian_norms
    from tests.test_mixing import whole_jacobian

    ids = torch.randint(3, 100, (8,), generator=torch.Generator().manual_seed(2))
    worst = {}
    for name in SEVERAL:
        subject = doubled(name)
        found = torch.from_numpy(jacobian_norms(subject, ids).norm)
        wanted = whole_jacobian(subject, ids)
        seen = wanted > 0
        worst[name] = float(((found - wanted).abs()[seen] / wanted[seen]).max())
    return {"largest_relative": max(worst.values()), "by_family": worst, "floor": 1e-5}


def coverage(draws: int) -> dict:
    """Share of the intervals that hold the exact norm, as many probes as `mix` takes."""
    from sinkscope.mixing.influence import PROBES
    from sinkscope.mixing.jacobian import estimate_norms, jacobian_norms

    ids = torch.randint(3, 100, (16,), generator=torch.Generator().manual_seed(3))
    targets = [5, 10, 15]
    share = {}
    for name in SEVERAL:
        subject = doubled(name)
        exact = jacobian_norms(subject, ids, targets).norm
        seen = exact > 0
        held = []
        for seed in range(draws):
            found = estimate_norms(subject, ids, targets, probes=PROBES, seed=seed)
            held.append(((found.low <= exact) & (exact <= found.high))[seen].mean())
        share[name] = round(float(np.mean(held)), 4)
    return {
        "nominal": 0.95, "mean": round(float(np.mean(list(share.values()))), 4),
        "by_family": share, "draws": draws, "probes": PROBES,
    }  # fmt: skip


def pair(draws: int) -> dict:
    """Spread and verdicts with the sink cut, on models whose readers carry tokens and on twins.

    A twin is the same draw whose readers carry nothing, so that nothing can mix more. The cut is
    made in attention (mass redistributed) and at the circuit; each has its control.
    """
    import sinkscope
    from sinkscope.known.constructed import build_in_memory, draw_spec
    from sinkscope.subject.load import Subject

    found: dict[str, list] = {"right": [], "wrong": []}
    least, most = np.inf, 0.0
    for number in range(draws):
        family = FAMILIES[number % len(FAMILIES)]
        for carry in (1.0, 0.0):
            spec = draw_spec("p0-two-block", number, family=family, carry=carry, noise=0.0)
            model, tokenizer, _ = build_in_memory(spec)
            result = sinkscope.mix(
                Subject.from_model(model, tokenizer), kind="random", n=16, length=64, pairs=16,
                jacobian=False, sweeps=False,
            )  # fmt: skip
            (one,) = result.summary.mix.values()
            rows = {row.name: row.spread_change for row in one.conditions}
            cuts = [rows[name] for name in ("redistributed", "circuit-cut")]
            controls = [rows[name] for name in ("other-key", "circuit-cut-control")]
            wanted = ("more", "used") if carry else ("no different", "present, not needed")
            right = (one.mixing, one.verdict) == wanted
            if carry:
                right = right and all(cut.low > 0 for cut in cuts)
                least = min(least, *(cut.low for cut in cuts))
                most = max(most, *(max(abs(c.low), abs(c.high)) for c in controls))
            found["right" if right else "wrong"].append([family, number, carry])
    return {
        "models": 2 * draws, "right": len(found["right"]), "wrong": found["wrong"],
        "least_lower_end_of_a_cut": least, "largest_end_of_a_control": most,
    }  # fmt: skip


def spread(rounds: int) -> dict:
    """Seconds of two perturbation maps (intact, sink redistributed) over those of one plain pass.

    64 prompts of 512 tokens with one swap each; the plain pass runs the 64 prompts alone.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from sinkscope.mixing.conditions import REDISTRIBUTED
    from sinkscope.mixing.pairs import swapped
    from sinkscope.mixing.perturbation import perturb
    from sinkscope.observe.attention import run_model
    from sinkscope.observe.parity import token_prompts
    from sinkscope.subject.load import Subject

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH,
        num_hidden_layers=BLOCKS, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    subject = Subject.from_model(LlamaForCausalLM(config).eval())
    prompts = token_prompts(torch.randint(VOCABULARY, (PAIRS, LENGTH)))
    pairs = swapped(subject, prompts, ("nearest",))

    def plain() -> None:
        with torch.no_grad():
            for batch in prompts.batches():
                run_model(subject, batch, logits=False)

    calls = {
        "plain": plain,
        "map_intact": lambda: perturb(subject, pairs),
        "map_without_sink": lambda: perturb(subject, pairs, REDISTRIBUTED),
    }
    run_model(subject, prompts.take(slice(0, 2)), logits=False)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    passes = {
        name: statistics.median(m / p for m, p in zip(all_, seconds["plain"]))
        for name, all_ in seconds.items()
    }
    return {
        "blocks": BLOCKS, "length": LENGTH, "pairs": PAIRS, "width": WIDTH,
        "seconds": {name: round(min(all_), 2) for name, all_ in seconds.items()},
        "passes": {name: round(ratio, 2) for name, ratio in passes.items()},
        "plain_forwards": round(passes["map_intact"] + passes["map_without_sink"], 2),
        "floor": 6, "threads": torch.get_num_threads(),
    }  # fmt: skip


def paths(count: int) -> dict:
    """Exceptions to the bound among random models and inputs, and how tight it was."""
    from tests.test_mixing_paths import KINDS, random_subject, slack

    exceptions, ratios = [], []
    for seed in range(count):
        ratio = slack(*random_subject(seed))
        ratios.append(float(ratio.max()))
        if ratio.max() > 1 + 1e-9:
            exceptions.append(seed)
    return {
        "models": count, "families": list(KINDS), "exceptions": exceptions,
        "largest_ratio": max(ratios), "median_largest_ratio": float(np.median(ratios)),
    }  # fmt: skip


def theorem() -> dict:
    """Least slack of the theorem over every model type of the matrix whose stream is one stream."""
    from sinkscope.errors import SinkscopeError
    from sinkscope.mixing.collapse import ROUNDING, collapse
    from sinkscope.observe.matrix import all_types
    from sinkscope.observe.parity import token_prompts
    from sinkscope.subject.load import Subject
    from sinkscope.subject.tiny import CannotBuild, tiny_model

    ids = torch.randint(3, 100, (2, 24), generator=torch.Generator().manual_seed(1))
    least, violations, left_out = {}, [], {}
    for name in all_types():
        try:
            found = collapse(Subject.from_model(tiny_model(name)), token_prompts(ids))
        except (CannotBuild, SinkscopeError) as error:
            left_out[name] = str(error).splitlines()[0]
            continue
        except Exception as error:  # noqa: BLE001 - a family may fail in any way of its own
            left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
            continue
        slack = [found.sigma.min(), np.nanmin(found.entropy, initial=np.inf)]
        least[name] = float(min(slack))
        if not found.holds:
            violations.append(name)
    return {
        "types": len(least), "violations": violations, "least_slack": min(least.values()),
        "rounding": ROUNDING, "left_out": left_out,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ("jacobian", "coverage", "paths", "theorem", "pair", "spread")
    parser.add_argument("what", nargs="?", choices=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=int, default=1000, help="of paths")
    parser.add_argument("--draws", type=int, default=24, help="of coverage and pair")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = {
        "jacobian": jacobian,
        "coverage": lambda: coverage(options.draws),
        "paths": lambda: paths(options.models),
        "theorem": theorem,
        "pair": lambda: pair(options.draws),
        "spread": lambda: spread(options.rounds),
    }
    chosen = [options.what] if options.what else list(runs)
    found = {name: runs[name]() for name in chosen}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, result in found.items():
        print(name)
        for key, value in result.items():
            shown = len(value) if key == "left_out" else value
            print(f"  {key:26} {shown}")


if __name__ == "__main__":
    main()
