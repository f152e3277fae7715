"""Charts as files for papers and slides: PNG, SVG and PDF.

They are drawn by vl-convert, with no browser and no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError
from sinkscope.report import embed, theme
from sinkscope.report.first import page_sections
from sinkscope.report.parts import Drawing, Figure
from sinkscope.report.renderer import Job, draw
from sinkscope.result import Result

FORMATS = ("png", "svg", "pdf")
SCALE = 2.0  # pixels of a PNG for each unit of the chart: sharp in print at its natural size
PRINT_FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"


def export_figures(
    result: Result, folder: str | Path, formats: Iterable[str] = FORMATS
) -> list[Path]:
    """Write every chart into `folder` as NAME-BOS.FORMAT; returns the paths.

    Raises InputError for an unknown format or a folder that cannot be written.
    """
    from sinkscope.files import fill_folder

    formats = list(formats)
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a format; choose from {', '.join(FORMATS)}.")
    pictures = figures_of(result).items()
    jobs = {f"{name}.{form}": _job(one, form) for name, one in pictures for form in formats}
    written = fill_folder(Path(folder), lambda place: draw(jobs, place))
    return [written / name for name in jobs]


def figures_of(result: Result) -> dict[str, Any]:
    """File name -> chart, or drawing as SVG, of every picture of a result."""
    found: dict[str, Any] = {}
    for part in (part for section in page_sections(result) for part in section.parts):
        if isinstance(part, Figure):
            for variant in part.variants:
                for panel, chart in variant.charts.items():
                    found[_file_name(variant.name or part.name, panel)] = chart
        elif isinstance(part, Drawing):
            found |= {_file_name(part.name, panel): svg for panel, svg in part.panels.items()}
    return found


def _job(picture: Any, form: str) -> Job:
    if isinstance(picture, str):
        return _svg_job(picture, form)
    return chart_job(picture.to_dict(), form)


def _file_name(name: str, panel: str) -> str:
    """A plain name: run names and policies come from files, and are no paths."""
    whole = f"{name}-{panel}" if panel else name
    return re.sub(r"[^\w.+=-]|^\.", "_", whole)[:120]


def chart_job(spec: dict[str, Any], form: str) -> Job:
    """To draw one chart, given as a Vega-Lite spec, in that format."""
    config = theme.vega_config(theme.LIGHT) | {"background": "white", "font": PRINT_FONT}
    # no base url is allowed, so that drawing can ask the network for nothing
    version = embed.vega_lite_version()
    options: dict[str, Any] = {"config": config, "allowed_base_urls": [], "vl_version": version}
    return Job(f"vegalite_to_{form}", spec, options | _scale(form))


def _svg_job(svg: str, form: str) -> Job:
    """To draw an inline drawing with the colours of the light theme written into it."""
    paper = f'<rect width="100%" height="100%" fill="{theme.LIGHT["paper"]}"/>'
    drawn = theme.with_colours(svg, theme.LIGHT, PRINT_FONT).replace("</title>", f"</title>{paper}")
    return Job("str" if form == "svg" else f"svg_to_{form}", drawn, _scale(form))


def _scale(form: str) -> dict[str, float]:
    return {"scale": SCALE} if form == "png" else {}
