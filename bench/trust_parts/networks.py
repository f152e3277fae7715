"""Networks without any sink: random, untrained, and uniform."""

from __future__ import annotations

from typing import Any

import torch

from sinkscope import Subject
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.subject.tiny import tiny_model
from trust_parts.asking import LENGTH, ask

TYPES = ("llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "mistral", "mixtral", "olmo2", "gemma2")
KINDS = ("random", "untrained", "uniform")
SCALES = (0.02, 0.05, 0.1, 0.2)  # standard deviation of every matrix of a random network
MOST = 0.3  # mean late attention on one place, in a head: above it a network is not without a sink


def one(seed: int) -> dict[str, Any]:
    """One network, whether it truly is without a sink, and what was said."""
    kind, generator = KINDS[seed % len(KINDS)], torch.Generator().manual_seed(seed)
    tokenizer = None
    if kind == "uniform":
        name = ("llama", "gpt2")[int(torch.randint(2, (), generator=generator))]
        model, tokenizer, _ = build_in_memory(draw_spec("uniform", seed, family=name))
    else:
        name = TYPES[int(torch.randint(len(TYPES), (), generator=generator))]
        model = tiny_model(name, seed)
        if kind == "untrained":
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed)
                model.init_weights()
        else:
            scale = SCALES[int(torch.randint(len(SCALES), (), generator=generator))]
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.data.normal_(0.0, scale, generator=generator)
    most = _most(model, generator)
    subject = Subject.from_model(model, tokenizer)
    said = ask(subject, bos="without", kind="text" if tokenizer else "random", seed=seed)
    return {
        "kind": kind,
        "family": name,
        "most": most,
        "known": most < MOST,
        "said": said,
        "right": {"verdict": said["verdict"] in ("none", *_unseen(model))},
    }


def _unseen(model: Any) -> tuple[str, ...]:
    """What may be said beside none where no late query sees position zero."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or LENGTH
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    hidden = kinds == {"sliding_attention"} and window <= LENGTH // 2
    return ("undetermined",) if hidden else ()


@torch.no_grad()
def _most(model: Any, generator: torch.Generator) -> float:
    """Most late attention of a head on one of the first positions, by plain transformers."""
    model.set_attn_implementation("eager")
    size = model.config.get_text_config().vocab_size
    ids = torch.randint(2, size, (8, LENGTH), generator=generator)
    maps = torch.stack(model(ids, output_attentions=True).attentions)
    return float(maps[..., LENGTH // 2 :, : LENGTH // 4].mean((1, 3)).max())
