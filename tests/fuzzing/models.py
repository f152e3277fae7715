"""Cases about the files of a model: configuration, weights, tokenizer, the folder itself."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.fuzzing.base import FAMILIES, QUICK
from tests.fuzzing.case import ANSWERS, DONE, INPUT, RESOURCES, UNSUPPORTED, Case
from tests.fuzzing.values import DROP, byte_changes, paths_of, with_bytes, with_value, wrong_values

FILE = frozenset({INPUT})
MAY_MATTER = frozenset({DONE, INPUT, UNSUPPORTED})
# fields without which there is no model: a text in their place is always the file's fault
SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "n_embd")
TYPES = (
    *("llama", "gpt2", "mixtral", "mistral", "qwen2", "qwen3", "gemma2", "bert", "t5", "mamba"),
    *("opt", "gpt_neox", "phi3", "falcon", "bloom", "rwkv", "clip", "llava", "no_such_type", ""),
    *("gpt_oss", "deepseek_v3", "qwen3_next", "gemma3n_text", "whisper", "recurrent_gemma"),
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def scan(family: str, *more: str) -> tuple[str, ...]:
    return ("scan", family, *more, *QUICK)


def random_scan(family: str) -> tuple[str, ...]:
    return scan(family, "--prompts", "random")


@st.composite
def config_case(draw: Any, base: Path) -> Case:
    """A wrong value, or none, in a field of config.json."""
    family = draw(st.sampled_from(FAMILIES))
    content = json.loads((base / family / "config.json").read_text())
    path = draw(st.sampled_from(sorted(paths_of(content), key=str)))
    value = draw(wrong_values | st.just(DROP))
    right = ANSWERS
    if path[0] in SHAPE and isinstance(value, (str, list, dict)):
        right = FILE
    elif path[0] != "model_type" and not isinstance(value, int):
        right = MAY_MATTER
    said = "gone" if value is DROP else repr(value)
    make = with_value(f"{family}/config.json", path, value)
    return Case("config", f"{family} {path} = {said}", make, random_scan(family), right)


@st.composite
def type_case(draw: Any, base: Path) -> Case:
    """Another model_type over the same weights."""
    family, other = draw(st.sampled_from(FAMILIES)), draw(st.sampled_from(TYPES))
    right = frozenset({UNSUPPORTED}) if other in ("no_such_type", "clip") else ANSWERS
    make = with_value(f"{family}/config.json", ("model_type",), other)
    return Case("model_type", f"{family} as {other!r}", make, random_scan(family), right)


WEIGHTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], frozenset[int]]] = {
    "NaN": (lambda w: w * float("nan"), FILE),
    "infinity": (lambda w: w + float("inf"), FILE),
    "3e38": (lambda w: torch.full_like(w, 3e38), FILE),
    "1e30": (lambda w: w.sign() * 1e30, FILE),
    "one maximum": (lambda w: w.flatten().scatter(0, torch.tensor([0]), 3e38).view_as(w), FILE),
    "zeros": (torch.zeros_like, MAY_MATTER),
    "1e-40": (lambda w: w * 1e-40, MAY_MATTER),
    "1e5": (lambda w: w * 1e5, MAY_MATTER),
    "I32": (lambda w: w.to(torch.int32), FILE),
    "BOOL": (lambda w: w > 0, FILE),
    "C64": (lambda w: w.to(torch.complex64), FILE),
    "F64": (lambda w: w.double(), MAY_MATTER),
    "transposed": (lambda w: w.t().contiguous() if w.ndim == 2 else w, MAY_MATTER),
    "one row less": (lambda w: w[1:].contiguous(), FILE),
    "no rows": (lambda w: w[:0].contiguous(), FILE),
}


@st.composite
def weight_case(draw: Any, base: Path) -> Case:
    """A weight with values, a type or a shape that will not do."""
    family = draw(st.sampled_from(FAMILIES))
    names = sorted(load_file(base / family / "model.safetensors"))
    name = draw(st.sampled_from([name for name in names if name.endswith(".weight")]))
    what = draw(st.sampled_from(sorted(WEIGHTS)))
    change, right = WEIGHTS[what]

    def make(folder: Path) -> None:
        path = folder / family / "model.safetensors"
        tensors = {key: value.clone() for key, value in load_file(path).items()}
        tensors[name] = change(tensors[name])
        save_file(tensors, path, metadata={"format": "pt"})

    return Case("weights", f"{family} {name} {what}", make, random_scan(family), right)


HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another dtype": lambda h: _first(h, dtype="F16"),
    "no dtype": lambda h: _first(h, dtype=None),
    "negative shape": lambda h: _first(h, shape=[-1, 2]),
    "huge shape": lambda h: _first(h, shape=[2**40, 2**40]),
    "offsets turned": lambda h: _first(h, data_offsets=[9, 1]),
    "offsets beyond": lambda h: _first(h, data_offsets=[0, 2**40]),
    "no list": lambda h: [],
    "metadata of numbers": lambda h: h | {"__metadata__": {"a": 1}},
}


def _first(header: dict[str, Any], **changes: Any) -> dict[str, Any]:
    name = next(key for key in header if key != "__metadata__")
    return header | {name: header[name] | changes}


@st.composite
def header_case(draw: Any, base: Path) -> Case:
    """The header of a safetensors file, or its bytes."""
    family = draw(st.sampled_from(FAMILIES))
    file = f"{family}/model.safetensors"
    if draw(st.booleans()):
        what, change = draw(byte_changes(400))
        return Case("header", f"{family} {what}", with_bytes(file, change), random_scan(family),
                    MAY_MATTER)  # fmt: skip
    what = draw(st.sampled_from([*HEADERS, "twice", "100 MB"]))

    def change(content: bytes) -> bytes:
        size = int.from_bytes(content[:8], "little")
        text, rest = content[8 : 8 + size], content[8 + size :]
        if what == "100 MB":
            return (99_999_999).to_bytes(8, "little") + text
        if what == "twice":
            new = text.rstrip()[:-1] + b"," + text.strip()[1:]
        else:
            new = json.dumps(HEADERS[what](json.loads(text))).encode()
        return len(new).to_bytes(8, "little") + new + rest

    right = MAY_MATTER if what == "metadata of numbers" else FILE
    return Case("header", f"{family} {what}", with_bytes(file, change), random_scan(family), right)


@st.composite
def tokenizer_case(draw: Any, base: Path) -> Case:
    """A tokenizer's files, their values and their bytes."""
    file = draw(st.sampled_from(TOKENIZER_FILES))
    run = scan("llama", "--text", "text.txt", "--bos", draw(st.sampled_from(("as-is", "both"))))
    if draw(st.integers(0, 3)) == 0:
        what, change = draw(byte_changes(2000))
        make = with_bytes(f"llama/{file}", change)
        return Case("tokenizer", f"{file} {what}", make, run, MAY_MATTER)
    content = json.loads((base / "llama" / file).read_text())
    path = draw(st.sampled_from(sorted(paths_of(content), key=str)))
    value = draw(wrong_values | st.just(DROP) | st.sampled_from(NORMALIZERS))
    make = with_value(f"llama/{file}", path, value)
    said = "gone" if value is DROP else repr(value)
    return Case("tokenizer", f"{file} {path} = {said}", make, run, MAY_MATTER | {RESOURCES})


