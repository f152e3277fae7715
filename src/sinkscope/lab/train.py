"""Train a small language model from scratch, with heads that may be supervised to sink.

The loss is the next-token cross-entropy, plus what the demand adds (`sinkscope.lab.demand`), plus
the family's own balancing loss where it routes to experts. With the same recipe, text, machine and
versions the weights are the same to the bit, also after a run was cut short and resumed. On CUDA
matrix products run in bfloat16 and the model is compiled; on the CPU neither. Of several processes
(`sinkscope.lab.ranks`) the first logs, measures and writes.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkscope.errors import InputError, Interrupted
from sinkscope.lab import ranks
from sinkscope.lab.data import Data
from sinkscope.lab.demand import Supervised, delimiter_ids, supervising
from sinkscope.lab.metrics import QUICK, quick_figures
from sinkscope.lab.model import build_model
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.lab.state import (
    LOG,
    STATE,
    check_out,
    cut_back,
    load_state,
    make_folder,
    save_checkpoint,
    save_final,
    save_state,
)
from sinkscope.lab.tokens import restarting_positions

SAVE_EVERY, VALIDATE_EVERY = 100, 100
IGNORED = -100  # as a target: no loss is taken there
Log = Callable[[dict], None]
Measure = Callable[[PreTrainedModel], dict]


class Stopped(Exception):
    """A run that `stop` ended before its last step, with its state saved."""


@dataclass
class Training:
    """All that the next step depends on."""

    recipe: TrainingRecipe
    data: Data
    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0

    def state(self) -> dict:
        """Plain tensors and numbers, for `load`."""
        return {
            "step": self.step,
            "recipe": json.dumps(self.recipe.as_dict()),
            "sha256": self.data.sha256,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
        }

    def load(self, state: dict) -> None:
        """Go on where `state` was taken."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])


def begin(recipe: TrainingRecipe, data: Data, device: str = "cpu") -> Training:
    """A run before its first step."""
    model = build_model(recipe, data.tokenizer.bos_token_id, data.tokenizer.eos_token_id)
    model.to(torch.device(device))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(recipe.seed)
    return Training(recipe, data, model, _optimizer(model, recipe), generator)


