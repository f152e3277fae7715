"""Rows of token ids cut from documents, and what has to be said of them."""

from __future__ import annotations

import difflib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sinkscope.errors import InputError
from sinkscope.subject.opening import Opening

MOST_UNKNOWN = 0.1  # share of unknown tokens beyond which a text says little of a model
SHOWN_BACK, LEAST_ALIKE = 64, 0.5  # tokens that are decoded again; share of letters that agree
PIECE = 1 << 20  # characters that are encoded at a time


@dataclass
class Rows:
    """Rows of ids as they were cut.

    bos    with or without: what position zero holds
    notes  what was left out or differs from what was asked for, a sentence each
    documents  number of the document that each row was cut from; none where there are none
    """

    ids: list[list[int]]
    bos: str
    notes: list[str] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)


def text_rows(
    tokenizer: Any,
    opening: Opening,
    documents: list[str],
    *,
    n: int,
    length: int,
    bos: str,
    generator: torch.Generator,
    by_turns: bool = False,
) -> Rows:
    """At most `n` rows of at most `length` tokens under a BOS policy.

    Windows are drawn from all documents, or from each in turn. Where there are fewer
    than `n` whole windows, documents that are shorter than one are rows as they are. BOS that a
    text brings itself is taken off, and put back under "with": each row has it once or not at all.
    """
    if tokenizer is None:
        raise InputError("this model folder has no tokenizer; use --prompts random or repeat.")
    streams = [_encoded(tokenizer, document) for document in documents]
    given_back = _not_given_back(streams[0], documents[0], tokenizer)
    brought = sum(opening.begins(stream) for stream in streams)
    policy = opening.policy(bos, brought == len(streams))
    first = list(opening.ids) if policy == "with" else []
    streams = [opening.without(stream) for stream in streams]
    body = length - len(first)
    first_with = {document: i for i, document in reversed(list(enumerate(documents)))}
    same = [first_with[document] for document in documents]  # a copy is no further document
    cut, origin = _cut(streams, same, n, body, opening, generator, by_turns)
    notes = [*opening.notes(policy), *_own_bos(opening, policy, brought, len(streams))]
    notes += _lengths(streams, cut, n, length, body)
    notes += _inside(cut, opening)
    notes += _unknown(cut, tokenizer) or given_back
    return Rows([first + row for row in cut], policy, notes, origin)


