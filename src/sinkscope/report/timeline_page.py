"""What `timeline` shows: nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinkscope.report.parts import Findings, Headline, Section

if TYPE_CHECKING:
    from sinkscope.report.charts import Chart
    from sinkscope.result import Result


def sections(result: Result) -> list[Section]:
    """Its sections of the page."""
    return []


def findings(result: Result, panel: str) -> Findings | None:
    """Its words and tables for a terminal."""
    return None


def headline(result: Result, bos: str) -> Headline:
    """Its numbers that two runs are compared by."""
    return {}


def main_chart(result: Result, bos: str) -> Chart | None:
    """Its one picture."""
    return None
