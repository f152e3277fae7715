"""The labelled result: one schema, one set of arrays, and how they are kept on disk.

A run folder holds `summary.json` (this schema), `arrays.nc` (an xarray DataTree, one group for
each command and BOS policy) and `report.html`; where a circuit was tested also `circuit.json`
(`schema.circuit`), with a second BOS policy `circuit-with.json` beside it. All take their places in
one step (`files`), and arrays.nc says which run it is of: a run that breaks leaves the previous one
whole, and no mixture of two is ever read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sinkscope.errors import InputError, SinkscopeError, first_line
from sinkscope.files import expanded, finish, latest, storable, write_folder
from sinkscope.netcdf import read_arrays
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
# what a result can hold
COMMANDS = ("scan", "trace", "verify", "timeline", "mix", "advise", "replication")
SUMMARY, ARRAYS, REPORT = "summary.json", "arrays.nc", "report.html"
CIRCUITS = ("circuit.json", "circuit-with.json", "circuit-without.json")
RUN = "run"  # attribute of arrays.nc: which run it is of


class Result:
    """One labelled result: `.summary` (Summary), `.data` (DataTree), `.table()`, `.plot()`."""

    def __init__(self, summary: Summary, data: xarray.DataTree):
        self.summary = summary
        self.data = data

    def __repr__(self) -> str:
        """Which model and prompts, what was run, and the groups of arrays."""
        model, prompts = self.summary.model, self.summary.prompts
        held = [name for name in COMMANDS if getattr(self.summary, name)]
        groups = [path.lstrip("/") for path in _groups(self.data)]
        return (
            f"<sinkscope.Result of {model.id}: {', '.join(held) or 'nothing'}; {prompts.n} prompts "
            f"of {prompts.length} tokens; arrays {', '.join(groups) or 'none'}>"
        )

    def _repr_html_(self) -> str:
        """The report in a frame of its own, so that several fit into one notebook."""
        from sinkscope.report.page import framed

        return framed(self)

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

    def figures(self) -> dict[str, Any]:
        """Every picture of the report by name: Altair charts, and drawings as SVG.

        The names are those of the files that `sinkscope report --figures` writes, such as
        `heads-p0-late-with`, the BOS policy last.
        """
        from sinkscope.report.export import figures_of

        return figures_of(self)

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
        return json.dumps(_finite(shown), indent=2, ensure_ascii=False, allow_nan=False)

    def save(self, folder: str | Path) -> Path:
        """Write summary.json, arrays.nc and report.html into `folder`, whole or not at all.

        And circuit.json, where a circuit was tested. A page that cannot be drawn costs nothing but
        itself: the numbers are saved, then its error is raised. Raises InputError where the folder
        is a file or not writable, OutOfResources on a full disk.
        """
        folder = Path(folder)
        texts = {SUMMARY: self.to_json() + "\n"}
        broken: Exception | None = None
        try:
            texts |= self._drawn()
        except Exception as error:  # noqa: BLE001 - the numbers are worth more than their page
            broken = error
        files: dict[str, Callable[[Path], Any]] = {
            name: partial(Path.write_text, data=text, encoding="utf-8", errors="replace")
            for name, text in texts.items()
        }
        tree = _storable(self.data, run_of(self.summary))
        files[ARRAYS] = lambda path: tree.to_netcdf(path, engine="h5netcdf")
        saved = write_folder(folder, files, gone=(REPORT, *CIRCUITS))
        if broken is not None:
            expected = isinstance(broken, SinkscopeError)
            raise (type(broken) if expected else RuntimeError)(
                f"{folder} holds the numbers, but {REPORT} could not be drawn: {broken!s}"
            ) from broken
        return saved

    def _drawn(self) -> dict[str, str]:
        from sinkscope.report.causal.circuit_file import circuit_files
        from sinkscope.report.page import render_page

        return {REPORT: render_page(self), **circuit_files(self)}


def run_of(summary: Summary) -> str:
    """What tells a run from another: a hash of model, prompts, command and environment."""
    parts = [summary.model.weights_sha256, summary.prompts.sha256, summary.command]
    parts.append(summary.environment.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _finite(value: Any) -> Any:
    """The same plain data with null for what is no number, which strict JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value


def _storable(tree: xarray.DataTree, run: str) -> xarray.DataTree:
    """The tree as it is saved: texts that every format can hold, and which run it is of."""
    import numpy as np
    import xarray

    groups = {}
    for path, data in _groups(tree).items():
        texts = {
            name: one.copy(
                data=np.vectorize(lambda text: storable(str(text)), [object])(one.values)
            )
            for name, one in data.variables.items()
            if one.dtype.kind in "OU" and one.size
        }
        here = {name: one for name, one in texts.items() if name in data.coords}
        others = {name: one for name, one in texts.items() if name not in here}
        groups[path] = data.assign_coords(here).assign(others)
    saved = xarray.DataTree.from_dict(groups)
    saved.attrs = {**tree.attrs, RUN: run}
    return saved


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


def older(summary: Summary) -> Summary:
    """The summary, with a note in each part that lacks keys which newer versions write."""
    for name in COMMANDS:
        held = getattr(summary, name)
        parts = [*held.values()] if isinstance(held, dict) else [held] if held else []
        for one in [*parts, *(run for part in parts for run in getattr(part, "runs", {}).values())]:
            absent = sorted(type(one).model_fields.keys() - one.model_fields_set)
            if absent and "notes" in type(one).model_fields:
                keys = ", ".join(key.replace("_", " ") for key in absent)
                one.notes = [*one.notes, f"Not in this older result: {keys}."]
    return summary


def load_result(folder: str | Path) -> Result:
    """Read a run folder back.

    Raises InputError for a folder that is not one, is damaged, holds parts of two runs, or whose
    arrays are more than plain arrays.
    """
    path = expanded(folder)
    with contextlib.suppress(OSError):  # where it cannot be written it is read as it is
        finish(path)
    files = [latest(path, name) for name in (SUMMARY, ARRAYS)]
    if not all(file.is_file() for file in files):
        raise InputError(f"{path} is not a run folder: it lacks {SUMMARY} or {ARRAYS}.")
    try:
        file = files[0]
        content = json.loads(file.read_text(encoding="utf-8"))
        summary = older(Summary.model_validate(content))
        file = files[1]
        data = read_arrays(file)
    except SinkscopeError:
        raise
    except ValidationError as error:
        absent = [
            at for each in error.errors() if each["type"] == "missing" for at in [each["loc"]]
        ]
        if len(absent) < error.error_count():
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            said = f"{at}: {first['msg']}" if at else first["msg"]
            raise InputError(f"{files[0]} is damaged: {said}.") from None
        keys = ", ".join(".".join(map(str, at)) for at in absent[:3])
        raise InputError(
            f"{path} is of an older version of sinkscope: it lacks {keys}. Measure it again."
        ) from None
    except PermissionError:
        raise InputError(f"{file} cannot be read: it belongs to another user.") from None
    except Exception as error:  # noqa: BLE001 - whatever the readers of JSON and HDF5 say of damaged files
        raise InputError(f"{file} is damaged: {first_line(error)}") from None
    if summary.schema_version != SCHEMA:
        raise InputError(
            f"{path} has schema {summary.schema_version}; this version reads {SCHEMA}."
        )
    if data.attrs.pop(RUN, None) not in (None, run_of(summary)):
        raise InputError(
            f"{path} mixes two runs: its {SUMMARY} and its {ARRAYS} do not belong together."
        )
    return Result(summary, data)