def _encoded(tokenizer: Any, document: str) -> array[int]:
    """Token ids of a document, encoded piece by piece: an encoder holds a hundred times its text.

    Only a document longer than PIECE is cut, at the end of a line where there is one.
    """
    ids = array("q")  # a tokenizer may know ids that no model has
    start = 0
    while start < len(document):
        stop = start + PIECE
        if stop < len(document):
            stop = max(document.rfind("\n", start, stop), document.rfind(" ", start, stop)) or stop
            stop = stop if stop > start else start + PIECE
        piece = document[start:stop]
        ids.extend(tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"])
        start = stop
    return ids


def in_turn(documents: Sequence[int]) -> list[int]:
    """Indices of rows by turns: one of each document before a second of any, else in order."""
    before: Counter[int] = Counter()
    turns = []
    for document in documents:
        turns.append(before[document])
        before[document] += 1
    return sorted(range(len(turns)), key=turns.__getitem__)


def _cut(
    streams: list[array[int]],
    same: list[int],
    n: int,
    body: int,
    opening: Opening,
    generator: torch.Generator,
    by_turns: bool,
) -> tuple[list[list[int]], list[int]]:
    """Rows, and the number of the document that each was cut from; same: of each stream."""
    whole = [
        (s, start)
        for s, stream in enumerate(streams)
        for start in range(0, len(stream) - body + 1, body)
    ]
    drawn = [whole[i] for i in torch.randperm(len(whole), generator=generator).tolist()]
    order = in_turn([same[s] for s, _ in drawn]) if by_turns else range(len(drawn))
    rows = []
    for s, start in (drawn[i] for i in order[:n]):
        stream = streams[s]
        while opening.begins(stream[start : start + 1]):  # a window must not begin inside with BOS
            start += 1
        rows.append((list(stream[start : start + body]), s))
    short = [(list(stream), s) for s, stream in enumerate(streams) if 2 <= len(stream) < body]
    kept = [row for row in rows if len(row[0]) == body] + short[: n - len(rows)]
    return [ids for ids, _ in kept], [same[s] for _, s in kept]


def _own_bos(opening: Opening, policy: str, brought: int, documents: int) -> list[str]:
    """What became of the BOS that documents brought."""
    if not brought:
        return []
    who = f"{brought} of {documents} documents begin with {opening.text} of their own"
    if policy == "with":
        return [f"{who}: every prompt has it once, at position zero."]
    return [f"{who}; it was taken off, so that position zero holds the text's first token."]


def _lengths(
    streams: list[array[int]], cut: list[list[int]], n: int, length: int, body: int
) -> list[str]:
    """What is to be said where documents are shorter than a prompt, or prompts fewer than asked."""
    notes = []
    short = sum(len(stream) < body for stream in streams)
    used = [len(row) for row in cut if len(row) < body]
    if used:
        are = "are whole documents" if len(used) > 1 else "is a whole document"
        span = str(min(used)) if min(used) == max(used) else f"{min(used)} to {max(used)}"
        which = f"{len(used)} of {len(cut)} prompts" if len(cut) > 1 else "The prompt"
        notes.append(f"{which} {are} shorter than {length} tokens ({span} tokens of text).")
    if short > len(used):
        notes.append(
            f"{short - len(used)} of {len(streams)} documents are too short for a prompt of "
            f"{length} tokens and were not used."
        )
    if len(cut) < n:
        notes.append(f"The text gave {len(cut)} prompt{'s' * (len(cut) != 1)}, not {n}.")
    return notes


def _inside(cut: list[list[int]], opening: Opening) -> list[str]:
    """BOS tokens behind position zero: a concatenated text, or one before every sentence."""
    places = (
        [[i for i, token in enumerate(row) if token == opening.ids[0]] for row in cut]
        if (opening.ids)
        else []
    )
    held = [each for each in places if each]
    if not held:
        return []
    return [
        f"{opening.text} also stands inside {len(held)} of {len(cut)} prompts, "
        f"{sum(map(len, held)) / len(held):.1f} times in each of them: those are later positions, "
        "not position zero."
    ]


def _unknown(cut: list[list[int]], tokenizer: Any) -> list[str]:
    """A text that the tokenizer does not know: another language, or another model's tokenizer."""
    try:
        unknown = tokenizer.unk_token_id
    except RecursionError:  # one that is not in the vocabulary stands for itself
        return []
    held = sum(map(len, cut))
    share = sum(row.count(unknown) for row in cut) / held if held and unknown is not None else 0.0
    if share <= MOST_UNKNOWN:
        return []
    return [
        f"{100 * share:.0f} % of the tokens are {tokenizer.unk_token!r}: the tokenizer does not "
        "know this text, or is not the one that the model was trained with."
    ]


def _not_given_back(stream: array[int], document: str, tokenizer: Any) -> list[str]:
    """A tokenizer that decodes other letters than it encoded: its files do not belong together.

    Special tokens are decoded too, since a chat holds them as text.
    """
    back = tokenizer.decode(list(stream[:SHOWN_BACK]))
    letters = [c for c in back.casefold() if c.isalnum()]
    wanted = [c for c in document[: 8 * len(back) + 64].casefold() if c.isalnum()][: len(letters)]
    same = difflib.SequenceMatcher(None, letters, wanted, autojunk=False).ratio()
    if not wanted or same > LEAST_ALIKE:
        return []
    return [
        f"The tokenizer makes {back[:40]!r} of a text that begins with {document[:40]!r}: its "
        "files do not belong together, or it leaves out what it does not know."
    ]
