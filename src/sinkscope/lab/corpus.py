"""Text for training: a folder with `train.jsonl.xz` and `validation.jsonl.xz`.

Each line of either file is one JSON object with the key `text`, one document.
"""

import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from sinkscope.errors import InputError

SPLITS = ("train", "validation")


def split_path(folder: str | Path, split: str) -> Path:
    """Path of one split's file; a `InputError` when it is not there."""
    if split not in SPLITS:
        raise InputError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
    path = Path(folder) / f"{split}.jsonl.xz"
    if not path.is_file():
        raise InputError(
            f"No corpus at {path}: give a folder that holds train.jsonl.xz and "
            "validation.jsonl.xz, one JSON object with a `text` a line."
        )
    return path


def read_texts(folder: str | Path, split: str) -> Iterator[str]:
    """The documents of one split, in file order."""
    path = split_path(folder, split)
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _text(line, path, number)
        except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as xz-compressed UTF-8: {error}.") from error


def texts_of(folder: Path | None, split: str) -> Iterable[str]:
    """The documents of one split, one after the other; without a folder, of the bundled excerpt.

    Of the excerpt, `validation` is the last tenth of each of its seven documents.
    """
    if folder is not None:
        return read_texts(folder, split)
    text = (files("sinkscope") / "assets" / "excerpt.txt").read_text(encoding="utf-8")
    documents = text.rstrip("\n").split("\n\f\n")
    cuts = [d.index("\n\n", int(len(d) * 0.9)) for d in documents]
    if split == "train":
        return [d[:cut] for d, cut in zip(documents, cuts)]
    return [d[cut + 2 :] for d, cut in zip(documents, cuts)]


def texts_sha256(folder: Path | None) -> str:
    """Hash of the documents of both splits."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for text in texts_of(folder, split):
            digest.update(text.encode("utf-8"))
    return digest.hexdigest()


def _text(line: str, path: Path, number: int) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise InputError(f"{path}, line {number} is not a JSON object with a string `text`.")
    return text
