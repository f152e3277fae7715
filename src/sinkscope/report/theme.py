"""Colours of the page and of its charts, light and dark.

The sequential ramps run along even steps of OKLab lightness in one hue, so equal differences look
equal and the order survives every kind of colour blindness and grey printing. Categories use four
colours of the Okabe-Ito set, which differ for any kind of colour vision.
"""

from __future__ import annotations

import math
from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
STEPS = 9


def _oklch(lightness: float, chroma: float, hue: float) -> str:
    """An OKLCH colour as #rrggbb, clipped to sRGB (Ottosson 2020, bottosson.github.io)."""
    a = chroma * math.cos(math.radians(hue))
    b = chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    small = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * small,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * small,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * small,
    )
    return "#" + "".join(f"{round(255 * _gamma(channel)):02x}" for channel in linear)


def _gamma(channel: float) -> float:
    channel = min(max(channel, 0.0), 1.0)
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055


def ramp(start: float, stop: float, hue: float, turn: float = 0.0) -> list[str]:
    """Colours from lightness `start` to `stop`; the hue turns by `turn` degrees on the way."""
    parts = [step / (STEPS - 1) for step in range(STEPS)]
    return [_shade(start + (stop - start) * part, hue + turn * part) for part in parts]


def _shade(lightness: float, hue: float) -> str:
    # sRGB has room for chroma in the middle of the lightness range only
    return _oklch(lightness, 0.14 * math.sin(math.pi * lightness) ** 1.6, hue)


def _diverging(middle: float, end: float) -> list[str]:
    """Orange below, neutral at zero, blue above: equal lightness steps on both sides."""
    orange = [_oklch(end + (middle - end) * i / 4, 0.14 * (4 - i) / 4, 55) for i in range(4)]
    blue = [_oklch(middle + (end - middle) * i / 4, 0.14 * i / 4, 250) for i in range(1, 5)]
    return [*orange, _oklch(middle, 0.0, 0), *blue]


LIGHT = {
    "paper": "#ffffff",
    "ink": "#1b1f24",
    "quiet": "#59626d",
    "line": "#dfe3e8",
    "ramp": ramp(0.97, 0.30, 235, 40),
    "depth": ramp(0.80, 0.32, 165, 130),
    "diverging": _diverging(0.97, 0.45),
    "category": ["#0072b2", "#d55e00", "#009e73", "#b0578d"],
    "reference": "#6b7480",
}
DARK = {
    "paper": "#14171b",
    "ink": "#e6e9ed",
    "quiet": "#9aa4b0",
    "line": "#2d333b",
    "ramp": ramp(0.25, 0.95, 270, -70),
    "depth": ramp(0.48, 0.92, 300, -140),
    "diverging": _diverging(0.27, 0.78),
    "category": ["#56b4e9", "#e69f00", "#2fc79b", "#dd93bf"],
    "reference": "#98a2ae",
}


def with_colours(svg: str, colours: dict[str, Any], font: str = FONT) -> str:
    """A drawing that names the page's colours (`var(--ink)`), with these colours written in."""
    svg = str(svg)  # Markup would escape what is put in
    for name, value in properties(colours).items():
        svg = svg.replace(f"var(--{name})", value)
    return svg.replace("var(--font)", font)


def properties(colours: dict[str, Any]) -> dict[str, str]:
    """The single colours by name, and `accent`, as custom properties of the stylesheet."""
    plain = {name: value for name, value in colours.items() if isinstance(value, str)}
    names = ("accent", "second", "third", "fourth")
    return plain | dict(zip(names, colours["category"], strict=True))


def vega_config(colours: dict[str, Any]) -> dict[str, Any]:
    """The Vega-Lite config that gives a chart these colours and the page's type."""
    axis = {
        "labelColor": colours["quiet"],
        "titleColor": colours["quiet"],
        "domainColor": colours["line"],
        "tickColor": colours["line"],
        "gridColor": colours["line"],
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelPadding": 4,
        "tickSize": 4,
        "gridOpacity": 0.7,
    }
    legend = {
        "labelColor": colours["quiet"],
        "titleColor": colours["quiet"],
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "orient": "top",
        "titleLimit": 360,
        "labelLimit": 260,
        "gradientThickness": 9,
        "gradientLength": 190,
        "symbolStrokeWidth": 2,
        "symbolBaseFillColor": colours["quiet"],
        "columnPadding": 14,
    }
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "legend": legend,
        "range": {
            "heatmap": colours["ramp"],
            "ramp": colours["depth"],
            "diverging": colours["diverging"],
            "category": colours["category"],
        },
        "mark": {"color": colours["category"][0]},
        "line": {"strokeWidth": 2},
        "point": {"filled": True, "size": 28},
        "rule": {"color": colours["reference"], "strokeDash": [4, 3]},
        "text": {"color": colours["quiet"], "fontSize": 11},
        "style": {
            "null": {"color": colours["reference"], "strokeDash": [4, 3]},
            "band": {"color": colours["category"][1], "opacity": 0.18},
            "interval": {"color": colours["ink"], "strokeDash": [1, 0], "strokeWidth": 1.5},
        },
    }
