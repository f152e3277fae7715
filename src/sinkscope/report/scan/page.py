"""What a scan shows: its words, its figures in reading order, its tables."""

from __future__ import annotations

from xarray import Dataset

from sinkscope.detect.attention import SINK
from sinkscope.report import frames
from sinkscope.report.charts import Chart
from sinkscope.report.parts import (
    Findings,
    Headline,
    Section,
    Words,
    concluded,
    plots,
    present,
    turned,
    with_tables,
)
from sinkscope.report.parts import tables as tables_of
from sinkscope.report.phases import phases_of
from sinkscope.report.scan import charts, conclusions, figures, tables
from sinkscope.report.scan.words import heads_above_random, stream, verdict_so_far, where
from sinkscope.report.text import interval_note, number_of, percent, short, visible
from sinkscope.result import Result, ScanSummary
from sinkscope.stats import nan_mean


def sections(result: Result) -> list[Section]:
    """The sections of a scan, in reading order; none without a scan."""
    data = frames.datasets(result)
    if not data:
        return []
    both = {bos: (result.summary.scan[bos], one) for bos, one in data.items()}
    return [
        _verdict(result, data),
        _rates(both),
        figures.heads_section(data, concluded(conclusions.heads, both)),
        figures.maps_section(data),
        *_position_zero(result, data),
        *_elsewhere(result, data),
    ]


def _rates(both: dict[str, tuple[ScanSummary, Dataset]]) -> Section:
    """How many heads, beside their nulls."""
    data = {bos: one for bos, (_, one) in both.items()}
    return Section(
        "rates",
        "Sink rates and nulls",
        "The sink rate is the share of heads, counted prompt by prompt, that give position "
        "zero more than ε of their attention. Brackets hold 95\u00a0% intervals over prompts. "
        "Rows that name a kind of attention count only its blocks.",
        [
            *tables_of(
                both,
                lambda scan, one: [tables.rates_table(scan), tables.nulls_table(scan, one)],
                stacked=True,
            ),
            *plots(data, figures.NULLS),
        ],
        concluded(conclusions.rate, {bos: scan for bos, (scan, _) in both.items()}),
    )


def _position_zero(result: Result, data: dict[str, Dataset]) -> list[Section]:
    """What position zero looks like inside, and how far it is alone in that."""
    scans, traced = result.summary.scan, result.summary.trace
    along = {
        bos: (one, phases_of(traced[bos]) if bos in traced else []) for bos, one in data.items()
    }
    return [
        Section(
            "position-zero",
            "What becomes of position zero",
            "How its residual stream departs from that of the other tokens along the depth.",
            [*plots(along, figures.NORM), *plots(data, figures.COSINE)],
            concluded(stream, data),
        ),
        Section(
            "received",
            "Attention by position",
            "Whether it is position zero alone that draws attention.",
            [*plots(data, figures.RECEIVED)],
            concluded(conclusions.received, data),
        ),
        Section(
            "massive",
            "Massive activations",
            "A few channels with values far beyond the rest often mark a sink token.",
            with_tables(
                plots(data, *figures.MASSIVE),
                tables_of(scans, lambda scan: [tables.massive_table(scan)], quiet=True),
            ),
            concluded(conclusions.massive, scans),
        ),
        Section(
            "reading",
            "What heads read there",
            "The value they get from position zero, and why its key matches their queries.",
            [*plots(data, *figures.READING)],
            concluded(conclusions.reading, data),
        ),
    ]


def _elsewhere(result: Result, data: dict[str, Dataset]) -> list[Section]:
    """Other sinks, and every number by block."""
    scans = result.summary.scan
    return [
        Section(
            "elsewhere",
            "Where else attention sinks",
            "Sinks need not sit at position zero, nor at a position at all.",
            with_tables(plots(data, *figures.ELSEWHERE), tables_of(scans, tables.elsewhere_tables)),
            concluded(conclusions.elsewhere_mass, data),
        ),
        Section(
            "blocks",
            "By block",
            "Late share: mean and highest over the heads of a block. Uniform: what even attention "
            "would give there. P0 norm and cosine are taken at the block's input.",
            [*tables_of(data, lambda one: [tables.blocks_table(one)], stacked=True, quiet=True)],
            concluded(conclusions.blocks, data),
        ),
    ]


