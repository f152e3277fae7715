"""Does a sink come by itself? Models trained on text without BOS, measured at geometric steps."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import sinkscope
from gpu_parts.common import Run
from sinkscope.errors import SinkscopeError
from sinkscope.lab.data import Data
from sinkscope.lab.recipe import TrainingRecipe, read_recipe
from sinkscope.lab.train import Stopped, begin, fit
from sinkscope.observe.attention import observe
from sinkscope.observe.layout import layout_of
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.reads import Want
from sinkscope.subject.load import Subject
from sinkscope.training_runs.monitor import SinkMonitor

STEPS = 20_000  # more than there is time for; it is the clock that ends a run
LOOKED_AT = 32  # held-out windows
COMPILED = 200  # seconds from which compiling pays
EPS = 0.3  # late share above which a head counts as sinking


def recipe(tiny: bool, experts: bool = False, excerpt: bool = False) -> TrainingRecipe:
    """A recipe of the lab, at 60 million parameters and with a batch that fills a GPU.

    excerpt: read the bundled excerpt with the bundled tokenizer.
    """
    if tiny:
        small = {"family": "mixtral", "experts": 4, "active": 2} if experts else {}
        return TrainingRecipe(
            blocks=2, width=32, heads=2, hidden=48, context=64, lengths=(64,), steps=4,
            tokens_per_step=256, warmup=2, checkpoints=(0, 2, 4), **small,
        )  # fmt: skip
    base = read_recipe("natural-moe" if experts else "natural-text")
    if excerpt:
        base = replace(base, vocabulary=2048, tokenizer="bundled")
    sizes: dict[str, Any] = {"blocks": 12, "width": 640, "heads": 10, "hidden": 1728}
    if experts:
        sizes = {"blocks": 8, "width": 384, "heads": 6, "hidden": 512}
    return replace(
        base, **sizes, context=512, lengths=(512,), tokens_per_step=64 * 512, steps=STEPS,
        learning_rate=2e-3, warmup=200, checkpoints=geometric(STEPS),
    )  # fmt: skip


def geometric(last: int) -> tuple[int, ...]:
    """0, 1, 2, 4, .. 64, and from there on in steps of a fifth."""
    steps = [0, *(2**i for i in range(7))]
    while steps[-1] < last:
        steps.append(min(last, round(steps[-1] * 1.2)))
    return tuple(steps)


def section(run: Run) -> None:
    from gpu_parts.prepare import text

    data = text(run)
    share = 1.0 if run.tiny else 0.58
    run.part("llama", natural, run, data, False, run.left() * share, needs=40)
    run.part("moe", natural, run, data, True, run.left(), needs=40)


def natural(run: Run, data: Data, experts: bool, seconds: float) -> dict:
    """Train until the time is over; what every checkpoint shows, and the verdict at the end."""
    plan = recipe(run.tiny, experts)
    plan = replace(plan, vocabulary=len(data.tokenizer))
    end = time.time() + 0.8 * seconds  # the rest is for the verdict
    training = begin(plan, data, run.device)
    watch = Watch(training.model, data, plan)
    name = "moe" if experts else "llama"
    rows: list[dict] = []
    losses: dict[int, dict] = {}
    found: dict[str, Any] = {"recipe": plan.as_dict(), "checkpoints": rows, "steps": 0}
    found["parameters"] = training.model.num_parameters()
    self_contained = {**found, "error": "it broke or outran its time"}

    def save(step: int) -> None:
        rows.append(watch.look(step) | losses.get(step, {}))
        run.found[name] = self_contained | {"steps": step}
        run.write()

    def log(row: dict) -> None:
        losses.clear()
        losses[row["step"]] = {k: row[k] for k in ("loss", "tokens_per_second") if k in row}
        found["steps"] = row["step"]

    # experts are called in ways that a compiler meets anew at every step
    eager = torch.compiler.set_stance("force_eager")
    with eager if experts or run.tiny or seconds < COMPILED else nullcontext():
        try:
            fit(
                training,
                log,
                save,
                measure=lambda model: {},
                every=STEPS,
                stop=lambda: time.time() > end,
            )
        except Stopped:
            rows.append(watch.look(found["steps"]) | losses.get(found["steps"], {}))
    training.model.eval()
    found["tokens"] = found["steps"] * plan.tokens_per_step
    run.found[name] = {**found, "error": "the verdict broke or outran its time"}
    run.write()
    found["verdict"] = verdict(run, training.model, data)
    return found


class Watch:
    """What a checkpoint shows on the same held-out windows, without BOS."""

    def __init__(self, model: Any, data: Data, plan: TrainingRecipe) -> None:
        self.model = model
        length = max(plan.lengths)
        self.windows = data.validation(LOOKED_AT, length)
        self.prompts = token_prompts(self.windows[:, :-1])
        self.monitor = SinkMonitor(
            model, every=1, first_blocks=plan.blocks, prompts=self.windows[:8, :-1]
        )
        self.began = time.time()

    def look(self, step: int) -> dict:
        """Numbers of `SinkMonitor`, late shares by head, held-out loss."""
        found: dict[str, Any] = {"step": step, "at_seconds": round(time.time() - self.began, 2)}
        found |= self.monitor.observe(step)
        with torch.autocast(self.model.device.type, enabled=False):
            subject = Subject(self.model, None, self.monitor._subject.anatomy, {})
            shares, losses = [], []
            for batch in self.prompts.batches():
                reads, _, logits = observe(subject, batch, Want(received=False), logits=True)
                late = layout_of(batch, subject.device).late.unsqueeze(1)
                share = [(read.p0 * late).sum(-1) / late.sum(-1) for read in reads]
                shares.append(torch.stack([s.cpu() for s in share], 1))
                ids = batch.input_ids.to(logits.device)
                each = torch.nn.functional.cross_entropy(
                    logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none"
                )
                losses.append(each.mean(1).cpu())
        heads = torch.cat(shares).mean(0).numpy()
        block, head = np.unravel_index(heads.argmax(), heads.shape)
        return found | {
            "held_out_loss": float(torch.cat(losses).mean()),
            "late_share": float(heads.mean()),
            "late_share_by_block": [round(float(x), 4) for x in heads.mean(1)],
            "best_head": [int(block), int(head), float(heads.max())],
            "sinking_heads": int((heads > EPS).sum()),
            "heads": int(heads.size),
        }


def verdict(run: Run, model: Any, data: Data) -> dict:
    """What `sinkscope run` says of the trained model, on the bundled text without BOS."""
    rows, length = (2, 24) if run.tiny else (16, 256)
    subject = Subject.from_model(model, data.tokenizer, "trained here")
    try:
        result = sinkscope.run(subject, n=rows, length=length, bos="without", untrained=False)
    except SinkscopeError as error:
        return {"refused": str(error)}
    summary = result.summary.model_dump()
    kept: dict[str, Any] = {"scan": summary["scan"]["without"]}
    for name in ("trace", "verify"):
        kept[name] = (summary.get(name) or {}).get("without")
    return kept
