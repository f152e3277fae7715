"""What the cards measure on trained folders beside `sinkscope.lab.metrics`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkscope.errors import InputError
from sinkscope.lab.metrics import BATCH, MAPS, late_by_key, wanted_keys
from sinkscope.lab.recipe import TrainingRecipe, recipe_from
from sinkscope.lab.state import SETTINGS
from sinkscope.observe.attention import observe
from sinkscope.observe.parity import token_prompts
from sinkscope.subject.anatomy import find_anatomy
from sinkscope.subject.load import Subject


def load_recipe(folder: Path) -> TrainingRecipe:
    """The recipe in a trained folder's `sink_heads.json`."""
    path = folder / SETTINGS
    if not path.is_file():
        raise InputError(f"{path} is missing: give a folder made by sinkscope lab train.")
    return recipe_from(json.loads(path.read_text(encoding="utf-8"))["recipe"], str(path))


def distinct_windows(stream: Tensor, count: int, length: int, seed: int = 0) -> Tensor:
    """Windows [count, length + 1] from random places of a stream [tokens], no first token twice.

    Raises ValueError where the stream has fewer different tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, Tensor] = {}
    for start in torch.randint(len(stream) - length, (100 * count,), generator=generator).tolist():
        found.setdefault(int(stream[start]), stream[start : start + length + 1])
        if len(found) == count:
            return torch.stack(list(found.values())).long()
    raise ValueError(f"The text has only {len(found)} different tokens; {count} are needed.")


@torch.no_grad()
def vocabulary_share(
    model: PreTrainedModel,
    windows: Tensor,
    watched: list[tuple[int, int]],
    delimiters: Tensor | None = None,
    above: float = 0.8,
) -> float:
    """Share of all vocabulary items that, put first, leave the watched heads' late share above it.

    Each item stands at position zero of one of the windows [n, T + 1], in turn; `above` is that
    share. delimiters: ids [k] that are the target in place of position zero.
    """
    shares = []
    subject = Subject(model, None, find_anatomy(model))
    blocks, heads = zip(*watched)
    for ids in torch.arange(model.config.vocab_size).split(BATCH):
        rows = windows[ids % len(windows), :-1].clone()
        rows[:, 0] = ids
        reads, _, _ = observe(subject, token_prompts(rows), MAPS)
        late, wanted = late_by_key(reads)[:, blocks, heads].mean(1), wanted_keys(rows, delimiters)
        shares.append((late * wanted).sum(-1))
    return (torch.cat(shares) > above).double().mean().item()
