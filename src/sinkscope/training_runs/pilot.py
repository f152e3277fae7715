"""The pilot: a look at the last checkpoint that fixes what is looked at in all of them.

From the whole last model: the plateau of the sink direction and the first block that reads it, so
that a sweep needs to load no more than the first k blocks, with ROOM. And the nulls: the same
architecture untrained.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sinkscope.circuit.find import find_circuit
from sinkscope.circuit.reading import sinks_on
from sinkscope.detect.nulls import UNTRAINED_SEEDS, untrained_copy
from sinkscope.errors import NOT_ASKED, InputError, Missing, Unsupported
from sinkscope.observe.p0_stream import first_tokens
from sinkscope.settings import ONE_POLICY, TimelineSettings
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, prompts_of
from sinkscope.training_runs.checkpoint_metrics import light
from sinkscope.training_runs.signals import distance, sink_share
from sinkscope.training_runs.view import View

ROOM = 2  # blocks loaded behind the first reading block: the circuit was elsewhere earlier on
FIRST_TOKENS = 64
NULL_RESAMPLES = 2000


@dataclass(frozen=True)
class Pilot:
    """What the pilot decided.

    view        what is looked at in every checkpoint
    blocks      blocks of the whole model
    whole       whether whole models are loaded
    null        99th percentiles over untrained models: of the late share (`sink`), of log r
                (`log_norm`) and of the distance along u (`distance`); or why they were not run
    note        why the horizon is what it is
    kind        class of the model, its number of blocks and the width of its stream: those of
                every checkpoint
    """

    view: View
    blocks: int
    whole: bool
    null: dict[str, float] | Missing
    note: str
    kind: tuple[str, int, int]

    def refuse_other(self, subject: Subject) -> None:
        """Raise InputError for a model of another class, width or depth than the last one."""
        own, last = (
            "{} of {} blocks of width {}".format(*kind) for kind in (kind_of(subject), self.kind)
        )
        if own != last:
            raise InputError(
                f"it is a {own}, and the last of the run a {last}: not of one training."
            )

    @property
    def null_or_reason(self) -> dict[str, float] | str:
        """The null as a plain value."""
        return self.null.reason if isinstance(self.null, Missing) else self.null

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same pilot."""
        view = {**_plain(self.view), "prompts": _plain(self.view.prompts)}
        return {**_plain(self), "view": view, "null": self.null_or_reason}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Pilot:
        """Read back what `to_json` made."""
        view, null = content["view"], content["null"]
        prompts = Prompts(**_with_tensors(view["prompts"]))
        return cls(
            **{
                **content,
                "view": View(**{**_with_tensors(view), "prompts": prompts}),
                "null": Missing(null) if isinstance(null, str) else null,
                "kind": tuple(content["kind"]),
            }
        )


TENSORS = (
    "input_ids", "lengths", "attention_mask", "position_ids", "documents", "first_tokens",
)  # fmt: skip


def _plain(held: Any) -> dict[str, Any]:
    """The fields of a dataclass, tensors as lists."""
    return {
        name: value.tolist() if isinstance(value, torch.Tensor) else value
        for name, value in vars(held).items()
    }


def _with_tensors(fields: dict[str, Any]) -> dict[str, Any]:
    """The same with those tensors again."""
    return {
        name: torch.tensor(value) if name in TENSORS and value is not None else value
        for name, value in fields.items()
    }


_VIEW = ("horizon", "point", "loss", "parts", "seed")


