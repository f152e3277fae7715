"""Text for one run, encoded: where training batches and validation windows come from."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sinkscope.errors import InputError
from sinkscope.lab.backcopy import Backcopy
from sinkscope.lab.corpus import SPLITS, texts_of
from sinkscope.lab.encoded import (
    begins_with_bos,
    documents,
    encode_in_memory,
    encode_on_disk,
)
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.lab.tokens import draw_length, draw_windows, encode

Draw = Callable[[int, int, torch.Generator], Tensor]
VALIDATION_SEED, TRAINING_SEED = 0, 1
DOCUMENTS = 40_000  # of a synthetic language, where documents are packed


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

    def batch(self, recipe: TrainingRecipe, generator: torch.Generator) -> Tensor:
        """One training step's windows of token ids, [count, length + 1].

        The length is drawn anew for each batch, and count is tokens_per_step // length.
        """
        length = draw_length(recipe.lengths, generator)
        windows = self.draw(recipe.tokens_per_step // length, length, generator)
        if recipe.first == "any":
            windows[:, 0] = torch.randint(
                recipe.vocabulary, windows[:, 0].shape, generator=generator
            )
        return windows

    def validation(self, count: int, length: int) -> Tensor:
        """The same windows [count, length + 1] of held-out text at every call."""
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        return self.draw_validation(count, length, generator)


def prepare(recipe: TrainingRecipe, corpus: Path | None, keep: Path | None = None) -> Data:
    """Read and encode what a recipe trains on: a corpus folder, or the bundled excerpt.

    keep: a folder in which encoded text is kept and mapped (`sinkscope.lab.encoded`); without, it
    is held in memory.

    Errors: InputError for a corpus that is missing, broken or too short for the windows.
    """
    if recipe.data == "bigram-backcopy":
        language = language_of(recipe, corpus)
        draw = _of_language(language, recipe, TRAINING_SEED, DOCUMENTS)
        digest = hashlib.sha256(language.bigram.numpy().tobytes()).hexdigest()
        return Data(language.tokenizer, draw, held_out(recipe, corpus, language.tokenizer), digest)
    if keep is None:
        text = encode_in_memory(recipe, corpus)
    else:
        text = encode_on_disk(recipe, corpus, keep)
    tokenizer = text.tokenizer
    if recipe.tokenizer == "own":
        tokenizer.model_max_length = recipe.context
    draw, draw_validation = (_of_stream(text.streams[s], tokenizer, recipe) for s in SPLITS)
    return Data(tokenizer, draw, draw_validation, text.sha256)


def language_of(recipe: TrainingRecipe, corpus: Path | None) -> Backcopy:
    """The synthetic language of a recipe, estimated on its text."""
    return Backcopy(texts_of(corpus, "train"), recipe.vocabulary - 2)


def reads_alike(one: TrainingRecipe, other: TrainingRecipe) -> bool:
    """Whether `prepare` gives both recipes the same data."""

    def read(recipe: TrainingRecipe) -> tuple:
        text = recipe.data, recipe.tokenizer, recipe.vocabulary, recipe.packing, recipe.bos
        return *text, recipe.context, max(recipe.lengths)

    return read(one) == read(other)


def held_out(
    recipe: TrainingRecipe, corpus: Path | None, tokenizer: PreTrainedTokenizerFast
) -> Draw:
    """Where validation windows come from; of a synthetic language every window is new anyway."""
    if recipe.data == "bigram-backcopy":
        language = language_of(recipe, corpus)
        return _of_language(language, recipe, VALIDATION_SEED, DOCUMENTS // 10)
    texts = documents(recipe, corpus, "validation")
    return _of_stream(encode(texts, tokenizer, begins_with_bos(recipe)), tokenizer, recipe)


def _of_stream(stream: Tensor, tokenizer: PreTrainedTokenizerFast, recipe: TrainingRecipe) -> Draw:
    if len(stream) <= max(recipe.lengths) + 1:
        raise InputError("The corpus is too short for one window of training or validation text.")
    bos = tokenizer.bos_token_id if recipe.bos else None
    if bos is None or recipe.packing != "paragraphs":
        return lambda count, length, generator: draw_windows(stream, count, length, generator, bos)

    def draw(count: int, length: int, generator: torch.Generator) -> Tensor:
        rows = draw_windows(stream, count, length, generator)
        rows[:, 0] = bos  # what is left of a paragraph that the row cuts begins with BOS too
        return rows

    return draw


def _of_language(language: Backcopy, recipe: TrainingRecipe, seed: int, documents: int) -> Draw:
    if recipe.packing != "windows":
        generator = torch.Generator().manual_seed(seed)
        bos_of_each = recipe.bos and recipe.packing == "paragraphs"
        stream = language.packed(documents, generator, bos_of_each)
        return _of_stream(stream, language.tokenizer, recipe)
    bos = language.tokenizer.bos_token_id if recipe.bos else None
    return lambda count, length, generator: language.draw(count, length, generator, bos)
