"""What each command contributes: to the page, the terminal, the comparison and `Result.plot`.

A new command adds its module to these tables.
"""

from __future__ import annotations

from collections.abc import Sequence

from sinkscope.errors import InputError
from sinkscope.report import frames
from sinkscope.report.advise import page as advise_page
from sinkscope.report.causal import page as causal_page
from sinkscope.report.causal import verdict_page
from sinkscope.report.charts import Chart
from sinkscope.report.circuit import page as circuit_page
from sinkscope.report.mixing import page as mixing_page
from sinkscope.report.parts import Findings, Headline, Section
from sinkscope.report.replications import page as replication_page
from sinkscope.report.scan import page as scan_page
from sinkscope.report.timeline import page as timeline_page
from sinkscope.result import Result

# Question and what answers it on the page, in reading order: result -> sections, or none.
SECTIONS = (
    ("What to do", advise_page.sections),
    ("Is that proved", verdict_page.sections),
    ("How it is built", circuit_page.sections),
    ("What the tests showed", causal_page.sections),
    ("Published experiments", replication_page.sections),
    ("The sink itself", scan_page.sections),
    ("Over training", timeline_page.sections),
    ("What it is for", mixing_page.sections),
)
# Words and tables in a terminal: (result, panel) -> findings, or None.
FINDINGS = (
    verdict_page.findings,
    circuit_page.findings,
    replication_page.findings,
    scan_page.findings,
    timeline_page.findings,
    mixing_page.findings,
    advise_page.findings,
)
# Numbers to compare two runs by: (result, bos), where the summary holds that command; bos is ""
# for the timeline, which has one policy throughout.
HEADLINES = {
    "verify": verdict_page.headline,
    "trace": circuit_page.headline,
    "scan": scan_page.headline,
    "mix": mixing_page.headline,
    "timeline": timeline_page.headline,
}
# The one picture of a command: (result, bos), where the summary holds that command.
MAIN_CHARTS = {
    "scan": scan_page.main_chart,
    "trace": circuit_page.main_chart,
    "verify": causal_page.main_chart,
    "mix": mixing_page.main_chart,
    "timeline": timeline_page.main_chart,
}


def all_sections(result: Result) -> list[Section]:
    """Every section that this result can fill, in reading order, the first of a group named so."""
    shown: list[Section] = []
    for group, sections in SECTIONS:
        filled = [section for section in sections(result) if section.parts]
        for section in filled[:1]:
            section.group = group
        shown += filled
    return shown


def all_findings(result: Result, panel: str) -> list[Findings]:
    """What every command found under one BOS policy; "" for what has none."""
    found = [findings(result, panel) for findings in FINDINGS]
    return [one for one in found if one is not None]


def headlines(runs: Sequence[Result], bos: str) -> list[Headline]:
    """The numbers of the commands that all runs hold under this BOS policy, for each run."""
    found: list[Headline] = [{} for _ in runs]
    for name, headline in HEADLINES.items():
        if all(bos in _policies(run, name) for run in runs):
            for numbers, run in zip(found, runs):
                numbers.update(headline(run, bos))
    return found


def main_chart(result: Result, bos: str | None = None) -> Chart:
    """The main chart of the first command that has one. Raises InputError where none has."""
    for name, draw in MAIN_CHARTS.items():
        held = _policies(result, name)
        chosen = next(iter(held), "") if bos is None else bos
        chart = draw(result, chosen) if chosen in held else None
        if chart is not None:
            return chart
    known = ", ".join(frames.policies(result)) or "none"
    raise InputError(f"There is nothing to plot for BOS policy {bos!r}; this result has {known}.")


def _policies(result: Result, name: str) -> list[str]:
    """BOS policies that the summary holds a command for; [""] for the timeline."""
    held = getattr(result.summary, name)
    return list(held) if isinstance(held, dict) else [""] * (held is not None)
