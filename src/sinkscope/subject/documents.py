"""Documents that prompts are cut from: the bundled excerpt, a file, or a Hub data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError
from sinkscope.settings import BUILTIN

Render = Callable[[Any], str]  # messages of a chat -> its text


def read_documents(text: str, render: Render | None = None) -> tuple[list[str], str]:
    """Read documents from "builtin", a .txt or .jsonl file, or "hub:NAME".

    render  turns the field "messages" of a .jsonl line into text (see `chat_renderer`)
    """
    if text == BUILTIN:
        file = Path(__file__).resolve().parent.parent / "assets" / "excerpt.txt"
        return _nonempty(file.read_text(encoding="utf-8").split("\f"), "the excerpt"), BUILTIN
    if text.startswith("hub:"):
        return _nonempty(list(_hub_documents(text[4:])), text), text
    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"No such text file: {text}.")
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{text} is not UTF-8 text.") from None
    if path.suffix == ".jsonl":
        documents = [
            _text_of(line, text, i, render)
            for i, line in enumerate(content.split("\n"), 1)
            if line.strip()
        ]
    else:
        documents = content.split("\f")
    return _nonempty(documents, text), path.name


def chat_renderer(tokenizer: Any) -> Render:
    """What renders chats with the template of a tokenizer. InputError where it has none."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("--chat-template: the tokenizer of this model has no chat template.")
    return lambda messages: tokenizer.apply_chat_template(messages, tokenize=False)


def _text_of(line: str, source: str, number: int, render: Render | None) -> str:
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{source}, line {number}, is not JSON.") from None
    fields = entry if isinstance(entry, dict) else {}
    if "messages" in fields and render is not None:
        try:
            return render(fields["messages"])
        except Exception as error:  # noqa: BLE001 - a template is a program that comes with the model
            raise InputError(
                f"{source}, line {number}: the chat template refuses it ({error})."
            ) from None
    if isinstance(fields.get("text"), str):
        if any("\ud800" <= c <= "\udfff" for c in fields["text"]):
            raise InputError(f"{source}, line {number}, holds half a character (a surrogate).")
        return fields["text"]
    if "messages" in fields:
        raise InputError(
            f"{source}, line {number}, is a chat: --chat-template renders it with the tokenizer's "
            "template."
        )
    raise InputError(f'{source}, line {number}, has no "text" field.')


def _hub_documents(name: str) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(
            "Hub data sets need the extra: pip install 'sinkscope[datasets]'."
        ) from None
    try:
        stream = load_dataset(name, split="train", streaming=True)
        for row, _ in zip(stream, range(1000), strict=False):
            yield row["text"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"Hub data set {name!r} cannot be read ({error}).") from None


def _nonempty(documents: list[str], source: str) -> list[str]:
    kept = [document for document in documents if document.strip()]
    if not kept:
        raise InputError(f"{source} is empty: there is no text to look at.")
    return kept
