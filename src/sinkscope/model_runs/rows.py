"""A run in one line for each BOS policy: what a comparison of many runs is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sinkscope.files import latest
from sinkscope.report.frames import policies
from sinkscope.result import Result
from sinkscope.schema.sweep import PhaseSpan, SweepRow
from sinkscope.schema.trace import PhaseRow, TraceSummary

MOST_WRITERS = 2
ROW = "row.json"  # of a run's folder


class RowFile(BaseModel):
    """What a sweep keeps beside each run.

    key      of the content, settings and conditions that it was measured under
    seconds  what it took
    """

    key: str
    seconds: float
    rows: list[SweepRow]

    @property
    def run(self) -> str:
        """What the folder of the run is called."""
        return self.rows[0].run


def read_rows(folder: Path) -> RowFile | None:
    """What is kept in a folder; None where there is nothing, or it is damaged."""
    try:
        held = RowFile.model_validate_json(latest(folder, ROW).read_bytes())
    except (OSError, ValueError):
        return None
    return held if held.rows else None


def rows_of(result: Result, run: str, **about: Any) -> list[SweepRow]:
    """A row for each BOS policy of a result.

    run    what its folder is called
    about  further fields of the rows, such as model, settings, expected
    """
    summary = result.summary
    known = {
        "model": summary.model.id,
        "family": summary.model.architecture,
        "parameters": summary.model.parameters,
    }
    return [
        SweepRow(
            run=run,
            bos=bos,
            blocks=_blocks(result, bos),
            **{**known, **about},
            **_found(result, bos),
        )
        for bos in policies(result)
    ]


def _blocks(result: Result, bos: str) -> int | None:
    path = f"/scan/{bos}"
    return int(result.data[path].sizes["layer"]) if path in result.data.groups else None


def _found(result: Result, bos: str) -> dict[str, Any]:
    """What scan, trace and verify found, as far as they were run."""
    summary = result.summary
    found: dict[str, Any] = {}
    notes: list[str] = []
    if bos in summary.scan:
        scan = summary.scan[bos]
        notes += scan.notes
        found |= {
            "position_zero": (scan.position_zero or [""])[0],
            "p0_sink": scan.p0_sink,
            "kind": scan.sink["kind"],
            "late_share": scan.late_share,
            "uniform_late_share": scan.uniform_late_share,
            "sink_heads": scan.sink_head_count,
            "heads": scan.sink["of"],
        }
    if bos in summary.trace:
        trace = summary.trace[bos]
        notes += trace.notes
        found |= {
            "emergence_block": trace.emergence_block,
            "writers": _writers(trace),
            "phases": [_span(row) for row in trace.phases],
        }
    if bos in summary.verify:
        verify = summary.verify[bos]
        found |= {
            "verdict": verify.verdict,
            "missing": verify.missing,
            "test_passes": verify.cost.get("passes"),
        }
    unfinished = [note for note in notes if note.startswith("The circuit was n")]
    return {**found, "incomplete": " ".join(unfinished)}


def _writers(trace: TraceSummary) -> list[list[str | float]]:
    most = sorted(trace.write_shares.items(), key=lambda each: -each[1])
    return [[name, share] for name, share in most[:MOST_WRITERS] if share > 0]


def _span(row: PhaseRow) -> PhaseSpan:
    return {
        "rise": row["rise"],
        "fall": row["fall"],
        "readers": len(row["reading_heads"]),
        "most_read": row["most_read"],
    }