def fit(
    training: Training,
    log: Log = lambda row: None,
    save: Callable[[int], None] = lambda step: None,
    keep: Callable[[dict], None] = lambda state: None,
    measure: Measure | None = None,
    every: int = VALIDATE_EVERY,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the last step; `log` gets a row a step, `save` the steps to keep, `keep` the state.

    A row has step, loss, gradient_norm, lr and tokens_per_second, demand_share where a demand is
    measured, and every so many steps `validation`: what `measure` says of the model, by default
    loss and sink figures on held-out windows. Where `stop` says so after a step, the state is kept
    and Stopped is raised.
    """
    recipe, model = training.recipe, training.model
    forward = ranks.parallel(model)
    forward = torch.compile(forward) if model.device.type == "cuda" else forward
    measure = measure or _quick(training)
    if training.step == 0 and ranks.first():
        keep(training.state())
        log({"step": 0, "validation": measure(model)})
        if 0 in recipe.checkpoints:
            save(0)
    model.train()
    with _demand(training) as supervised:
        while training.step < recipe.steps:
            row = _step(training, forward, supervised)
            last = training.step == recipe.steps
            # the first process' clock decides for all
            stopped = not last and ranks.mean(float(ranks.first() and stop())) > 0
            if ranks.first():
                if last or training.step % every == 0:
                    row["validation"] = measure(model)
                log(row)
                if training.step in recipe.checkpoints:
                    save(training.step)
                if last or stopped or training.step % SAVE_EVERY == 0:
                    keep(training.state())
            if stopped:
                raise Stopped
    model.eval()


def _step(training: Training, forward: Callable, supervised: Supervised | None) -> dict:
    """One step of the optimizer, and its row. Raises InputError for a loss that is no number."""
    recipe, model, step = training.recipe, training.model, training.step
    start = time.perf_counter()
    batch = ranks.share(training.data.batch(recipe, training.generator)).to(model.device)
    rate = _set_rate(training.optimizer, recipe.learning_rate_at(step))
    half = model.device.type == "cuda" or recipe.precision == "bf16"
    with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
        out = forward(**model_inputs(batch[:, :-1], training), use_cache=False)
    loss = nn.functional.cross_entropy(
        out.logits.float().flatten(0, 1), targets(batch, training).flatten()
    )
    row: dict = {"step": step + 1, "loss": ranks.mean(loss.item())}
    if not math.isfinite(row["loss"]):
        raise InputError(f"the loss is no number at step {step + 1}: lower learning_rate.")
    if supervised is not None and recipe.demand is not None:
        share = supervised.log_share()
        row["demand_share"] = math.exp(share.item())
        loss = loss + recipe.demand.penalty(share, supervised.log_ratio(), step)
    if getattr(out, "aux_loss", None) is not None:
        loss = loss + model.config.router_aux_loss_coef * out.aux_loss
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.step = step + 1
    seconds = time.perf_counter() - start
    return row | {
        "gradient_norm": norm.item(),
        "lr": rate,
        "tokens_per_second": ranks.world() * batch[:, 1:].numel() / seconds,
    }


def _quick(training: Training) -> Measure:
    windows = training.data.validation(QUICK, max(training.recipe.lengths))
    return lambda model: quick_figures(model, windows, training.recipe.watched_heads())


def _demand(training: Training):
    demand = training.recipe.demand
    if demand is None:
        return contextlib.nullcontext()
    wanted = None
    if demand.delimiters:
        wanted = delimiter_ids(training.data.tokenizer, demand.delimiters).to(training.model.device)
    return supervising(training.model, demand, wanted)


def model_inputs(ids: Tensor, training: Training) -> dict[str, Tensor]:
    """What the model is called with: ids [B, T], and for packed paragraphs position ids [B, T].

    These count from 0 in each paragraph.
    """
    if training.recipe.packing != "paragraphs":
        return {"input_ids": ids}
    eos = training.data.tokenizer.eos_token_id
    return {"input_ids": ids, "position_ids": restarting_positions(ids, eos)}


def targets(batch: Tensor, training: Training) -> Tensor:
    """What is to be predicted, [batch, position]; IGNORED from position zero under TNLM.

    In packed paragraphs that is the first position of each.
    """
    following = batch[:, 1:]
    if training.recipe.first_loss:
        return following
    positions = model_inputs(batch[:, :-1], training).get("position_ids")
    if positions is None:
        positions = torch.arange(following.shape[1], device=batch.device).expand_as(following)
    return following.masked_fill(positions == 0, IGNORED)


def _optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
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


def train(
    recipe: TrainingRecipe,
    data: Data,
    out: Path,
    device: str = "cpu",
    resume: bool = False,
    log: Log = lambda row: None,
    **options: Any,
) -> PreTrainedModel:
    """Train into the folder `out`, and return the trained model; see `sinkscope.lab.state`.

    options: measure, every and stop, as in `fit`.

    Errors: InputError where `out` exists, or cannot be resumed; Interrupted on Ctrl-C, which
    leaves a state to resume from; Stopped where `stop` ended it.
    """
    if ranks.first():
        check_out(out, resume)
        make_folder(out)
    ranks.wait()
    training = _begun(recipe, data, out, device, resume)
    ranks.wait()
    parts = (training.model, data.tokenizer, recipe)
    try:
        with (out / LOG).open("a", encoding="utf-8") as lines:

            def write(row: dict) -> None:
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                log(row)

            fit(
                training,
                write,
                lambda step: save_checkpoint(out, step, *parts),
                lambda state: save_state(out, state),
                **options,
            )
        if ranks.first():
            save_final(out, *parts)
        ranks.wait()
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted at step {training.step}; go on with --resume --out {out}."
        ) from None
    return training.model


def _begun(recipe: TrainingRecipe, data: Data, out: Path, device: str, resume: bool) -> Training:
    """A run at its beginning, or where it was cut short."""
    training = begin(recipe, data, device)
    if resume and (out / STATE).is_file():
        training.load(load_state(out, recipe, data.sha256))
        ranks.wait()
        if ranks.first():
            cut_back(out, training.step)
    elif ranks.first():
        (out / LOG).unlink(missing_ok=True)  # of a run that was cut short before its first state
    return training
