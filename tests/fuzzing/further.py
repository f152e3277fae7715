"""Cases about adapters, shards, chat templates, GGUF files, encodings, and two faults at once."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzzing import models, others
from tests.fuzzing.base import ADAPTER, QUICK
from tests.fuzzing.case import ANSWERS, DONE, INPUT, RESOURCES, UNSUPPORTED, Case
from tests.fuzzing.models import random_scan, scan
from tests.fuzzing.values import DROP, byte_changes, paths_of, with_bytes, with_value, wrong_values

MAY_MATTER = frozenset({DONE, INPUT, UNSUPPORTED})
INDEX = "shards/model.safetensors.index.json"
NAMES = ("../llama/model.safetensors", "/etc/passwd", "gone.safetensors", "a" * 300, "\0", "", ".")


@st.composite
def index_case(draw: Any, base: Path) -> Case:
    """The index of shards with other values, names that lead elsewhere, or other bytes."""
    if draw(st.integers(0, 3)) == 0:
        what, change = draw(byte_changes(3000))
        return Case("index", what, with_bytes(INDEX, change), random_scan("shards"), MAY_MATTER)
    content = json.loads((base / INDEX).read_text())
    path = draw(st.sampled_from(sorted(paths_of(content), key=str)))
    value = draw(wrong_values | st.just(DROP) | st.sampled_from(NAMES))
    said = "gone" if value is DROP else repr(value)
    make = with_value(INDEX, path, value)
    return Case("index", f"{path} = {said}", make, random_scan("shards"), MAY_MATTER)


@st.composite
def adapter_case(draw: Any, base: Path) -> Case:
    """An adapter's configuration or weights, or one that names another base."""
    run, needs = random_scan("adapter"), ("llama", "gpt2", "chat.jsonl")
    way = draw(st.sampled_from(("value", "base", "bytes")))
    if way == "bytes":
        name = draw(st.sampled_from(("adapter_config.json", "adapter_model.safetensors")))
        what, change = draw(byte_changes(400))
        make = with_bytes(f"adapter/{name}", change)
        return Case("adapter", f"{name} {what}", make, run, MAY_MATTER, needs)
    if way == "base":
        path: tuple[Any, ...] = ("base_model_name_or_path",)
        value = draw(st.sampled_from((".", "..", "../gpt2", "../chat.jsonl", "", "/", "x/y", "\0")))
    else:
        path = draw(st.sampled_from(sorted(paths_of(ADAPTER), key=str)))
        value = draw(wrong_values | st.just(DROP) | st.sampled_from(("(", "q_proj", "pissa")))
    said = "gone" if value is DROP else repr(value)
    make = with_value("adapter/adapter_config.json", path, value)
    return Case("adapter", f"{path} = {said}", make, run, MAY_MATTER, needs)


TEMPLATES = (
    "", "{{", "{% for %}", "{{ messages }}", "{{ 1 / 0 }}", "{{ messages[9] }}", "{{ x.y.z }}",
    "{{ raise_exception('no') }}", "{{ 'a' * 10000000000 }}", "{% include 'x' %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__.os.system('touch ../guard/harm') }}", "{{ bos_token * 3 }}",
    "{% generation %}x{% endgeneration %}", "\ud800", "{{ '\ufffe' }}", "{{ strftime_now('%Y') }}",
)  # fmt: skip


@st.composite
def template_case(draw: Any, base: Path) -> Case:
    """A chat template that does not render, does not end or reaches for more; or odd chats."""
    more = ("--chat-template", "--bos", draw(st.sampled_from(("as-is", "with", "without"))))
    run = scan("chat", "--text", "chat.jsonl", *more)
    right = MAY_MATTER | {RESOURCES}
    if draw(st.booleans()):
        template = draw(st.sampled_from(TEMPLATES) | st.text(max_size=20))

        def make(folder: Path) -> None:
            file = folder / "chat" / "chat_template.jinja"
            file.write_text(template, encoding="utf-8", errors="replace")

        return Case("template", repr(template), make, run, right)
    line = json.loads((base / "chat.jsonl").read_text().splitlines()[0])
    path = draw(st.sampled_from(sorted(paths_of(line), key=str)))
    value = draw(wrong_values | st.just(DROP))
    said = "gone" if value is DROP else repr(value)

    def make_line(folder: Path) -> None:
        (folder / "chat.jsonl").write_text(json.dumps(line))
        with_value("chat.jsonl", path, value)(folder)

    return Case("template", f"chat {path} = {said}", make_line, run, right)


