"""Floors of `sinkscope mix`.

python bench/mixing.py spread     perturbation maps with and without the sink, in plain forwards
python bench/mixing.py paths      the path-sum bound on 1,000 random models and inputs
python bench/mixing.py theorem    the spectral theorem on every model of the matrix
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

    def both() -> None:
        perturb(subject, pairs)
        perturb(subject, pairs, REDISTRIBUTED)

    run_model(subject, prompts.take(slice(0, 2)), logits=False)
    seconds: dict[str, list[float]] = {"plain": [], "maps": []}
    for _ in range(rounds):
        for name, call in (("plain", plain), ("maps", both)):
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    ratio = statistics.median(m / p for m, p in zip(seconds["maps"], seconds["plain"]))
    return {
        "blocks": BLOCKS, "length": LENGTH, "pairs": PAIRS, "width": WIDTH,
        "seconds": {name: round(min(all_), 2) for name, all_ in seconds.items()},
        "plain_forwards": round(ratio, 2), "threads": torch.get_num_threads(), "floor": 6,
    }  # fmt: skip


def paths(count: int) -> dict:
    """Exceptions to the bound among random models and inputs, and how tight it was."""
    from tests.test_mixing_paths import random_subject, slack

    exceptions, ratios = [], []
    for seed in range(count):
        ratio = slack(*random_subject(seed))
        ratios.append(float(ratio.max()))
        if ratio.max() > 1 + 1e-9:
            exceptions.append(seed)
    return {
        "models": count, "exceptions": exceptions, "largest_ratio": max(ratios),
        "median_largest_ratio": float(np.median(ratios)),
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
    parser.add_argument("what", nargs="?", choices=("spread", "paths", "theorem"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = {
        "spread": lambda: spread(options.rounds),
        "paths": lambda: paths(options.models),
        "theorem": theorem,
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
            print(f"  {key:22} {shown}")


if __name__ == "__main__":
    main()
