"""Charts as files for papers and slides: PNG, SVG and PDF.

They are drawn by vl-convert, with no browser and no network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError
from sinkscope.report import embed, theme
from sinkscope.report.commands import all_sections
from sinkscope.report.parts import Drawing, Figure, Section
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
    from sinkscope.files import write_folder

    formats = list(formats)
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a format; choose from {', '.join(FORMATS)}.")
    pictures = [one for section in all_sections(result) for one in _pictures(section)]
    files = {
        f"{name}.{form}": partial(write, form=form) for name, write in pictures for form in formats
    }
    written = write_folder(Path(folder), files)
    return [written / name for name in files]


def _pictures(section: Section) -> list[tuple[str, Callable[..., None]]]:
    """File name and writer of every picture of a section."""
    found: list[tuple[str, Callable[..., None]]] = []
    for part in section.parts:
        if isinstance(part, Figure):
            for variant in part.variants:
                for panel, chart in variant.charts.items():
                    name = _file_name(variant.name or part.name, panel)
                    found.append((name, partial(write_chart, spec=chart.to_dict())))
        elif isinstance(part, Drawing):
            for panel, svg in part.panels.items():
                found.append((_file_name(part.name, panel), partial(_write_svg, svg=svg)))
    return found


def _file_name(name: str, panel: str) -> str:
    """A plain name: run names and policies come from files, and are no paths."""
    whole = f"{name}-{panel}" if panel else name
    return re.sub(r"[^\w.+=-]|^\.", "_", whole)[:120]


def write_chart(path: Path, spec: dict[str, Any], form: str) -> None:
    """One chart, given as a Vega-Lite spec, as a file of that format."""
    import vl_convert

    config = theme.vega_config(theme.LIGHT) | {"background": "white", "font": PRINT_FONT}
    # no base url is allowed, so that drawing can ask the network for nothing
    version = embed.vega_lite_version()
    options: dict[str, Any] = {"config": config, "allowed_base_urls": [], "vl_version": version}
    if form == "svg":
        path.write_text(vl_convert.vegalite_to_svg(spec, **options), encoding="utf-8")
    elif form == "pdf":
        path.write_bytes(vl_convert.vegalite_to_pdf(spec, **options))
    else:
        path.write_bytes(vl_convert.vegalite_to_png(spec, scale=SCALE, **options))


def _write_svg(path: Path, svg: str, form: str) -> None:
    """An inline drawing with the colours of the light theme written into it."""
    import vl_convert

    paper = f'<rect width="100%" height="100%" fill="{theme.LIGHT["paper"]}"/>'
    drawn = theme.with_colours(svg, theme.LIGHT, PRINT_FONT).replace("</title>", f"</title>{paper}")
    if form == "svg":
        path.write_text(drawn, encoding="utf-8")
    elif form == "pdf":
        path.write_bytes(vl_convert.svg_to_pdf(drawn))
    else:
        path.write_bytes(vl_convert.svg_to_png(drawn, scale=SCALE))