HEAD = {  # of a GGUF file: magic, version, numbers of tensors and of entries
    "version 0": (4, struct.pack("<I", 0)), "version 99": (4, struct.pack("<I", 99)),
    "other byte order": (4, struct.pack(">I", 3)), "no tensors": (8, struct.pack("<Q", 0)),
    "all tensors": (8, struct.pack("<Q", 2**63)), "no entries": (16, struct.pack("<Q", 0)),
    "all entries": (16, struct.pack("<Q", 2**62)), "a long name": (24, struct.pack("<Q", 2**60)),
    "no name": (24, struct.pack("<Q", 0)), "one entry less": (16, struct.pack("<Q", 5)),
}  # fmt: skip


@st.composite
def gguf_case(draw: Any, base: Path) -> Case:
    """The header of a GGUF file, or its bytes."""
    file = "packed/model.gguf"
    run = random_scan("packed")
    if draw(st.booleans()):
        what, change = draw(byte_changes(60_000))
    else:
        what = draw(st.sampled_from(sorted(HEAD)))
        at, new = HEAD[what]

        def change(content: bytes) -> bytes:
            return content[:at] + new + content[at + len(new) :]

    return Case("gguf", what, with_bytes(file, change), run, ANSWERS)


CODECS = ("utf-16", "utf-32", "latin-1", "cp1252", "utf-8-sig", "utf-7", "cp037", "gb18030")
SUFFIXES = (".txt", ".TXT", ".jsonl", ".JSONL", ".json", ".ndjson", "", ".csv", ".gz", ".parquet")


@st.composite
def encoding_case(draw: Any, base: Path) -> Case:
    """A text in another encoding, under another suffix, with other ends of lines."""
    codec, suffix = draw(st.sampled_from(CODECS)), draw(st.sampled_from(SUFFIXES))
    lines = draw(st.lists(st.sampled_from(others.LINES) | st.text(max_size=40), max_size=4))
    end = draw(st.sampled_from(("\n", "\r\n", "\r", "\f", "\0", "\u2029")))
    content = end.join(["the sink of a head " * 8, *lines]).encode(codec, "replace")
    name = f"t{suffix}"

    def make(folder: Path) -> None:
        (folder / name).write_bytes(content)

    what = f"{name} in {codec}, lines end with {end!r}: {lines}"
    return Case("encoding", what, make, scan("llama", "--text", name), MAY_MATTER)


@st.composite
def pair_case(draw: Any, base: Path) -> Case:
    """Two faults at once, of which the second may no longer find its place."""
    kinds = (models.config_case, models.weight_case, models.tokenizer_case, models.folder_case)
    first, second = (draw(draw(st.sampled_from(kinds))(base)) for _ in range(2))

    def make(folder: Path) -> None:
        for case in (first, second):
            with contextlib.suppress(Exception):
                case.make(folder)

    what = f"{first.kind} {first.what} and {second.kind} {second.what}"
    return Case("pair", what, make, second.run, ANSWERS, first.run)


@st.composite
def command_case(draw: Any, base: Path) -> Case:
    """A fault in a model's file under another command than scan, with a result to replace."""
    kinds = (models.config_case, models.weight_case, models.header_case)
    case = draw(draw(st.sampled_from(kinds))(base))
    family = case.run[1]
    given = (family, "--prompts", "random", *QUICK[:2], "--length", "24", "--offline")
    command = draw(st.sampled_from(("trace", "verify", "mix", "advise")))
    needs = ("result",)
    what = f"{command}: {case.kind} {case.what}"
    return Case(
        "command",
        what,
        case.make,
        (command, *given, "--out", "result", "--force"),
        case.right,
        needs,
    )


def _has_gguf() -> bool:
    try:
        import gguf  # noqa: F401
    except ImportError:
        return False
    return True


KINDS: tuple[Callable[..., Any], ...] = (
    index_case, adapter_case, template_case, encoding_case, pair_case, command_case,
    *((gguf_case,) if _has_gguf() else ()),
)  # fmt: skip