NORMALIZERS = (
    {"type": "Precompiled", "precompiled_charsmap": "////AAAA"},
    {"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 1000},
    {"type": "Prepend", "prepend": "y" * 100_000},
    {"type": "Replace", "pattern": {"String": " "}, "content": ""},
    {"type": "NFC"},
)


class Harm:
    """A pickle that would leave a file behind if it were read."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ../guard/harm",)


def _fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


ENTRIES: dict[str, Callable[[Path], object]] = {
    "a pipe": _fifo,
    "a link to itself": lambda path: _link(path, path.name),
    "a link to nothing": lambda path: _link(path, "nothing"),
    "a link to a device": lambda path: _link(path, "/dev/zero"),
    "a link to its folder": lambda path: _link(path, "."),
    "a folder": _directory,
    "gone": lambda path: path.unlink(missing_ok=True),
    "empty": lambda path: path.write_bytes(b""),
    "a harmful pickle": lambda path: path.write_bytes(pickle.dumps(Harm())),
}
NAMES = (
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("generation_config.json", "chat_template.jinja", "adapter_config.json", "README.md"),
    *("model.safetensors.index.json", "pytorch_model.bin", "tokenizer.model", "sink_heads.json"),
    *("modeling_llama.py", "special_tokens_map.json", "added_tokens.json", "model-x.safetensors"),
)


@st.composite
def folder_case(draw: Any, base: Path) -> Case:
    """An entry of a model's folder that is not what its name says."""
    name, what = draw(st.sampled_from(NAMES)), draw(st.sampled_from(sorted(ENTRIES)))
    run = scan("llama", "--text", "text.txt")
    if draw(st.integers(0, 4)) == 0 and what != "a harmful pickle":
        run = (*run, "--allow-pickle")
    needed = name in ("config.json", "model.safetensors")
    right = FILE if needed and "--allow-pickle" not in run else MAY_MATTER

    def make(folder: Path) -> object:
        return ENTRIES[what](folder / "llama" / name)

    return Case("folder", f"{name} is {what} {run[-1]}", make, run, right)


KINDS = (
    config_case, type_case, weight_case, header_case, tokenizer_case, folder_case,
)  # fmt: skip
