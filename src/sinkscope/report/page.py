"""`report.html`: one offline page with everything a result holds.

The page asks the network for nothing. Its Content-Security-Policy allows exactly the inline
scripts written here, by their hashes, and no `eval`: Vega runs with its own expression interpreter.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from sinkscope.report import embed, frames, tables, theme
from sinkscope.report.compare import comparison, run_name
from sinkscope.report.sections import Figure, Section, nulls_figure, sections
from sinkscope.report.text import number_of, percent, percent_interval, short, visible
from sinkscope.report.words import LIMITS, heads_above_random, verdict_so_far

if TYPE_CHECKING:
    from xarray import Dataset

    from sinkscope.result import Result, ScanSummary


def render_page(result: Result, against: Result | None = None) -> str:
    """The whole report as one HTML string; `against` adds a comparison with another run."""
    data = frames.datasets(result)
    shown = sections(data)
    nulls = nulls_figure(data) if data else None
    compared, compared_tables = comparison(result, against) if against else (None, [])
    figures = [figure for section in [*shown, compared] if section for figure in section.figures]
    maps = {bos: packed for bos, one in data.items() if (packed := embed.maps_of(one))}
    script = _asset("page.js")
    runtime = embed.vega_runtime()
    return _template().render(
        summary=result.summary,
        name=run_name(result),
        policies=[_policy(result, bos, one) for bos, one in data.items()],
        labels=frames.POLICIES,
        nulls=nulls,
        sections=_before_maps(shown),
        later=_after_maps(shown),
        has_maps=bool(maps),
        compared=compared,
        compared_tables=compared_tables,
        settings=tables.settings_tables(result),
        data=embed.script_json(_data([*figures, *([nulls] if nulls else [])], maps)),
        style=Markup(_style()),
        script=Markup(script),
        runtime=Markup(runtime),
        script_sources=" ".join(map(embed.script_hash, (runtime, script))),
    )


def _before_maps(shown: list[Section]) -> list[Section]:
    return [section for section in shown if section.name == "heads"]


def _after_maps(shown: list[Section]) -> list[Section]:
    return [section for section in shown if section.name != "heads"]


def _policy(result: Result, bos: str, data: Dataset) -> dict[str, Any]:
    """What the template shows of one BOS policy."""
    scan = result.summary.scan[bos]
    return {
        "bos": bos,
        "label": frames.POLICIES.get(bos, bos),
        "verdict": verdict_so_far(scan, data),
        "figures": key_figures(scan, data),
        "notes": scan.notes,
        "rates": [tables.rates_table(scan), tables.nulls_table(scan, data)],
        "heads": _present(tables.heads_table(data)),
        "blocks": tables.blocks_table(data),
        "massive": _present(tables.massive_table(scan)),
        "elsewhere": _present(tables.delimiters_table(scan), tables.secondary_table(scan)),
    }


def _present(*found: tables.Table | None) -> list[tables.Table]:
    return [table for table in found if table is not None and table.rows]


def key_figures(scan: ScanSummary, data: Dataset) -> list[tuple[str, str, str]]:
    """The few numbers at the top: value, what it is, what it is compared with."""
    share = number_of(scan.late_share)
    uniform = scan.uniform_late_share
    times = f"{short(share / uniform)} × uniform attention" if share and uniform else ""
    shown = [(percent(share), "of late attention goes to position zero", times)]
    middle = scan.sink_rate.get(str(LIMITS.head_share))
    if middle is not None:
        interval = percent_interval(middle)
        note = f"95 % interval {interval} %" if interval else ""
        shown.append((percent(number_of(middle)), "sink rate at ε = 0.3", note))
    above = heads_above_random(data)
    if above is not None:
        shown.append(
            (percent(above), "of heads exceed random targets", "their own 99th percentile")
        )
    if frames.has(data, "norm_ratio"):
        peak = frames.nanmedian(data["norm_ratio"].values, axis=0).max()
        shown.append((f"{short(float(peak))} ×", "the median token’s norm, at most", "1 × is none"))
    return shown


def _data(figures: list[Figure], maps: dict[str, Any]) -> dict[str, Any]:
    """Everything the page's script reads."""
    return {
        "figures": {
            figure.name: [
                {"label": v.label, "caption": v.caption, "specs": v.specs} for v in figure.variants
            ]
            for figure in figures
        },
        "maps": maps,
        "labels": {bos: frames.POLICIES.get(bos, bos) for bos in maps},
        "themes": {
            name: {"config": theme.vega_config(colours), "ramp": colours["ramp"]}
            for name, colours in (("light", theme.LIGHT), ("dark", theme.DARK))
        },
    }


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(_asset("template.html.j2"))


def _finalize(value: Any) -> Any:
    """Whatever the template prints is either markup made here or a string made visible."""
    return value if isinstance(value, Markup) else visible(value)


def _style() -> str:
    """The stylesheet with the colours of both themes as custom properties."""
    light, dark = (_properties(colours) for colours in (theme.LIGHT, theme.DARK))
    return (
        _asset("style.css")
        + f":root{{color-scheme:light;{light}}}\n"
        + "@media (prefers-color-scheme:dark){:root:not([data-theme=light]){"
        + f"color-scheme:dark;{dark}}}}}\n"
        + f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
        + f"@media print{{:root:root{{color-scheme:light;{light}}}}}\n"
    )


def _properties(colours: dict[str, Any]) -> str:
    plain = {name: value for name, value in colours.items() if isinstance(value, str)}
    plain["accent"] = colours["category"][0]
    return "".join(f"--{name}:{value};" for name, value in plain.items())


def _asset(name: str) -> str:
    return files("sinkscope.report").joinpath(name).read_text(encoding="utf-8")
