"""What identifies the content of a model: what is hashed of a folder or file, or a Hub commit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from sinkscope.errors import InputError, first_line
from sinkscope.files import expanded
from sinkscope.known.constructed import draw_spec
from sinkscope.model_runs.plan import ModelEntry
from sinkscope.subject.adapters import find_adapter
from sinkscope.subject.folder import READ, bundled_model, refuse_bad_id
from sinkscope.subject.offline import hub_forbidden
from sinkscope.subject.place import BUNDLED

BLOCK = 1 << 20  # bytes


def content_of(entry: ModelEntry, offline: bool) -> str:
    """A text that changes with whatever a run of this model could read of it.

    Raises InputError where there is no such model.
    """
    if entry.constructed:
        spec = draw_spec(entry.constructed, entry.seed, **entry.drawn)
        return json.dumps(spec.as_dict())
    path = bundled_model() if entry.model == BUNDLED else expanded(entry.model)
    if path.exists():
        return _on_disk(path, entry.gguf_file)
    refuse_bad_id(entry.model)
    return f"{entry.model}@{_commit(entry, offline)}/{entry.gguf_file or ''}"


def _on_disk(path: Path, gguf_file: str | None) -> str:
    if path.is_file():
        return _hash([path])
    if gguf_file is not None:
        return _hash([path / gguf_file])
    files = sorted(each for each in path.iterdir() if each.suffix in READ and each.is_file())
    adapter = find_adapter(path)
    if adapter is None:
        return _hash(files)
    base = Path(adapter.base)
    return f"{_hash(files)} on {_on_disk(base, None) if base.is_dir() else adapter.base}"


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0")
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as handle:
        yield from iter(lambda: handle.read(BLOCK), b"")


def _commit(entry: ModelEntry, offline: bool) -> str:
    import huggingface_hub

    from sinkscope.training_runs.hub import hub_errors

    failures: tuple[type[BaseException], ...] = (*hub_errors(), ValueError)
    try:
        if not offline:
            info = huggingface_hub.HfApi().model_info(entry.model, revision=entry.revision)
            return str(info.sha)
        with hub_forbidden(True):
            return Path(
                huggingface_hub.snapshot_download(
                    entry.model, revision=entry.revision, local_files_only=True
                )
            ).name
    except failures as error:
        raise InputError(f"{entry.model} cannot be found on the Hub: {first_line(error)}") from None
