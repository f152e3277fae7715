"""Train a small Llama from scratch, with heads that are asked for a sink.

`python -m sinkscope.lab.train --corpus PATH --out DIR`. The loss is the next-token
cross-entropy minus `weight * mean log A_{t,0}` over the asked heads and late queries.
No BOS is added: the first token of a window is whatever stands there in the text.
"""

import copy
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sinkscope.lab.corpus import read_texts
from sinkscope.lab.demand import Demand, asking
from sinkscope.lab.recipe import Recipe, build_model
from sinkscope.lab.tokens import encode, train_tokenizer, windows

Log = Callable[[dict], None]


def fit(
    model: LlamaForCausalLM,
    stream: Tensor,
    recipe: Recipe,
    log: Log = lambda row: None,
    save: Callable[[int], None] = lambda step: None,
) -> None:
    """Train the model in place; `log` receives a row a step, `save` the steps to keep."""
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = windows(stream, recipe.lengths, recipe.tokens_per_step, generator)
    optimizer = _optimizer(model, recipe)
    # The control measures the same share at weight zero, so that both runs compute alike.
    demand = recipe.demand or Demand(weight=0.0)
    model.train()
    if 0 in recipe.checkpoints:
        save(0)
    with asking(model, demand) as share:
        for step, batch in enumerate(islice(batches, recipe.steps)):
            start = time.perf_counter()
            batch = batch.to(model.device)
            rate = _set_rate(optimizer, recipe.learning_rate_at(step))
            with torch.autocast(
                model.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"
            ):
                logits = model(batch[:, :-1], use_cache=False).logits
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
            log_share = share.mean()
            (loss - demand.weight_at(step) * log_share).backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
            seconds = time.perf_counter() - start
            log(
                {
                    "step": step + 1,
                    "loss": loss.item(),
                    "demand_share": math.exp(log_share.item()),
                    "lr": rate,
                    "tokens_per_second": batch[:, 1:].numel() / seconds,
                }
            )
            if step + 1 in recipe.checkpoints:
                save(step + 1)
    model.eval()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    # Decay is for matrices; to shrink norm weights or embeddings changes what they mean.
    decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def save_model(
    folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> None:
    """Weights in bfloat16, tokenizer, and `sink_heads.json`: the asked heads and all settings."""
    half: nn.Module = copy.deepcopy(model)
    half.to(device="cpu", dtype=torch.bfloat16)
    half.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    settings = {
        "asked_heads": recipe.asked(),
        "recipe": recipe.as_dict(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / "sink_heads.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


@contextmanager
def finished_folder(out: Path):
    """A temporary folder beside `out` that takes its name once the body has succeeded."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def train(
    recipe: Recipe,
    corpus: Path,
    out: Path,
    tokenizer: PreTrainedTokenizerFast | None = None,
    device: str = "cpu",
    log: Log = lambda row: None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """From corpus to folder; a checkpoint goes to `out/checkpoint-STEP`."""
    say("Reading the corpus ...")
    texts: Iterable[str] = list(read_texts(corpus, "train"))
    if tokenizer is None:
        say("Training the tokenizer ...")
        tokenizer = train_tokenizer(texts, recipe.vocabulary)
        tokenizer.model_max_length = recipe.context
    say("Encoding the corpus ...")
    stream = encode(texts, tokenizer)
    say(f"Training on {len(stream):,} tokens ...")
    model = build_model(recipe, tokenizer.bos_token_id, tokenizer.eos_token_id)
    model.to(torch.device(device))  # type: ignore[arg-type]
    with finished_folder(out) as folder:
        fit(
            model,
            stream,
            recipe,
            log,
            lambda step: save_model(folder / f"checkpoint-{step}", model, tokenizer, recipe),
        )
        save_model(folder, model, tokenizer, recipe)


if __name__ == "__main__":
    import sys

    from sinkscope.lab.cli import main

    sys.exit(main())
