"""The encoded text of a run: in memory, or on disk and mapped.

On disk it is encoded once, by the first process; other processes and later starts map what is there
and hold no tokens in memory:

    FOLDER/TEXT/tokenizer.json             the tokenizer
    FOLDER/TEXT/train.bin, validation.bin  token ids, 32 bit, little-endian
    FOLDER/TEXT/encoded.json               their counts, and the hash of train.bin; written last

TEXT is named after all that the tokens depend on beside the corpus.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sinkscope.errors import InputError
from sinkscope.files import write_json, write_whole
from sinkscope.lab import ranks
from sinkscope.lab.corpus import SPLITS, texts_of
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.lab.tokens import (
    bundled_tokenizer,
    byte_level,
    encode,
    encoded_pieces,
    train_tokenizer,
)

DONE, TOKENIZER = "encoded.json", "tokenizer.json"
BYTES = 4  # a token


@dataclass
class Encoded:
    """Token ids of both splits as int32 [tokens], and the SHA-256 of the training split's."""

    tokenizer: PreTrainedTokenizerFast
    streams: dict[str, Tensor]
    sha256: str


def encode_in_memory(recipe: TrainingRecipe, corpus: Path | None) -> Encoded:
    """Read and encode both splits. Errors: InputError for a corpus that is missing or broken."""
    tokenizer = _tokenizer(recipe, corpus)
    streams = {
        split: encode(documents(recipe, corpus, split), tokenizer, begins_with_bos(recipe))
        for split in SPLITS
    }
    sha256 = hashlib.sha256(streams["train"].numpy().tobytes()).hexdigest()
    return Encoded(tokenizer, streams, sha256)


def encode_on_disk(recipe: TrainingRecipe, corpus: Path | None, folder: Path) -> Encoded:
    """The same, mapped from files below `folder`, which the first process makes if need be.

    Errors: InputError also for files that are damaged, OutOfResources where the disk is full.
    """
    place = folder / _name(recipe)
    if ranks.first() and not (place / DONE).is_file():
        _write(recipe, corpus, place)
    ranks.wait()
    return _mapped(place, recipe)


def documents(recipe: TrainingRecipe, corpus: Path | None, split: str) -> Iterator[str]:
    """What a recipe packs, in order: whole texts, or their paragraphs."""
    for text in texts_of(corpus, split):
        if recipe.packing == "windows":
            yield text
        else:
            yield from (paragraph for paragraph in text.split("\n\n") if paragraph.strip())


def begins_with_bos(recipe: TrainingRecipe) -> bool:
    """Whether a BOS stands before every document of the stream."""
    return recipe.bos and recipe.packing == "paragraphs"


def _name(recipe: TrainingRecipe) -> str:
    bos = "-bos" if begins_with_bos(recipe) else ""
    packed = "texts" if recipe.packing == "windows" else "paragraphs"
    return f"{recipe.tokenizer}-{recipe.vocabulary}-{packed}{bos}"


def _tokenizer(recipe: TrainingRecipe, corpus: Path | None) -> PreTrainedTokenizerFast:
    if recipe.tokenizer == "bundled":
        return bundled_tokenizer()
    return train_tokenizer(documents(recipe, corpus, "train"), recipe.vocabulary)


def _write(recipe: TrainingRecipe, corpus: Path | None, place: Path) -> None:
    tokenizer = _tokenizer(recipe, corpus)
    counts, digests = {}, {}
    for split in SPLITS:
        texts = documents(recipe, corpus, split)
        pieces = encoded_pieces(texts, tokenizer, begins_with_bos(recipe))
        counts[split], digests[split] = _write_stream(place / f"{split}.bin", pieces)
    write_whole(place / TOKENIZER, tokenizer.backend_tokenizer.to_str().encode())
    write_json(place / DONE, {"tokens": counts, "sha256": digests["train"]})


def _write_stream(path: Path, pieces: Iterator[np.ndarray]) -> tuple[int, str]:
    """Write a stream piece by piece; how many tokens it has, and its hash."""
    digest, count = hashlib.sha256(), 0

    def contents() -> Iterator[bytes]:
        nonlocal count
        for piece in pieces:
            count += len(piece)
            content = piece.astype("<i4").tobytes()
            digest.update(content)
            yield content

    write_whole(path, contents())
    return count, digest.hexdigest()


def _mapped(place: Path, recipe: TrainingRecipe) -> Encoded:
    try:
        held = json.loads((place / DONE).read_text(encoding="utf-8"))
        for split, count in held["tokens"].items():
            if (place / f"{split}.bin").stat().st_size != count * BYTES:
                raise ValueError(f"{split}.bin has another length")
        streams = {
            split: torch.from_file(
                str(place / f"{split}.bin"), shared=False, size=count, dtype=torch.int32
            )
            for split, count in held["tokens"].items()
        }
        own = byte_level(Tokenizer.from_str((place / TOKENIZER).read_text(encoding="utf-8")))
        tokenizer = own if recipe.tokenizer == "own" else bundled_tokenizer()
        return Encoded(tokenizer, streams, held["sha256"])
    except Exception as error:  # the tokenizers library raises no other kind
        raise InputError(f"{place} is damaged: remove it and run again.") from error