def _verdict(result: Result, data: dict[str, Dataset]) -> Section:
    """What the scan shows in words; the verdict so far, where nothing more was tested."""
    found = {bos: _findings(result, bos, one) for bos, one in data.items()}
    said = {bos: one.headline for bos, one in found.items()}
    if result.summary.verify:
        return Section("scan", "What the scan shows", "", [Words(found)], said)
    return Section("verdict", "Verdict so far", "", [Words(found)], said, unfolded=True)


def findings(result: Result, bos: str) -> Findings | None:
    """What the scan of one BOS policy shows, in words and tables, for a terminal."""
    if bos not in result.summary.scan:
        return None
    scan, data = result.summary.scan[bos], frames.datasets(result)[bos]
    found = _findings(result, bos, data)
    found.answers = [("Sink", found.headline), ("Where", where(scan, data))]
    found.tables = [
        turned(tables.rates_table(scan)),
        tables.nulls_table(scan, data),
        tables.blocks_table(data),
        *present(
            [
                tables.heads_table(data),
                tables.massive_table(scan),
                *tables.elsewhere_tables(scan),
            ]
        ),
    ]
    return found


def _findings(result: Result, bos: str, data: Dataset) -> Findings:
    scan = result.summary.scan[bos]
    headline, *sentences, limit = verdict_so_far(scan, data)
    limit = "" if result.summary.verify or result.summary.advise else limit
    return Findings(headline, sentences, key_figures(scan, data), limit, scan.notes)


def key_figures(scan: ScanSummary, data: Dataset) -> list[tuple[str, str, str]]:
    """The few numbers at the top: value, what it is, what it is compared with."""
    share = number_of(scan.late_share)
    uniform = scan.uniform_late_share
    times = f"{short(share / uniform)} × uniform attention" if share and uniform else ""
    shown = [(percent(share), "of late attention goes to position zero", times)]
    middle = scan.sink_rate.get(str(SINK))
    if middle is not None:
        rate = f"of heads give it more than {SINK:.0%}, mean over prompts (sink rate)".replace(
            "%", "\u00a0%"
        )
        shown.append((percent(number_of(middle)), rate, interval_note(middle)))
    above = heads_above_random(data)
    if above is not None:
        shown.append(
            (percent(above), "of heads exceed random targets", "their own 99th percentile")
        )
    if frames.has(data, "norm_ratio"):
        peak = frames.norm_ratio(data).max()
        shown.append((f"{short(float(peak))} ×", "the median token's norm, at most", "1 × is none"))
    return shown


def main_chart(result: Result, bos: str) -> Chart | None:
    """Block × head heat map of the late share of P0."""
    return charts.heads_chart(frames.group(result, "scan", bos))


def headline(result: Result, bos: str) -> Headline:
    """The numbers of a scan that two runs are compared by."""
    scan, data = result.summary.scan[bos], frames.group(result, "scan", bos)
    shares = {
        "Late share of P0": number_of(scan.late_share),
        "Late share under uniform attention": scan.uniform_late_share,
        **{f"Sink rate, ε = {visible(eps)}": number_of(r) for eps, r in scan.sink_rate.items()},
        "Heads above random targets": heads_above_random(data),
    }
    for name, label in (("learned_mass", "a learned sink"), ("elsewhere_mass", "sinks elsewhere")):
        if frames.has(data, name):
            shares[f"Mass on {label}"] = float(nan_mean(data[name].values, None))
    numbers: Headline = {label: ("share", value) for label, value in shares.items()}
    numbers["Sink heads"] = ("count", scan.sink_head_count)
    if frames.has(data, "norm_ratio"):
        ratio = float(frames.norm_ratio(data).max())
        numbers["Largest norm of P0 over the median"] = ("ratio", ratio)
    return numbers
