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

    def batch(self, recipe: Recipe, generator: torch.Generator) -> Tensor:
        """One training step's windows; their length is drawn anew for each batch."""
        length = draw_length(recipe.lengths, generator)
        windows = self.draw(recipe.tokens_per_step // length, length, generator)
        if recipe.first == "any":
            windows[:, 0] = torch.randint(
                recipe.vocabulary, windows[:, 0].shape, generator=generator
            )
        return windows

    def validation(self, count: int, length: int) -> Tensor:
        """The same windows of held-out text at every call."""
        return validation_windows(self.draw_validation, count, length)


def prepare(recipe: Recipe, corpus: Path | None) -> Data:
    """Read and encode what a recipe trains on: a corpus folder, or the bundled excerpt.

    Errors: InputError for a corpus that is missing, broken or too short for the windows.
    """
    if recipe.data == "bigram-backcopy":
        language = Backcopy(texts_of(corpus, "train"), recipe.vocabulary - 2)
        draw = _of_language(language, recipe, TRAINING_SEED, DOCUMENTS)
        digest = hashlib.sha256(language.bigram.numpy().tobytes()).hexdigest()
        return Data(language.tokenizer, draw, held_out(recipe, corpus, language.tokenizer), digest)
    texts = _texts(recipe, corpus, "train")
    if recipe.tokenizer == "bundled":
        tokenizer = bundled_tokenizer()
    else:
        tokenizer = train_tokenizer(texts, recipe.vocabulary)
        tokenizer.model_max_length = recipe.context
    draw_validation = held_out(recipe, corpus, tokenizer)
    stream = _encoded(texts, tokenizer, recipe)
    digest = hashlib.sha256(stream.numpy().tobytes()).hexdigest()
    return Data(tokenizer, _of_stream(stream, tokenizer, recipe), draw_validation, digest)


def reads_alike(one: Recipe, other: Recipe) -> bool:
    """Whether `prepare` gives both recipes the same data."""

    def read(recipe: Recipe) -> tuple:
        text = recipe.data, recipe.tokenizer, recipe.vocabulary, recipe.packing, recipe.bos
        return *text, recipe.context, max(recipe.lengths)

    return read(one) == read(other)


def held_out(recipe: Recipe, corpus: Path | None, tokenizer: PreTrainedTokenizerFast) -> Draw:
    """Where validation windows come from; of a synthetic language every window is new anyway."""
    if recipe.data == "bigram-backcopy":
        language = Backcopy(texts_of(corpus, "train"), recipe.vocabulary - 2)
        return _of_language(language, recipe, VALIDATION_SEED, DOCUMENTS // 10)
    stream = _encoded(_texts(recipe, corpus, "validation"), tokenizer, recipe)
    return _of_stream(stream, tokenizer, recipe)


def validation_windows(draw: Draw, count: int, length: int) -> Tensor:
    """The same windows at every call."""
    return draw(count, length, torch.Generator().manual_seed(VALIDATION_SEED))


def _texts(recipe: Recipe, corpus: Path | None, split: str) -> list[str]:
    return documents(recipe, texts_of(corpus, split))


def documents(recipe: Recipe, texts: list[str]) -> list[str]:
    """What a recipe packs: whole texts, or their paragraphs."""
    if recipe.packing == "windows":
        return texts
    return [paragraph for text in texts for paragraph in text.split("\n\n") if paragraph.strip()]


def _encoded(texts: list[str], tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Tensor:
    stream = encode(texts, tokenizer, bos=recipe.bos and recipe.packing == "paragraphs")
    if len(stream) <= max(recipe.lengths) + 1:
        raise InputError("The corpus is too short for one window of training or validation text.")
    return stream


def _of_stream(stream: Tensor, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Draw:
    bos = tokenizer.bos_token_id if recipe.bos else None
    if bos is None or recipe.packing != "paragraphs":
        return lambda count, length, generator: draw_windows(stream, count, length, generator, bos)

    def draw(count: int, length: int, generator: torch.Generator) -> Tensor:
        rows = draw_windows(stream, count, length, generator)
        rows[:, 0] = bos  # what is left of a paragraph that the row cuts begins with BOS too
        return rows

    return draw


def _of_language(language: Backcopy, recipe: Recipe, seed: int, documents: int) -> Draw:
    if recipe.packing != "windows":
        generator = torch.Generator().manual_seed(seed)
        bos_of_each = recipe.bos and recipe.packing == "paragraphs"
        stream = language.packed(documents, generator, bos_of_each)
        return _of_stream(stream, language.tokenizer, recipe)
    bos = language.tokenizer.bos_token_id if recipe.bos else None
    return lambda count, length, generator: language.draw(count, length, generator, bos)
