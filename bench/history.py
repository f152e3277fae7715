"""Every golden number over time, from the files that bench/golden.py --keep leaves.

python bench/history.py                         a table: first, last and range of each number
python bench/history.py --only late_share       of one key; or of one model: --only bundled
python bench/history.py --page history.html     a picture for each number, on one offline page
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from golden import GOLDEN, HISTORY, TOLERANCES, close

WIDTH, HEIGHT, EDGE = 260, 54, 6
Point = tuple[str, Any]  # label of a file, value
STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem}
table{border-collapse:collapse}td,th{text-align:left;padding:.2rem 1.2rem .2rem 0;
border-bottom:1px solid #ccc;vertical-align:middle}svg{display:block}"""


def kept() -> list[dict[str, Any]]:
    """The files that were kept, oldest first; of one day, in the order of their versions."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in HISTORY.glob("*.json")]
    return sorted(files, key=lambda one: (one["date"], _numbers(one["versions"]["torch"])))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.partition("+")[0].split(".") if part.isdigit()]


def series(files: list[dict[str, Any]], only: str = "") -> dict[tuple[str, str], list[Point]]:
    """(model and BOS policy, key) -> its value in each file that has it."""
    found: dict[tuple[str, str], list[Point]] = {}
    for one in files:
        used = one["versions"]
        label = f"{one['date']}, torch {used['torch']}, transformers {used['transformers']}"
        for name, numbers in one["numbers"].items():
            for key, value in numbers.items():
                if only in f"{name} {key}":
                    found.setdefault((name, key), []).append((label, value))
    return found


def moved(key: str, points: list[Point]) -> bool:
    """Whether a number ever left its tolerance around its first value."""
    return not all(close(key, points[0][1], value) for _, value in points)


def shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def span(points: list[Point]) -> str:
    """Smallest and largest value; of words, how many there were."""
    values = [value for _, value in points]
    if all(isinstance(value, float) for value in values):
        return shown(min(values)) + (
            "" if min(values) == max(values) else f" to {shown(max(values))}"
        )
    different = {str(value) for value in values}
    return shown(values[0]) if len(different) == 1 else f"{len(different)} values"


def table(found: dict[tuple[str, str], list[Point]]) -> str:
    """A line a number: first, last, range, and a mark where it left its tolerance."""
    rows = [("model", "number", "first", "last", "range", "")]
    for (name, key), points in found.items():
        first, last = shown(points[0][1]), shown(points[-1][1])
        rows.append((name, key, first, last, span(points), "moved" if moved(key, points) else ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)


def picture(points: list[Point], golden: Any, allowed: float | None) -> str:
    """The values as dots over the files, inside the band of the tolerance, as inline SVG."""
    values = [value for _, value in points]
    band = () if allowed is None or golden is None else (golden - allowed, golden + allowed)
    low, high = min([*values, *band]), max([*values, *band])
    reach = (high - low) or abs(high) or 1.0

    def y(value: float) -> float:
        return HEIGHT - EDGE - (value - low) / reach * (HEIGHT - 2 * EDGE)

    step = (WIDTH - 2 * EDGE) / max(len(values) - 1, 1)
    parts = []
    if band:
        top, bottom = y(band[1]), y(band[0])
        parts.append(
            f'<rect x="0" y="{top:.1f}" width="{WIDTH}" height="{max(bottom - top, 1):.1f}" '
            'fill="#2a78b5" opacity=".15"/>'
        )
    for i, (label, value) in enumerate(points):
        said = html.escape(f"{label}: {shown(value)}")
        parts.append(
            f'<circle cx="{EDGE + i * step:.1f}" cy="{y(value):.1f}" r="3.5" fill="#2a78b5">'
            f"<title>{said}</title></circle>"
        )
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(parts)}</svg>'


def page(found: dict[tuple[str, str], list[Point]], golden: dict[str, Any], files: int) -> str:
    """One offline page: a line a number, numbers as pictures, words as they were."""
    lines = []
    for (name, key), points in found.items():
        values = [value for _, value in points]
        drawn = html.escape(span(points))
        if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            most = TOLERANCES.get(key, (None, ""))[0]
            drawn = picture(points, golden.get(name, {}).get(key), most)
        last = html.escape(shown(values[-1]))
        mark = "<strong>moved</strong>" if moved(key, points) else ""
        cells = [html.escape(name), html.escape(key), last, drawn, mark]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{one}</th>" for one in ("Model", "Number", "Last", "Over time", ""))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Golden numbers over time</title><style>{STYLE}</style></head><body>"
        f"<h1>Golden numbers over time</h1><p>Measurements: {files}, the oldest on the left; the "
        "band is the tolerance around the golden number. A dot says its date and versions.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        "</body></html>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a model's or number's name")
    parser.add_argument("--page", type=Path, help="file for a page with pictures")
    options = parser.parse_args()
    files = kept()
    if not files:
        sys.exit(f"{HISTORY} holds no measurement: python bench/golden.py --keep DATE makes one.")
    found = series(files, options.only)
    if options.page is not None:
        golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["numbers"]
        options.page.write_text(page(found, golden, len(files)), encoding="utf-8")
        print(options.page)
        return
    print(table(found))
    count = sum(moved(key, points) for (_, key), points in found.items())
    print(f"measurements: {len(files)}; numbers that moved: {count}")


if __name__ == "__main__":
    main()
