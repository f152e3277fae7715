"""What an experiment is: cells that differ in a few settings, at three sizes, as read from YAML."""

from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from sinkscope.errors import InputError
from sinkscope.lab.recipe import TrainingRecipe, recipe_from
from sinkscope.yaml_files import read_yaml, refuse_path, validated, yaml_names

CONFIGS = files("sinkscope.lab.studies") / "configs"
SIZES = ("smoke", "small", "paper")
FORBID = ConfigDict(extra="forbid")
Settings = dict[str, Any]
Figure = Literal[
    "sink_rate_0.3",
    "late_share",
    "best_head",
    "loss",
    "norm_ratio",
    "massive",
    "read_norm",
    "read_outlier",
    "dominance",
]


@dataclass(frozen=True)
class StudySize:
    """An experiment at one size.

    seeds: runs of each cell; run n has the base's seed plus n. windows, length: held-out windows
    that every run is measured on, and their tokens. every: steps between two points of the curve.
    base: what all cells share, as in `TrainingRecipe`. cells: in place of the experiment's own.
    """

    __pydantic_config__ = FORBID

    seeds: int
    windows: int
    length: int
    every: int
    base: Settings
    cells: dict[str, Settings] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedResult:
    """A published number: cell, BOS at evaluation ("": not said), sink rate in percent and loss.

    eps: the threshold of the sink rate, 0 where it is not known. says: what was published in place
    of a sink rate. mark: how it is known, as in `sinkscope.replications`.
    """

    __pydantic_config__ = FORBID

    cell: str
    mark: str
    bos: Literal["with", "without", ""] = ""
    eps: float = 0.3
    sink_rate: float | None = None
    loss: float | None = None
    says: str = ""


