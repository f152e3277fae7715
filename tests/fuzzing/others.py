"""Cases about texts, options, saved results, checkpoints, recipes and experiments."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import yaml
from hypothesis import assume
from hypothesis import strategies as st

from tests.fuzzing.base import EXPERIMENT, QUICK, RECIPE
from tests.fuzzing.case import ANSWERS, DONE, INPUT, RESOURCES, UNSUPPORTED, Case
from tests.fuzzing.models import scan
from tests.fuzzing.values import DROP, byte_changes, paths_of, with_bytes, with_value, wrong_values

FILE = frozenset({INPUT})
MAY_MATTER = frozenset({DONE, INPUT})
NUMBERS = ("0", "-1", "1", "2", "3", "17", "2147483648", "1e3", "x", "", "nan", "9" * 30)
WORDS = ("x", "", "-", "..", "/", "a" * 5000, "\x1b[2J", "é", "both", "without", "with", "auto")
WORK = ("steps", "blocks")  # of a sound recipe: many take long, and that is right
NAMES = tuple(word for word in WORDS if word not in ("x", "..", "/"))  # written to on request
OPTIONS = {
    "--n": NUMBERS, "--length": NUMBERS, "--seed": NUMBERS, "--bos": WORDS, "--prompts": WORDS,
    "--text": (*WORDS, "text.jsonl", "text.txt", "llama", "hub:x/y", "/dev/zero", "/proc/self/mem"),
    "--reader": WORDS, "--dtype": (*WORDS, "float16", "bfloat16"),
    "--device": (*WORDS, "cuda", "meta"),
    "--device-map": WORDS, "--revision": WORDS, "--gguf-file": (*WORDS, "config.json"),
    "--out": (*NAMES, "text.txt", "/proc/x", "/dev/null", "llama/config.json/x"),
    "--expect": (*WORDS, "sink"),
}  # fmt: skip


@st.composite
def text_case(draw: Any, base: Path) -> Case:
    """A text file with other bytes, or lines that are not what they should be."""
    lines = draw(st.lists(st.text(max_size=30) | st.sampled_from(LINES), max_size=6))
    if draw(st.booleans()):
        what, change = draw(byte_changes(500))
        name = draw(st.sampled_from(("text.txt", "text.jsonl")))
        make = with_bytes(name, change)
    else:
        name = draw(st.sampled_from(("t.txt", "t.jsonl")))
        what, content = f"lines {lines}", "\n".join(lines)

        def make(folder: Path) -> None:
            (folder / name).write_text(content, encoding="utf-8", errors="replace")

    return Case("text", f"{name} {what}", make, scan("llama", "--text", name), MAY_MATTER)


LINES = (
    '{"text": "the sink of a head "}', '{"text": 7}', '{"messages": []}', "[]", "null", "{", '"x"',
    '{"text": "a\\u0000b"}', '{"text": ""}', '{"text": "\\ud800"}', "[" * 3000, "\x85", "\u2028",
)  # fmt: skip


@st.composite
def option_case(draw: Any, base: Path) -> Case:
    """Options with values that they do not have."""
    names = draw(st.lists(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=2, unique=True))
    given = [(name, draw(st.sampled_from(OPTIONS[name]))) for name in names]
    run = ["scan", "llama", "--offline", "--no-untrained"]
    if "--length" not in names:
        run += ["--length", "16"]
    if "--n" not in names:
        run += ["--n", "2"]
    run += [part for pair in given for part in pair]
    right = ANSWERS | {1} if "--expect" in names else ANSWERS
    return Case("option", " ".join(run)[:200], lambda folder: None, tuple(run), right)


@st.composite
def result_case(draw: Any, base: Path) -> Case:
    """A saved result with other values, other bytes, other arrays."""
    run = ("report", "result")
    way = draw(st.sampled_from(("value", "value", "bytes", "arrays")))
    if way == "bytes":
        name = draw(st.sampled_from(("summary.json", "arrays.nc")))
        what, change = draw(byte_changes(4000))
        make = with_bytes(f"result/{name}", change)
        return Case("result", f"{name} {what}", make, run, MAY_MATTER)
    if way == "arrays":
        what = draw(st.sampled_from(sorted(ARRAYS)))

        def make_arrays(folder: Path) -> None:
            with h5py.File(folder / "result" / "arrays.nc", "a") as file:
                ARRAYS[what](file)

        return Case("result", f"arrays {what}", make_arrays, run, MAY_MATTER)
    content = json.loads((base / "result" / "summary.json").read_text())
    path = draw(st.sampled_from(sorted(paths_of(content, 6), key=str)))
    value = draw(wrong_values | st.just(DROP))
    said = "gone" if value is DROP else repr(value)
    make = with_value("result/summary.json", path, value)
    return Case("result", f"summary {path} = {said}", make, run, MAY_MATTER)


def _remove_some(file: h5py.File) -> None:
    del file["scan/without/p0_late"]


def _cut(file: h5py.File) -> None:
    held = file["scan/without/p0_late"][:]
    del file["scan/without/p0_late"]
    file["scan/without/p0_late"] = held.flatten()[:3]


def _of_text(file: h5py.File) -> None:
    shape = file["scan/without/p0_late"].shape
    del file["scan/without/p0_late"]
    file["scan/without"].create_dataset("p0_late", shape, h5py.string_dtype())


ARRAYS: dict[str, Callable[[h5py.File], object]] = {
    "without one": _remove_some,
    "of another size": _cut,
    "of text": _of_text,
    "without a group": lambda file: file.__delitem__("scan/without"),
    "in a loop": lambda file: file["scan"].__setitem__("loop", file["/"]),
    "linked": lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")),
    "deep": lambda file: file.create_group("/".join(["g"] * 500)),
    "many": lambda file: [file.create_group(f"g{i}") for i in range(3000)],
    "huge": lambda file: file.create_dataset("x", (2**40,), "f8", chunks=(1024,)),
}


def _renamed(folder: Path, old: str, new: str) -> None:
    shutil.move(folder / "series" / old, folder / "series" / new)


@st.composite
def timeline_case(draw: Any, base: Path) -> Case:
    """Checkpoints of which one is broken, misnamed, or beside a log of junk."""
    run = ("timeline", "series", "--prompts", "random", *QUICK, "--cache", "cache")
    way = draw(st.sampled_from(("config", "bytes", "name", "log")))
    step = draw(st.sampled_from(("step1", "step2", "step3")))
    if way == "config":
        content = json.loads((base / "series" / step / "config.json").read_text())
        path = draw(st.sampled_from(sorted(paths_of(content), key=str)))
        value = draw(wrong_values)
        make = with_value(f"series/{step}/config.json", path, value)
        return Case("timeline", f"{step} {path} = {value!r}", make, run, frozenset({DONE}))
    if way == "bytes":
        what, change = draw(byte_changes(400))
        make = with_bytes(f"series/{step}/model.safetensors", change)
        return Case("timeline", f"{step} {what}", make, run, frozenset({DONE}))
    if way == "name":
        new = draw(st.sampled_from(STEPS))
        make_name = lambda folder: _renamed(folder, step, new)  # noqa: E731
        return Case("timeline", f"{step} as {new!r}", make_name, run, MAY_MATTER)
    what, change = draw(byte_changes(40))
    return Case("timeline", f"log {what}", with_bytes("series/log.jsonl", change), run, {DONE})


STEPS = (
    "step" + "9" * 40,
    "step-1",
    "step1.5",
    "step1e9",
    "x",
    "9" * 200,
    "step4 tokens9T",
    "ckpt_7",
)


@st.composite
def lab_case(draw: Any, base: Path) -> Case:
    """Recipes, experiments and raw results with wrong values."""
    way = draw(st.sampled_from(("recipe", "experiment", "asked", "lines")))
    value = draw(wrong_values | st.just(DROP))
    said = "gone" if value is DROP else repr(value)
    if way in ("recipe", "experiment"):
        held = RECIPE if way == "recipe" else EXPERIMENT
        path = draw(st.sampled_from(sorted(paths_of(held), key=str)))
        assume(path[-1] not in WORK or not isinstance(value, int) or not 50 < value < 10**8)
        name = f"{way}.yaml"
        run = ("lab", "train", name) if way == "recipe" else ("lab", "run", name, "--dry-run")
        make = _yaml_with(name, path, value)
        right = MAY_MATTER | {RESOURCES}
        return Case("lab", f"{way} {path} = {said}", make, (*run, "--out", "D"), right)
    if way == "asked":
        content = json.loads((base / "study" / "experiment.json").read_text())
        path = draw(st.sampled_from(sorted(paths_of(content), key=str)))
        make = with_value("study/experiment.json", path, value)
        run = ("lab", "study", "study")
        return Case("lab", f"asked {path} = {said}", make, run, MAY_MATTER)
    name = draw(st.sampled_from(("results.jsonl", "curves.jsonl")))
    line = json.loads((base / "study" / name).read_text().splitlines()[0])
    path = draw(st.sampled_from(sorted(paths_of(line), key=str)))

    def make_line(folder: Path) -> None:
        file = folder / "study" / name
        first, _, rest = file.read_text().partition("\n")
        (folder / "line").write_text(first)
        with_value("line", path, value)(folder)
        file.write_text((folder / "line").read_text() + "\n" + rest)

    return Case("lab", f"{name} {path} = {said}", make_line, ("lab", "study", "study"), MAY_MATTER)


def _yaml_with(name: str, path: tuple[Any, ...], value: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        content = yaml.safe_load((folder / name).read_text())
        (folder / "y.json").write_text(json.dumps(content))
        with_value("y.json", path, value)(folder)
        (folder / name).write_text((folder / "y.json").read_text())

    return make


KINDS = (text_case, option_case, result_case, timeline_case, lab_case)
__all__ = ["KINDS", "UNSUPPORTED"]
