"""Tokens for training: a byte-level BPE, the encoded corpus, random windows of it."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
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
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """All documents as one stream of token ids, an EOS after each."""
    pieces: list[np.ndarray] = []
    for text in texts:
        paragraphs = tokenizer.backend_tokenizer.encode_batch(_chunks(text))
        pieces += [np.array(p.ids, dtype=np.int32) for p in paragraphs]
        pieces.append(np.array([tokenizer.eos_token_id], dtype=np.int32))
    return torch.from_numpy(np.concatenate(pieces))


def _chunks(text: str) -> list[str]:
    # A paragraph at a time: the BPE never merges across white space, and short inputs are faster.
    first, *rest = text.split("\n\n")
    return [first, *("\n\n" + paragraph for paragraph in rest)]


def windows(
    stream: Tensor, lengths: Sequence[int], tokens: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Endless batches `(tokens // length, length + 1)` from random places of the stream.

    The length is drawn anew for each batch. A window starts anywhere, so that any token can
    come first; the extra token is the last target.
    """
    while True:
        length = lengths[int(torch.randint(len(lengths), (), generator=generator))]
        starts = torch.randint(len(stream) - length, (tokens // length,), generator=generator)
        yield stream[starts[:, None] + torch.arange(length + 1)].long()
