"""Tokens for training: tokenizers, the encoded text, random windows of it."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<s>", "</s>"


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with `size` entries; BOS and EOS are defined but never added by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return byte_level(tokenizer)


def byte_level(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer of `train_tokenizer` as transformers wants it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def bundled_tokenizer() -> PreTrainedTokenizerFast:
    """The byte-level BPE of 2,048 entries that the induced series share."""
    return PreTrainedTokenizerFast.from_pretrained(str(files("sinkscope") / "assets" / "tokenizer"))


def character_tokenizer(characters: str) -> PreTrainedTokenizerFast:
    """One token a character, after BOS (0) and EOS (1)."""
    vocabulary = {token: i for i, token in enumerate([BOS, EOS, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=EOS))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


def encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, bos: bool = False) -> Tensor:
    """All documents as one stream [tokens], int32: an EOS after each, with `bos` a BOS before."""
    return torch.from_numpy(np.concatenate([*encoded_pieces(texts, tokenizer, bos)]))


def encoded_pieces(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, bos: bool = False
) -> Iterator[np.ndarray]:
    """The stream of `encode` piece by piece, int32 [tokens]."""
    for text in texts:
        if bos:
            yield np.array([tokenizer.bos_token_id], dtype=np.int32)
        for paragraph in tokenizer.backend_tokenizer.encode_batch(_chunks(text)):
            yield np.array(paragraph.ids, dtype=np.int32)
        yield np.array([tokenizer.eos_token_id], dtype=np.int32)


def _chunks(text: str) -> list[str]:
    # A paragraph at a time: the BPE never merges across white space, and short inputs are faster.
    first, *rest = text.split("\n\n")
    return [first, *("\n\n" + paragraph for paragraph in rest)]


def draw_windows(
    stream: Tensor, count: int, length: int, generator: torch.Generator, bos: int | None = None
) -> Tensor:
    """Ids [count, length + 1] from random places of a stream [tokens]; the last is a target only.

    A window starts anywhere, so that any token can come first, unless `bos` is put in front.
    """
    taken = length + (bos is None)
    starts = torch.randint(len(stream) - taken + 1, (count,), generator=generator)
    drawn = stream[starts[:, None] + torch.arange(taken)].long()
    return drawn if bos is None else nn.functional.pad(drawn, (1, 0), value=bos)


def draw_length(lengths: Sequence[int], generator: torch.Generator) -> int:
    """One of the lengths, each as likely."""
    return lengths[int(torch.randint(len(lengths), (), generator=generator))]


def restarting_positions(ids: Tensor, eos: int) -> Tensor:
    """Position ids that count from 0 again behind each EOS, shaped as `ids` [batch, position].

    transformers reads them as packed documents, each of which attends only to itself.
    """
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    starts = nn.functional.pad(ids[:, :-1] == eos, (1, 0), value=True)
    return place - torch.where(starts, place, 0).cummax(-1).values
