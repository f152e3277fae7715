"""What every command does alike: prompts for each BOS policy, progress, arrays, a result."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sinkscope.errors import InputError
from sinkscope.provenance import new_summary
from sinkscope.result import Result
from sinkscope.settings import PromptSettings
from sinkscope.stats import LEAST_UNITS, units_needed
from sinkscope.subject.fitting import refuse_unfit
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, prompts_of, with_positions

if TYPE_CHECKING:
    import xarray

Progress = Callable[[str, int, int], None]  # label, done, total
Labels = Mapping[str, tuple[tuple[str, ...], str, str, str]]  # dimensions, long name, units, source


def silent(label: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


def chosen_prompts(
    subject: Subject, settings: PromptSettings, prompts: Prompts | None
) -> list[Prompts]:
    """Ready-made prompts, or those that the settings describe: one set for each BOS policy."""
    if prompts is not None and not isinstance(prompts, Prompts):
        raise InputError(
            f"prompts={prompts!r:.40} is no Prompts; sinkscope.build_prompts makes them. The kind "
            'of prompts is given as kind="text", "random" or "repeat".'
        )
    if not isinstance(subject, Subject):
        raise InputError(
            f"a {type(subject).__name__} is no Subject; sinkscope.load reads a folder or a Hub id, "
            "and sinkscope.Subject.from_model takes a model in memory."
        )
    if prompts is None:
        return prompts_of(subject, settings)
    refuse_unfit(subject, prompts.input_ids, prompts.position_ids)
    return [with_positions(subject, prompts)]


def opening_notes(subject: Subject, prompts: Prompts) -> list[str]:
    """What must be known of model and prompts to read any number of them rightly."""
    notes = [subject.identity["note"]] if "note" in subject.identity else []
    notes += prompts.notes
    types = {block.layer_type for block in subject.anatomy.blocks}
    if prompts.attention_mask is not None and types & {"linear", "none"}:
        notes.append(
            "Blocks without softmax attention may carry a state through padding on the left, so a "
            "padded row can differ from the row alone."
        )
    if len(prompts) == 1:
        notes.append(f"One prompt only, of {prompts.length} tokens: no interval can be given.")
    return notes


def too_few(values: np.ndarray, units: np.ndarray | None, what: str, how: str) -> list[str]:
    """A sentence where the interval of a figure rests on fewer units than it needs to cover 95 %.

    values, units  [n] as in `stats.units_needed`
    what, how      what a unit is, in the plural, and the option that gives more of them
    """
    count = len(values) if units is None else len(np.unique(units))
    needed = units_needed(values, units)
    if count >= needed or len(values) < 2:
        return []
    apart = needed > LEAST_UNITS
    if count == 1:
        return [
            f"All prompts come from one document, and intervals speak of it alone: for others take "
            f"{needed} or more (--{how})."
        ]
    return [
        f"Intervals rest on {count} {what}{', some far from the rest' if apart else ''}: to cover "
        f"95 % they need {needed} or more (--{how})."
    ]


def units_wanted(note: str) -> int | None:
    """How many units a sentence of `too_few` asks for, where several are there; else None."""
    found = re.match(r"Intervals rest on .* they need (\d+) or more", note)
    return int(found[1]) if found else None


def few_documents(values: np.ndarray, units: np.ndarray | None) -> list[str]:
    """The same of prompts that come from documents; nothing where each is apart. values [n]."""
    return [] if units is None else too_few(values, units, "documents", "text")


def result_of(
    name: str,
    subject: Subject,
    settings: PromptSettings,
    prompts: Sequence[Prompts],
    found: Sequence[Any],
    summarise: Callable[[Any], Any],
    dataset: Callable[[Any], xarray.Dataset],
) -> Result:
    """The result of a command: its summary and a group of arrays for each BOS policy.

    prompts, found      for each BOS policy: the whole set of prompts, and what was measured
    summarise, dataset  make summary and arrays of what was measured
    """
    import xarray

    # lists, as summary.json has them
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(settings).items()}
    summary = new_summary(subject, prompts, {"name": name, **values}, settings.seed)
    policies = [each.bos for each in prompts]
    setattr(summary, name, {bos: summarise(one) for bos, one in zip(policies, found, strict=True)})
    groups = {f"{name}/{bos}": dataset(one) for bos, one in zip(policies, found, strict=True)}
    return Result(summary, xarray.DataTree.from_dict(groups))


def labelled(labels: Labels, values: Mapping[str, Any], double: bool = False) -> dict[str, tuple]:
    """Named arrays as variables of a Dataset; dimensions, units and reference come from `labels`.

    Arrays that are None are left out. 64-bit floats are kept as 32-bit ones unless `double`.
    """
    variables = {}
    for name, value in values.items():
        if value is None:
            continue
        dimensions, long_name, units, reference = labels[name]
        array = np.asarray(value)
        if array.dtype == np.float64 and not double:
            array = array.astype(np.float32)
        about = {"long_name": long_name, "units": units, "reference": reference}
        variables[name] = (dimensions, array, {k: v for k, v in about.items() if v or k == "units"})
    return variables
