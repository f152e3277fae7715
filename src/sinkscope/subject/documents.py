"""Documents that prompts are cut from: the bundled excerpt, a file, or a Hub data set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError
from sinkscope.files import expanded
from sinkscope.settings import ASSETS, BUILTIN

JSON = (".jsonl", ".ndjson", ".json")
TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".gz", ".xz", ".zst", ".zip", ".pdf", ".docx")
# What files begin with that are no text, whatever they are named; a text may begin so as well.
MAGIC = {
    b"PAR1": "a Parquet file", b"PK\x03\x04": "an archive", b"\x1f\x8b": "packed by gzip",
    b"\x28\xb5\x2f\xfd": "packed by zstd", b"\xfd7zXZ": "packed by xz", b"BZh": "packed by bzip2",
    b"%PDF": "a PDF file", b"ARROW1": "an Arrow file", b"GGUF": "a GGUF file",
    b"\xff\xfe\0\0": "text in UTF-32", b"\xff\xfe": "text in UTF-16", b"\xfe\xff": "text in UTF-16",
}  # fmt: skip
MOST_NULS = 0.01  # share of NUL among the characters of a text: UTF-16 has half
CHATS = ("conversations", "conversation", "dialog", "dialogue", "chat", "turns")
RENDERING = 10.0  # seconds that a template may take for one chat
Render = Callable[[Any], str]  # messages of a chat -> its text


def read_documents(text: str, render: Render | None = None) -> tuple[list[str], str]:
    """Read documents from "builtin", a .txt, .jsonl or .json file, or "hub:NAME".

    render  turns the field "messages" of a .jsonl line into text (see `chat_renderer`)
    """
    if text == BUILTIN:
        file = ASSETS / "excerpt.txt"
        return _nonempty(file.read_text(encoding="utf-8").split("\f"), "the excerpt"), BUILTIN
    if text.startswith("hub:"):
        return _nonempty(list(_hub_documents(text[4:])), text), text
    path = expanded(text)
    content = _content(path, text)
    if path.suffix.lower() in JSON:
        documents = [_text_of(entry, where, render) for where, entry in _entries(content, path)]
    else:
        _refuse_lines_of_json(content, text)
        documents = content.split("\f")
    return _nonempty(documents, text), path.name


def text_content(text: str) -> str:
    """A text that changes with what `read_documents` reads: the hash of a file, else its name."""
    path = expanded(text)
    known = text == BUILTIN or not path.is_file()
    return text if known else hashlib.sha256(path.read_bytes()).hexdigest()


def read_chats(text: str, render: Render) -> tuple[list[str], str]:
    """The same of a file of chats. Raises InputError where it holds none."""
    rendered = []

    def counted(messages: Any) -> str:
        rendered.append(True)
        return render(messages)

    found = read_documents(text, counted)
    if not rendered:
        raise InputError(f"--chat-template: {text} holds no chats (lines with messages).")
    return found


def refuse_no_text(text: str) -> None:
    """Raise InputError for what is no file of text by its name alone: before a model is loaded."""
    if text == BUILTIN or text.startswith("hub:"):
        return
    path = expanded(text)
    if path.suffix.lower() in TABLES:
        raise InputError(
            f"{text} is no plain text; --text wants .txt, or .jsonl with a field text."
        )
    try:
        if path.is_dir():
            raise InputError(f"{text} is a folder; --text wants a file.")
        if path.exists() and not path.is_file():
            raise InputError(f"{text} is a pipe or a device; --text wants a file.")
        there = path.is_file()
    except (OSError, ValueError):  # too long for a name, or one that no disk can hold
        there = False
    if not there:
        raise InputError(f"No such text file: {text[:200]}.")


def _content(path: Path, text: str) -> str:
    """The text of a file. Raises InputError for what is none, with what it is where that shows."""
    refuse_no_text(text)
    try:
        held = path.read_bytes()
    except OSError as error:
        raise InputError(f"{text} cannot be read: {error.strerror or error}.") from None
    start = next((start for start in MAGIC if held.startswith(start)), b"")
    try:
        content = held.decode("utf-8-sig")  # some editors put a mark first
    except UnicodeDecodeError:
        said = f"{MAGIC[start]}, " if start else ""
        raise InputError(f"{text} is {said}not UTF-8 text.") from None
    full_of_nul = content.count("\0") > MOST_NULS * len(content)
    if full_of_nul or not start.decode("latin-1").isprintable():
        said = MAGIC.get(start, "it is full of NUL, as UTF-16 and binaries are")
        raise InputError(f"{text} is not UTF-8 text: {said}.")
    return content.replace("\r\n", "\n").replace("\r", "\n")


def _refuse_lines_of_json(content: str, text: str) -> None:
    """Refuse entries of JSON in a file that is not named as such: braces are not what is meant."""
    with contextlib.suppress(ValueError, RecursionError):
        if content.lstrip()[:1] in ("{", "[") and json.loads(content):
            raise InputError(f"{text} holds JSON: name it .json to have it read so.")
    lines = [line for line in content.split("\n", 100)[:100] if line.strip()]
    try:
        objects = [isinstance(json.loads(line), dict) for line in lines]
    except (ValueError, RecursionError):
        return
    if lines and all(objects):
        raise InputError(
            f"{text} holds an object of JSON a line: name it .jsonl to have it read so."
        )


def chat_renderer(tokenizer: Any) -> Render:
    """What renders chats with the template of a tokenizer. InputError where it has none."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("--chat-template: the tokenizer of this model has no chat template.")
    return lambda messages: tokenizer.apply_chat_template(messages, tokenize=False)