@dataclass(frozen=True)
class Sign:
    """A published direction: a figure of `cell` is higher, or lower, than the same of `than`.

    figure: as in `evaluate.evaluation`. bos, than_bos: as measured; without the second, both as the
    first. says: what was published, in a few words. mark: how it is known, "[INF]" where it is
    inferred from what was.
    """

    __pydantic_config__ = FORBID

    cell: str
    than: str
    figure: Figure
    expected: Literal["higher", "lower"]
    says: str
    mark: str
    bos: Literal["with", "without"] = "with"
    than_bos: Literal["with", "without", ""] = ""


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    question: what it asks. source: where it was published. differs: what is not as published.
    evaluate: measure with BOS put first, without, or both. cells: name -> settings that differ
    from the base. published, signs: numbers and directions. control: the cell that the others are
    held against.
    """

    __pydantic_config__ = FORBID

    question: str
    source: str
    differs: str
    evaluate: tuple[Literal["with", "without"], ...]
    sizes: dict[Literal["smoke", "small", "paper"], StudySize]
    cells: dict[str, Settings] = field(default_factory=dict)
    published: tuple[PublishedResult, ...] = ()
    signs: tuple[Sign, ...] = ()
    control: str = ""


@dataclass(frozen=True)
class StudyRun:
    """One training: a cell with one seed."""

    cell: str
    seed: int
    recipe: TrainingRecipe

    @property
    def folder(self) -> str:
        """Its folder below OUT/runs."""
        return f"{self.cell}-seed-{self.seed}"


@dataclass(frozen=True)
class StudyPlan:
    """An experiment at one size, expanded: cells as whole recipes."""

    name: str
    experiment: Experiment
    size: str
    seeds: int
    cells: dict[str, TrainingRecipe]
    steps: int | None = None  # where it was asked for other steps than the size's

    @property
    def settings(self) -> StudySize:
        """The size as it was written."""
        return self.experiment.sizes[self.size]  # type: ignore[index]

    @property
    def runs(self) -> list[StudyRun]:
        """Every cell with its first seed, then every cell with its second, and so on."""
        return [
            StudyRun(cell, recipe.seed + n, replace(recipe, seed=recipe.seed + n))
            for n in range(self.seeds)
            for cell, recipe in self.cells.items()
        ]

    @property
    def identity(self) -> dict[str, Any]:
        """All that its results depend on but seed, text and machine, as plain data."""
        return {
            "experiment": self.name,
            "size": self.size,
            "cells": {cell: recipe.as_dict() for cell, recipe in self.cells.items()},
            "evaluate": self.experiment.evaluate,
            "windows": self.settings.windows,
            "length": self.settings.length,
            "every": self.settings.every,
        }

    @property
    def about(self) -> dict[str, Any]:
        """Metadata of the study: question, source, published values, options, sizes."""
        words = asdict(self.experiment)
        kept = ("question", "source", "differs", "control", "published", "signs")
        sizes = list(self.experiment.sizes)
        return {**{key: words[key] for key in kept}, "options": self.options, "sizes": sizes}

    @property
    def options(self) -> str:
        """Options of the command that asks for it, beside corpus, device and folder."""
        given = [f"--size {self.size}"]
        given += [f"--seeds {self.seeds}"] if self.seeds != self.settings.seeds else []
        given += [f"--steps {self.steps}"] if self.steps is not None else []
        return " ".join(given)


def experiment_names() -> list[str]:
    """Names of the experiments that come with the package."""
    return yaml_names(CONFIGS)


def read_experiment(name: str) -> Experiment:
    """The experiment of that name, or of a YAML file at that path.

    Errors: InputError for an unknown name, a file that is not YAML, an unknown key, a value that
    will not do.
    """
    known = f"choose from {', '.join(experiment_names())}, or"
    settings = read_yaml(CONFIGS, name, "experiment", known)
    experiment: Experiment = validated(_READER, settings, name)
    _check(experiment, name)
    return experiment


def _check(experiment: Experiment, name: str) -> None:
    refuse_path(Path(name).stem, name)
    for size, one in experiment.sizes.items():
        cells = one.cells or experiment.cells
        where = f"{name}, size {size}"
        if not cells:
            raise InputError(f"{where}: there are no cells.")
        for cell in cells:
            refuse_path(cell, where)
        if min(one.seeds, one.windows, one.every, one.length - 7) < 1:
            raise InputError(f"{where}: seeds, windows, every must be positive, length at least 8.")
        for cell, recipe in _expand(experiment, one, where).items():
            if recipe.context < one.length:
                raise InputError(f"{where}, cell {cell}: length is beyond its context.")
    asked = {bos for sign in experiment.signs for bos in (sign.bos, sign.than_bos or sign.bos)}
    if not asked <= set(experiment.evaluate):
        raise InputError(f"{name}: a sign wants a BOS policy that is not measured.")
    known = {cell for size in experiment.sizes.values() for cell in size.cells or experiment.cells}
    named = [row.cell for row in experiment.published]
    named += [cell for sign in experiment.signs for cell in (sign.cell, sign.than)]
    named += [experiment.control] if experiment.control else []
    if unknown := [cell for cell in named if cell not in known]:
        raise InputError(f"{name}: {unknown[0]!r} is no cell of any size.")


def _expand(experiment: Experiment, size: StudySize, where: str) -> dict[str, TrainingRecipe]:
    return {
        cell: recipe_from({**size.base, **changes}, f"{where}, cell {cell}")
        for cell, changes in (size.cells or experiment.cells).items()
    }


def make_plan(
    name: str, size: str, seeds: int | None = None, steps: int | None = None
) -> StudyPlan:
    """The plan of an experiment at a size; `seeds` and `steps` in place of its own."""
    experiment = read_experiment(name)
    if size not in experiment.sizes:
        raise InputError(f"{name} has no size {size!r}; choose from {', '.join(experiment.sizes)}.")
    chosen = experiment.sizes[size]  # type: ignore[index]
    cells = _expand(experiment, chosen, name)
    if steps is not None:
        cells = {cell: recipe.shortened(steps) for cell, recipe in cells.items()}
    return StudyPlan(Path(name).stem, experiment, size, seeds or chosen.seeds, cells, steps)


_READER = TypeAdapter(Experiment)
