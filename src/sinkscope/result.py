"""The labelled result: one schema, one set of arrays, and how they are kept on disk.

A run folder holds `summary.json` (this schema), `arrays.nc` (an xarray DataTree, one group for
each command and BOS policy) and `report.html`; where a circuit was tested also `circuit.json`
(`schema.circuit`), with a second BOS policy `circuit-with.json` beside it. All are written to a
temporary folder beside the target and put in place by renames, so a run that breaks leaves the
previous one whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sinkscope.errors import InputError
from sinkscope.files import write_folder
from sinkscope.schema import (
    SCHEMA,
    Environment,
    Measured,
    ModelInfo,
    PromptInfo,
    ScanSummary,
    StageSummary,
    Summary,
    TestRow,
    TraceSummary,
    VerifySummary,
)

if TYPE_CHECKING:
    import xarray

__all__ = [
    "Environment",
    "Measured",
    "ModelInfo",
    "PromptInfo",
    "Result",
    "ScanSummary",
    "StageSummary",
    "Summary",
    "TestRow",
    "TraceSummary",
    "VerifySummary",
    "load_result",
]
COMMANDS = (
    "scan",
    "trace",
    "verify",
    "timeline",
    "mix",
    "advise",
    "replication",
)  # what a result can hold
SUMMARY, ARRAYS, REPORT = "summary.json", "arrays.nc", "report.html"


class Result:
    """One labelled result: `.summary` (Summary), `.data` (DataTree), `.table()`, `.plot()`."""

    def __init__(self, summary: Summary, data: xarray.DataTree):
        self.summary = summary
        self.data = data

    def table(self) -> str:
        """The findings as plain text."""
        from sinkscope.report.table import render_text

        return render_text(self)

    def plot(self, bos: str | None = None) -> Any:
        """The main chart of the first command this result holds, as an Altair chart.

        For a scan that is the block × head heat map of the late share of P0. bos picks the BOS
        policy; by default the first. Raises InputError where nothing can be drawn.
        """
        from sinkscope.report.commands import main_chart

        return main_chart(self, bos)

    def merge(self, other: Result) -> Result:
        """Both results as one, such as a scan and a trace of the same model on the same prompts.

        Where both hold the same command under the same BOS policy, `other` has the last word.
        Raises InputError where the weights, the dtype or the prompts differ.
        """
        import xarray

        mine, theirs = self.summary, other.summary
        _check_same(mine, theirs)
        commands = _commands(mine) | _commands(theirs)
        merged = mine.model_copy(deep=True)
        merged.command = {"name": "+".join(commands), **commands}
        merged.prompts.sha256 = mine.prompts.sha256 | theirs.prompts.sha256
        merged.prompts.positions = mine.prompts.positions | theirs.prompts.positions
        for name in COMMANDS:
            held, added = getattr(mine, name), getattr(theirs, name)
            setattr(merged, name, held | added if isinstance(held, dict) else added or held)
        return Result(merged, xarray.DataTree.from_dict(_groups(self.data) | _groups(other.data)))

    def to_json(self) -> str:
        """summary.json as text: strict JSON, keys in schema order, none for what was not run."""
        content = self.summary.model_dump(mode="json", by_alias=True)
        shown = {k: v for k, v in content.items() if v or k not in COMMANDS}
        return json.dumps(shown, indent=2, ensure_ascii=False, allow_nan=False)

    def save(self, folder: str | Path) -> Path:
        """Write summary.json, arrays.nc and report.html into `folder`, whole or not at all.

        And circuit.json, where a circuit was tested. Raises InputError where the folder is a file
        or not writable, OutOfResources on a full disk.
        """
        from sinkscope.report.causal.circuit_file import circuit_files
        from sinkscope.report.page import render_page

        files: dict[str, Callable[[Path], Any]] = {
            SUMMARY: lambda path: path.write_text(self.to_json() + "\n", encoding="utf-8"),
            ARRAYS: lambda path: self.data.to_netcdf(path, engine="h5netcdf"),
            REPORT: lambda path: path.write_text(render_page(self), encoding="utf-8"),
        }
        for name, text in circuit_files(self).items():
            files[name] = partial(Path.write_text, data=text, encoding="utf-8")
        return write_folder(Path(folder), files)


def _check_same(mine: Summary, theirs: Summary) -> None:
    """Refuse to put results together that do not speak of the same thing."""
    if mine.model.weights_sha256 != theirs.model.weights_sha256:
        raise InputError(f"{mine.model.id} and {theirs.model.id} differ in weights: not merged.")
    if mine.environment.dtype != theirs.environment.dtype:
        pair = f"{mine.environment.dtype} and {theirs.environment.dtype}"
        raise InputError(f"One result was measured in {pair.replace(' and ', ', one in ')}.")
    ours, other = mine.prompts.sha256, theirs.prompts.sha256
    for bos in ours.keys() & other.keys():
        if ours[bos] != other[bos]:
            raise InputError(f"The prompts differ ({bos} BOS), so the results are not merged.")


def _commands(summary: Summary) -> dict[str, dict[str, Any]]:
    """Command -> its settings, for one command or for several that were merged."""
    command = dict(summary.command)
    name = command.pop("name", "")
    if "+" in name:
        return command
    return {name: command} if name else {}


def _groups(tree: xarray.DataTree) -> dict[str, xarray.Dataset]:
    """Group path -> dataset, without the groups that only hold others."""
    return {path: data for path, data in tree.to_dict().items() if data.variables}


def load_result(folder: str | Path) -> Result:
    """Read a run folder back. Raises InputError for a folder that is not one or is damaged."""
    import xarray

    path = Path(folder)
    if not (path / SUMMARY).is_file() or not (path / ARRAYS).is_file():
        raise InputError(f"{path} is not a run folder: it lacks {SUMMARY} or {ARRAYS}.")
    try:
        content = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
        summary = Summary.model_validate(content)
        with xarray.open_datatree(path / ARRAYS, engine="h5netcdf") as tree:
            data = tree.load()
    except (ValueError, ValidationError, OSError, KeyError) as error:
        raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}.") from None
    if summary.schema_version != SCHEMA:
        raise InputError(
            f"{path} has schema {summary.schema_version}; this version reads {SCHEMA}."
        )
    return Result(summary, data)
