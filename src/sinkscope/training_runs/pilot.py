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
from sinkscope.detect.nulls import UNTRAINED_LIMIT, UNTRAINED_SEEDS, untrained_copy
from sinkscope.errors import InputError, Unsupported
from sinkscope.observe.p0_stream import first_tokens
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, PromptSettings
from sinkscope.training_runs.checkpoint_metrics import View, light
from sinkscope.training_runs.signals import distance, sink_share

ROOM = 2  # blocks loaded behind the first reading block: the circuit was elsewhere earlier on
FIRST_TOKENS = 64
BOS = ("as-is", "with", "without")
NULL_RESAMPLES = 2000


@dataclass(frozen=True)
class TimelineSettings(PromptSettings):
    """What a timeline looks with; every field travels with the result.

    first_blocks  how many first blocks are loaded: "auto" (by the pilot), "all", or a number
    dtype, device as for `load`; early checkpoints want float32
    untrained     compare with the same architecture untrained (three seeds)
    """

    n: int = 16
    length: int = 128
    first_blocks: str | int = "auto"
    dtype: str = "float32"
    device: str = "cpu"
    untrained: bool = True


@dataclass(frozen=True)
class Pilot:
    """What the pilot decided.

    view        what is looked at in every checkpoint
    blocks      blocks of the whole model
    whole       whether whole models are loaded
    null        99th percentiles over untrained models: of the late share (`sink`), of log r
                (`log_norm`) and of the distance along u (`distance`); or why they were not run
    note        why the horizon is what it is
    """

    view: View
    blocks: int
    whole: bool
    null: dict[str, float] | str
    note: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same pilot."""
        prompts = self.view.prompts
        return {
            "prompts": {
                "input_ids": prompts.input_ids.tolist(),
                "lengths": prompts.lengths.tolist(),
                "kind": prompts.kind,
                "bos": prompts.bos,
                "source": prompts.source,
                "position_zero": prompts.position_zero,
            },
            "first_tokens": self.view.first_tokens.tolist(),
            "view": {k: getattr(self.view, k) for k in _VIEW},
            "blocks": self.blocks,
            "whole": self.whole,
            "null": self.null,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Pilot:
        """Read back what `to_json` made."""
        rows = content["prompts"]
        prompts = Prompts(
            torch.tensor(rows["input_ids"]),
            torch.tensor(rows["lengths"]),
            rows["kind"],
            rows["bos"],
            source=rows["source"],
            position_zero=rows["position_zero"],
        )
        view = View(prompts, torch.tensor(content["first_tokens"]), **content["view"])
        return cls(view, *(content[name] for name in ("blocks", "whole", "null", "note")))


_VIEW = ("horizon", "point", "loss", "parts", "seed")


def view_hash(view: View) -> str:
    """SHA-256 of everything that decides what is measured."""
    content = [
        view.prompts.sha256,
        view.first_tokens.tolist(),
        *(getattr(view, name) for name in _VIEW),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def run_pilot(subject: Subject, looking: TimelineSettings) -> Pilot:
    """Decide what is looked at, from the whole last model.

    Raises InputError for prompts that cannot be built, Unsupported for a model that cannot be read.
    """
    if looking.bos not in BOS:
        raise InputError(
            f"BOS policy {looking.bos!r} of a timeline is not one of {', '.join(BOS)}."
        )
    kind = looking.kind if subject.tokenizer is not None else "random"
    [prompts] = replace(looking, kind=kind).build(subject)
    blocks = len(subject.anatomy.blocks)
    read_point, reading, note = _circuit(subject, prompts, looking.seed)
    horizon = _horizon(looking.first_blocks, blocks, read_point, reading)
    point = blocks // 2 if read_point is None else read_point
    whole = looking.first_blocks == "all" or horizon == blocks
    view = View(
        prompts=prompts,
        first_tokens=first_tokens(subject, prompts, looking.seed)[:FIRST_TOKENS],
        horizon=horizon,
        point=max(1, min(point, horizon)),
        loss=whole,
        seed=looking.seed,
    )
    null = _null(subject, view) if looking.untrained else "not asked for"
    return Pilot(view, blocks, whole, null, note)


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
        try:
            count = int(asked)
        except ValueError:
            count = 0
        if count < 1:
            raise InputError(f"--first-blocks {asked!r} is neither auto, all nor a number above 0.")
        return min(count, blocks)
    if point is None:
        return blocks
    return min(blocks, max(point, 0 if reading is None else reading) + 1 + ROOM)


def _null(subject: Subject, view: View) -> dict[str, float] | str:
    """99th percentiles over prompts of untrained models: the largest of three seeds.

    Of the mean over prompts, by bootstrap, since it is the mean that a checkpoint is held against.
    """
    if subject.identity["parameters"] > UNTRAINED_LIMIT:
        return "the untrained null was not run: the model is too large for a second copy"
    found: dict[str, list[float]] = {"sink": [], "log_norm": [], "distance": []}
    for seed in range(UNTRAINED_SEEDS):
        fresh = untrained_copy(subject, seed)
        if isinstance(fresh, str):
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
