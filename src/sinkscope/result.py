"""The labelled result: one schema, one set of arrays, and how they are kept on disk.

A run folder holds `summary.json` (this schema), `arrays.nc` (an xarray DataTree, one group for
each command and BOS policy) and `report.html`. All are written to a temporary folder beside the
target and put in place by renames, so a run that breaks leaves the previous one whole.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sinkscope.errors import InputError, OutOfResources

if TYPE_CHECKING:
    import xarray

SCHEMA = "1"
SUMMARY, ARRAYS, REPORT = "summary.json", "arrays.nc", "report.html"


class Measured(BaseModel):
    """A measured value with its 95 % interval; low and high are None where none can be given."""

    value: float | None
    low: float | None = None
    high: float | None = None


class _Open(BaseModel):
    """Keys may be added freely, never renamed."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class ModelInfo(_Open):
    """Which model was looked at."""

    id: str
    revision: str | None = None
    architecture: str
    weights_sha256: str
    parameters: int


class PromptInfo(_Open):
    """Which tokens were looked at."""

    kind: str
    n: int
    length: int
    sha256: dict[str, str]
    source: str = ""


class Environment(_Open):
    """Versions and settings that the numbers depend on."""

    sinkscope: str
    torch: str
    transformers: str
    python: str
    platform: str
    device: str
    dtype: str
    seed: int
    threads: int


class ScanSummary(_Open):
    """What `scan` found under one BOS policy. Rates and shares lie in 0..1.

    sink_heads is [block, head, late share] of each sinking head; the other dicts are explained in
    docs/measures.md.
    """

    p0_sink: bool
    sink_rate: dict[str, Measured]
    sink_rate_after_2: dict[str, Measured]
    sink_rate_by_type: dict[str, dict[str, Measured]]
    late_share: Measured
    late_share_by_type: dict[str, Measured]
    uniform_late_share: float | None
    reader: dict[str, int]
    position_zero: list[str]
    sink_heads: list[list[Any]]
    sink_head_count: int
    null: dict[str, Any]
    delimiters: list[dict[str, Any]]
    massive: dict[str, Any]
    secondary: dict[str, Any]
    residual_identity: dict[str, Any]
    notes: list[str]


class Summary(_Open):
    """Everything in summary.json."""

    schema_version: str = Field(default=SCHEMA, alias="schema")
    model: ModelInfo
    prompts: PromptInfo
    environment: Environment
    command: dict[str, Any] = Field(default_factory=dict)
    scan: dict[str, ScanSummary] = Field(default_factory=dict)

    model_config = ConfigDict(extra="allow", populate_by_name=True, protected_namespaces=())


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
        """Block × head heat map of the late share of P0, as an Altair chart."""
        from sinkscope.report.charts import heads_chart

        chosen = bos or next(iter(self.summary.scan))
        return heads_chart(self.data[f"scan/{chosen}"].to_dataset())

    def to_json(self) -> str:
        """summary.json as text: strict JSON, keys in schema order."""
        content = self.summary.model_dump(mode="json", by_alias=True)
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)

    def save(self, folder: str | Path) -> Path:
        """Write summary.json, arrays.nc and report.html into `folder`, whole or not at all.

        Raises InputError where the folder is a file or not writable, OutOfResources on a full disk.
        """
        from sinkscope.report.page import render_page

        files = {
            SUMMARY: lambda path: path.write_text(self.to_json() + "\n", encoding="utf-8"),
            ARRAYS: lambda path: self.data.to_netcdf(path, engine="h5netcdf"),
            REPORT: lambda path: path.write_text(render_page(self), encoding="utf-8"),
        }
        return write_folder(Path(folder), files)


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


def write_folder(folder: Path, files: dict[str, Any]) -> Path:
    """Write files (name -> function of a path) into `folder`, all or none.

    Everything is written to a temporary folder first; only then are the files renamed into place.
    """
    folder = folder.expanduser()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise _disk_error(error, folder) from None
    try:
        for name, write in files.items():
            write(staging / name)
        folder.mkdir(exist_ok=True)
        for name in files:
            os.replace(staging / name, folder / name)
    except OSError as error:
        raise _disk_error(error, folder) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _disk_error(error: OSError, folder: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutOfResources(f"The disk is full; nothing was written to {folder}.")
    return InputError(f"Cannot write to {folder}: {error.strerror or error}.")