def _entries(content: str, path: Path) -> Iterator[tuple[str, Any]]:
    """The entries of a JSON file, with where they stand: one a line, or those of one list."""
    with contextlib.suppress(ValueError, RecursionError):
        whole = json.loads(content)
        many = isinstance(whole, list)
        part = "entry" if many or path.suffix.lower() == ".json" else "line"
        held = enumerate(whole if many else [whole], 1)
        yield from ((f"{path}, {part} {i}", entry) for i, entry in held)
        return
    for i, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}, line {i}", json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(f"{path}, line {i}, is not JSON.") from None


def _text_of(entry: Any, where: str, render: Render | None) -> str:
    fields = entry if isinstance(entry, dict) else {}
    chat, text = fields.get("messages"), fields.get("text")
    if "messages" in fields and render is not None:
        if not isinstance(chat, list) or not all(isinstance(each, dict) for each in chat):
            raise InputError(f"{where}: its messages are no list of objects, a turn of it each.")
        try:
            with _within(RENDERING):
                text = render(chat)
        except Exception as error:  # noqa: BLE001 - a template is a program that comes with the model
            raise InputError(f"{where}: the chat template refuses it ({error}).") from None
    if isinstance(text, str):
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError(f"{where}, holds half a character (a surrogate).")
        return text
    if "messages" in fields:
        raise InputError(
            f"{where}, is a chat: --chat-template renders it with the tokenizer's template."
        )
    if not isinstance(entry, dict):
        raise InputError(f'{where}, is no object with a field "text".')
    if "text" in fields:
        raise InputError(f"{where}: its text is {json.dumps(fields['text'])[:40]}, no string.")
    there = ", ".join(map(str, list(fields)[:5])) or "none"
    hint = "; a chat is expected as messages" if set(CHATS) & set(fields) else ""
    raise InputError(f'{where}, has no "text" field, only {there[:200]}{hint}.')


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError where it takes longer; without a limit in a thread, or on Windows."""
    if not hasattr(signal, "setitimer") or threading.current_thread() != threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise TimeoutError(f"it does not end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
            if not isinstance(row["text"], str):
                raise ValueError("its text is no string")
            yield row["text"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"Hub data set {name!r} cannot be read ({error}).") from None


def _nonempty(documents: list[str], source: str) -> list[str]:
    kept = [document for document in documents if document.strip()]
    if not kept:
        raise InputError(f"{source} is empty: there is no text to look at.")
    return kept
