"""What a sweep runs: the models and the settings of a YAML file, expanded to one run each.

    models:
      - bundled
      - Qwen/Qwen2.5-0.5B
      - {model: path/to/folder, name: mine}
      - {constructed: p0-two-block, seed: 7}
    do: run
    settings: {n: 16, length: [64, 128], bos: both, seed: [0, 1]}

A list of settings stands for all its values; several lists for their product.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from sinkscope.errors import InputError
from sinkscope.settings import PromptSettings, RunSettings, ScanSettings
from sinkscope.subject.load import DTYPES
from sinkscope.yaml_files import read_yaml, refuse_path, validated

FORBID = ConfigDict(extra="forbid")
MOST = 1_000  # choices of settings
KINDS: dict[str, type[PromptSettings]] = {"run": RunSettings, "scan": ScanSettings}
LOADING = {"dtype": "float32", "device": "cpu"}  # settings that say how a model is loaded
CLOCK = ("budget",)  # what depends on the clock gives other numbers at every attempt


@dataclass(frozen=True)
class ModelEntry:
    """One model of a sweep: `model`, or `constructed`, of which it says more below.

    model        folder, .gguf file, Hub id or bundled
    revision     Hub revision
    gguf_file    GGUF file in that folder or repository
    constructed  a mechanism of sinkscope lab list, built where it is measured
    seed, family, noise, carry  as of sinkscope lab build
    name         what it is called; by default after the model
    """

    __pydantic_config__ = FORBID

    model: str = ""
    revision: str | None = None
    gguf_file: str | None = None
    constructed: str = ""
    seed: int = 0
    family: str | None = None
    noise: float | None = None
    carry: float | None = None
    name: str = ""

    @property
    def drawn(self) -> dict[str, Any]:
        """What is asked of a constructed model beside mechanism and seed."""
        given = {"family": self.family, "noise": self.noise, "carry": self.carry}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def called(self) -> str:
        """What it is called in tables."""
        if self.name:
            return self.name
        if self.constructed:
            given = "".join(f"-{value}" for value in self.drawn.values())
            return f"{self.constructed}{given}-{self.seed}"
        place = os.path.abspath(os.path.expanduser(self.model))
        return os.path.basename(place) if os.path.exists(place) else self.model


@dataclass(frozen=True)
class SweepFile:
    """The file as it is written."""

    __pydantic_config__ = FORBID

    models: list[ModelEntry]
    do: Literal["run", "scan"] = "run"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedRun:
    """One model with one choice of settings.

    settings  of the command, with those of LOADING
    varied    those of them that the file gives as lists
    """

    entry: ModelEntry
    settings: dict[str, Any]
    varied: dict[str, Any]

    def folder(self, key: str) -> str:
        """Name of its folder, a plain one: after the model, and told apart by its key."""
        plain = re.sub(r"[^\w.+=-]+", "-", self.entry.called).strip(".-+=")[:60]
        return f"{plain or 'model'}-{key[:8]}"


@dataclass(frozen=True)
class SweepPlan:
    """A sweep: its name, what it does, and its runs, model by model."""

    name: str
    do: str
    runs: list[PlannedRun]


def read_plan(file: str | Path) -> SweepPlan:
    """The sweep that a YAML file describes.

    Raises InputError for a file that is none, an unknown key, a value that will not do, two models
    of one name, and a setting that depends on the clock.
    """
    where = str(file)
    held = read_yaml(Path(), where, "sweep", "give")
    if isinstance(held, dict) and isinstance(held.get("models"), list):
        held = {**held, "models": [_entry(one) for one in held["models"]]}
    read: SweepFile = validated(_READER, held, where)
    if not read.models:
        raise InputError(f"{where}: there are no models.")
    for entry in read.models:
        _check(entry, where)
    names = [entry.called for entry in read.models]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{where}: two models are called {double!r}; tell them apart by `name`.")
    choices = _product(read.settings, KINDS[read.do], where)
    runs = [PlannedRun(entry, *choice) for entry in read.models for choice in choices]
    return SweepPlan(Path(where).stem, read.do, runs)


def settings_of(do: str, settings: dict[str, Any]) -> Any:
    """The settings of one run as its command takes them. Raises InputError as they do."""
    given = {name: value for name, value in settings.items() if name not in LOADING}
    return validated(TypeAdapter(KINDS[do]), given, "settings")


def _entry(one: Any) -> Any:
    return {"model": one} if isinstance(one, str) else one


def _check(entry: ModelEntry, where: str) -> None:
    if bool(entry.model) == bool(entry.constructed):
        raise InputError(f"{where}: every model has either `model` or `constructed`.")
    if entry.name:
        refuse_path(entry.name, where)
    if entry.constructed:
        from sinkscope.known.constructed import draw_spec

        draw_spec(entry.constructed, entry.seed, **entry.drawn)
    elif entry.drawn or entry.seed:
        raise InputError(
            f"{where}: {entry.model} is not constructed, so it has no seed of its own."
        )


def _product(
    settings: dict[str, Any], kind: type[PromptSettings], where: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(all settings, those that vary) for each choice; the last list of the file runs fastest."""
    known = [each.name for each in dataclasses.fields(kind) if each.name not in CLOCK]
    for name in settings:
        if name in CLOCK:
            raise InputError(f"{where}: {name} depends on the clock, so a sweep takes none.")
        if name not in (*known, *LOADING):
            raise InputError(f"{where}: {name!r} is no setting; there are {', '.join(known)}.")
    several = {name: value for name, value in settings.items() if isinstance(value, list)}
    if empty := next((name for name, values in several.items() if not values), None):
        raise InputError(f"{where}: {empty} is an empty list.")
    if (count := math.prod(map(len, several.values()))) > MOST:
        raise InputError(f"{where}: {count:,} choices of settings are more than {MOST:,}.")
    varied = [dict(zip(several, one)) for one in itertools.product(*several.values())]
    if len({str(one) for one in varied}) < len(varied):
        raise InputError(f"{where}: a list of settings holds the same value twice.")
    return [(_whole({**LOADING, **settings, **one}, kind, where), one) for one in varied]


def _whole(settings: dict[str, Any], kind: type[PromptSettings], where: str) -> dict[str, Any]:
    """Settings of a run with all that are not given, checked."""
    if settings["dtype"] not in DTYPES:
        raise InputError(f"{where}: dtype {settings['dtype']!r} is not one of {', '.join(DTYPES)}.")
    loading = {name: settings.pop(name) for name in LOADING}
    return {**dataclasses.asdict(validated(TypeAdapter(kind), settings, where)), **loading}


_READER = TypeAdapter(SweepFile)
