"""Charts as files for papers and slides: PNG, SVG and PDF.

They are drawn by vl-convert, with no browser and no network.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.errors import InputError
from sinkscope.report import charts, embed, frames, sections, theme

if TYPE_CHECKING:
    from xarray import Dataset

    from sinkscope.result import Result

FORMATS = ("png", "svg", "pdf")
SCALE = 2.0  # pixels of a PNG for each unit of the chart: sharp in print at its natural size
PRINT_FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"


def named_charts(data: Dataset) -> dict[str, charts.Chart]:
    """Every chart that this scan can fill, by file name; heat maps come once a measure."""
    found: dict[str, charts.Chart] = {
        f"heads-{measure.name.replace('_', '-')}": charts.heads_chart(data, measure.name)
        for measure in charts.measures_of(data)
    }
    for name, _, _, draw in sections.single_charts():
        chart = draw(data)
        if chart is not None:
            found[name] = chart
    return found


def export_figures(
    result: Result, folder: str | Path, formats: Iterable[str] = FORMATS
) -> list[Path]:
    """Write every chart of every BOS policy into `folder` as NAME-BOS.FORMAT; returns the paths.

    Raises InputError for an unknown format or a folder that cannot be written.
    """
    from sinkscope.result import write_folder

    formats = list(formats)
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a format; choose from {', '.join(FORMATS)}.")
    files: dict[str, Any] = {}
    for bos, data in frames.datasets(result).items():
        for name, chart in named_charts(data).items():
            spec = chart.to_dict()
            for form in formats:
                files[f"{name}-{bos}.{form}"] = partial(_write, spec=spec, form=form)
    written = write_folder(Path(folder), files)
    return [written / name for name in files]


def _write(path: Path, spec: dict[str, Any], form: str) -> None:
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
