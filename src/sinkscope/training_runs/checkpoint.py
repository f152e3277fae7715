"""A checkpoint, and the checkpoints of one training run in order."""

from __future__ import annotations

from dataclasses import dataclass

from sinkscope.errors import InputError


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a run.

    name       as its maker calls it
    step       where it lies on the run's axis
    place      folder, or Hub id
    commit     the Hub commit that the name stood for; None for a folder
    subfolder  folder within the repository, "" for its root
    tokens     tokens seen, where the name says so
    stage      stage of training, where the name says so
    """

    name: str
    step: int
    place: str
    commit: str | None = None
    subfolder: str = ""
    tokens: int | None = None
    stage: str = ""


@dataclass(frozen=True)
class TrainingRun:
    """Checkpoints of one training run, in order.

    unit   what steps count: step, index, epoch or tokens
    notes  what was left out, and why
    """

    name: str
    checkpoints: tuple[Checkpoint, ...]
    unit: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: dict[int, str] = {}
        for one in self.checkpoints:
            if one.step in seen:
                raise InputError(
                    f"{seen[one.step]} and {one.name} of {self.name} are both {self.unit} "
                    f"{one.step}; choose one with --revisions or --pattern."
                )
            seen[one.step] = one.name
