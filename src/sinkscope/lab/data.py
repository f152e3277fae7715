"""Text for one run, encoded: where training batches and validation windows come from."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sinkscope.errors import InputError
from sinkscope.lab.backcopy import Backcopy
from sinkscope.lab.corpus import texts_of
from sinkscope.lab.recipe import Recipe
from sinkscope.lab.tokens import (
    bundled_tokenizer,
    draw_length,
    draw_windows,
    encode,
    train_tokenizer,
)

Draw = Callable[[int, int, torch.Generator], Tensor]
VALIDATION_SEED = 0


@dataclass
class Data:
    """What a run reads.

    draw, draw_validation: (count, length, generator) -> token ids `(count, length + 1)`, the last
    of each row a target only. sha256: of all that training batches are drawn from.
    """

    tokenizer: PreTrainedTokenizerFast
    draw: Draw
    draw_validation: Draw
    sha256: str

    def batch(self, recipe: Recipe, generator: torch.Generator) -> Tensor:
        """One training step's windows; their length is drawn anew for each batch."""
        length = draw_length(recipe.lengths, generator)
        return self.draw(recipe.tokens_per_step // length, length, generator)

    def validation(self, count: int, length: int) -> Tensor:
        """The same windows of held-out text at every call."""
        return self.draw_validation(count, length, torch.Generator().manual_seed(VALIDATION_SEED))


def prepare(recipe: Recipe, corpus: Path | None) -> Data:
    """Read and encode what a recipe trains on: a corpus folder, or the bundled excerpt.

    Errors: InputError for a corpus that is missing, broken or too short for the windows.
    """
    texts, held_out = texts_of(corpus, "train"), texts_of(corpus, "validation")
    if recipe.data == "bigram-backcopy":
        return _backcopy(recipe, texts)
    packed = recipe.packing == "paragraphs"
    if packed:
        texts, held_out = _paragraphs(texts), _paragraphs(held_out)
    if recipe.tokenizer == "bundled":
        tokenizer = bundled_tokenizer()
    else:
        tokenizer = train_tokenizer(texts, recipe.vocabulary)
        tokenizer.model_max_length = recipe.context
    train, validation = (encode(t, tokenizer, packed and recipe.bos) for t in (texts, held_out))
    if min(len(train), len(validation)) <= max(recipe.lengths) + 1:
        raise InputError("The corpus is too short for one window of training or validation text.")
    bos = tokenizer.bos_token_id if recipe.bos and not packed else None
    return Data(
        tokenizer,
        lambda count, length, generator: draw_windows(train, count, length, generator, bos),
        lambda count, length, generator: draw_windows(validation, count, length, generator, bos),
        hashlib.sha256(train.numpy().tobytes()).hexdigest(),
    )


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [paragraph for text in texts for paragraph in text.split("\n\n") if paragraph.strip()]


def _backcopy(recipe: Recipe, texts: list[str]) -> Data:
    language = Backcopy(texts, recipe.vocabulary - 2)
    bos = language.tokenizer.bos_token_id if recipe.bos else None

    def draw(count: int, length: int, generator: torch.Generator) -> Tensor:
        return language.draw(count, length, generator, bos)

    # Every window is new, so that a training batch and a validation window never meet.
    digest = hashlib.sha256(language.bigram.numpy().tobytes()).hexdigest()
    return Data(language.tokenizer, draw, draw, digest)