def view_hash(view: View) -> str:
    """SHA-256 of everything that decides what is measured."""
    content = [
        view.prompts.sha256,
        view.first_tokens.tolist(),
        *(getattr(view, name) for name in _VIEW),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def blocks_read(subject: Subject, settings: TimelineSettings) -> int:
    """Number of first blocks that hold what an earlier checkpoint shows, with ROOM; 0 for no sink.

    A circuit may move to earlier blocks in training, and the last model alone would not tell.
    """
    block = sinks_on(subject, _prompts(subject, settings)).block
    return 0 if block is None else min(len(subject.anatomy.blocks), block + 1 + ROOM)


def _prompts(subject: Subject, settings: TimelineSettings) -> Prompts:
    kind = settings.kind if subject.tokenizer is not None else "random"
    [prompts] = prompts_of(subject, replace(settings, kind=kind))
    return prompts


def run_pilot(subject: Subject, settings: TimelineSettings, least: int = 0) -> Pilot:
    """Decide what is looked at, from the whole last model.

    least  first blocks to look at at least, unless a number was asked for

    Raises InputError for prompts that cannot be built, Unsupported for a model that cannot be read.
    """
    if settings.bos not in ONE_POLICY:
        raise InputError(
            f"BOS policy {settings.bos!r} of a timeline is not one of {', '.join(ONE_POLICY)}."
        )
    prompts = _prompts(subject, settings)
    blocks = len(subject.anatomy.blocks)
    read_point, reading, note = _circuit(subject, prompts, settings.seed)
    horizon = _horizon(settings.first_blocks, blocks, read_point, reading)
    if settings.first_blocks == "auto":
        horizon = max(horizon, least)
    point = blocks // 2 if read_point is None else read_point
    whole = settings.first_blocks == "all" or horizon == blocks
    view = View(
        prompts=prompts,
        first_tokens=first_tokens(subject, prompts, settings.seed)[:FIRST_TOKENS],
        horizon=horizon,
        point=max(1, min(point, horizon)),
        loss=whole,
        seed=settings.seed,
    )
    null = _null(subject, view) if settings.untrained else NOT_ASKED
    return Pilot(view, blocks, whole, null, note, kind_of(subject))


def kind_of(subject: Subject) -> tuple[str, int, int]:
    """Class of a model, number of blocks of the whole of it, and the width of its stream."""
    anatomy = subject.anatomy
    return subject.identity["architecture"], anatomy.depth, anatomy.hidden_size


def _circuit(subject: Subject, prompts: Prompts, seed: int) -> tuple[int | None, int | None, str]:
    """Read point of the sink direction and first reading block of the last model, if it has any."""
    try:
        circuit = find_circuit(subject, prompts, seed=seed, untrained=False)
    except Unsupported as error:
        return None, None, f"the circuit of the last checkpoint is not known, since {error}"
    if circuit.direction is None:
        return None, None, "the last checkpoint shows no circuit, so every block is looked at"
    return circuit.read_point, circuit.reading_block, ""


def _horizon(asked: str | int, blocks: int, point: int | None, reading: int | None) -> int:
    """Number of first blocks that are looked at."""
    if asked == "all":
        return blocks
    if asked != "auto":
        return min(int(asked), blocks)
    if point is None:
        return blocks
    return min(blocks, max(point, 0 if reading is None else reading) + 1 + ROOM)


def _null(subject: Subject, view: View) -> dict[str, float] | Missing:
    """99th percentiles over prompts of untrained models: the largest of three seeds.

    Of the mean over prompts, by bootstrap, since it is the mean that a checkpoint is held against.
    """
    found: dict[str, list[float]] = {"sink": [], "log_norm": [], "distance": []}
    for seed in range(UNTRAINED_SEEDS):
        fresh = untrained_copy(subject, seed)
        if isinstance(fresh, Missing):
            return fresh
        one = light(fresh, replace(view, loss=False, parts=False))
        found["sink"].append(_p99(sink_share(one)))
        found["log_norm"].append(_p99(one.log_ratio[:, view.point]))
        found["distance"].append(distance(one, view.point))
    return {name: max(found[name]) for name in sorted(found)}  # as the cache gives it back


def _p99(values: np.ndarray) -> float:
    generator = np.random.default_rng(0)
    picks = generator.integers(len(values), size=(NULL_RESAMPLES, len(values)))
    return float(np.percentile(values[picks].mean(1), 99))
