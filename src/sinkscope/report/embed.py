"""What is put into the page: specs, data and maps, packed small and unable to break out.

Numbers travel as columns instead of rows, maps as the lower triangle of bytes, deflated and in
base64. All JSON has `<`, `>`, `&` and the two JavaScript line separators escaped, so that no token
can end the element that holds it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from markupsafe import Markup
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import Chart
from sinkscope.report.renderer import Job, drawn
from sinkscope.report.text import token_text

MAP_BUDGET = 450_000  # base64 characters a policy: two policies and the runtime stay below 2.2 MB
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def script_json(value: Any) -> Markup:
    """JSON that is safe inside a script element: it can hold neither a tag nor a line separator."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_ESCAPES))


def script_hash(source: str) -> str:
    """The Content-Security-Policy source that allows exactly this inline script."""
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@lru_cache(maxsize=1)
def vega_runtime() -> str:
    """The Vega, Vega-Lite and vega-embed libraries as one script, from vl-convert's own copy."""
    expose = "window.vegaEmbed = vegaEmbed;"
    return drawn(Job("javascript_bundle", expose, {"vl_version": vega_lite_version()}))


def vega_lite_version() -> str:
    """The Vega-Lite version that the installed Altair writes, as vl-convert names it."""
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


def spec_of(chart: Chart) -> dict[str, Any]:
    """A chart as a Vega-Lite spec that fills its container, its data packed as columns."""
    tables: list[list[frames.Row]] = []
    spec = _name_tables(chart, tables).properties(width="container").to_dict()
    for key in ("$schema", "config"):
        spec.pop(key, None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["datasets"] = {f"table{n}": _columns(table) for n, table in enumerate(tables)}
    return spec


def _name_tables(chart: Any, tables: list[list[frames.Row]]) -> Any:
    """A copy of the chart that refers to its data by name; the data is appended to `tables`."""
    copy = chart.copy(deep=False)
    if isinstance(copy.data, dict) and "values" in copy.data:
        table = copy.data["values"]
        if table not in tables:
            tables.append(table)
        copy.data = {"name": f"table{tables.index(table)}"}
    if hasattr(copy, "layer"):
        copy.layer = [_name_tables(layer, tables) for layer in copy.layer]
    return copy


def _columns(table: list[frames.Row]) -> dict[str, Any]:
    return {name: _packed([row[name] for row in table]) for name in table[0]} if table else {}


def _packed(column: list[Any]) -> Any:
    """Strings are sent once, with an index a row; numbers as they are."""
    if not isinstance(column[0], str):
        return column
    texts = list(dict.fromkeys(column))
    index = {text: number for number, text in enumerate(texts)}
    return {"texts": texts, "index": [index[text] for text in column]}


def share_scales(specs: list[dict[str, Any]]) -> None:
    """Give specs that stand side by side the same y and colour domain, so that they compare."""
    for channel in ("y", "color"):
        open_ones = [(spec, one) for spec in specs for one in _open_scales(spec, channel)]
        values = [v for spec, one in open_ones for v in _values(spec, one["field"])]
        if channel == "y":
            values += [v for spec in specs for v in _values(spec, "high")]
        for _, definition in open_ones if values else ():
            scale = definition.setdefault("scale", {})
            low = 0 if scale.get("zero") else min(values)
            scale.update(domain=[low, max(values)], nice=channel == "y")


def _open_scales(spec: dict[str, Any], channel: str) -> list[dict[str, Any]]:
    """Quantitative encodings of a channel whose domain the chart leaves to the data."""
    layers = spec.get("layer", [spec])
    found = [layer.get("encoding", {}).get(channel, {}) for layer in layers]
    return [
        definition
        for definition in found
        if definition.get("type") == "quantitative"
        and "field" in definition
        and not {"domain", "domainMax"} & set(definition.get("scale") or {})
    ]


def _values(spec: dict[str, Any], field: str) -> list[float]:
    tables = spec["datasets"].values()
    return [v for table in tables for v in table.get(field, []) if isinstance(v, (int, float))]


def maps_of(data: Dataset, budget: int = MAP_BUDGET) -> dict[str, Any] | None:
    """Attention maps of as many heads as the budget holds, strongest first, or None without maps.

    Returns the heads kept as [layer, head] pairs in storage order, the token texts, and one
    deflated stream of lower triangles, ordered by example, then head, then query, then key.
    """
    if "map" not in data or data["map"].size == 0:
        return None
    stored = np.asarray(data["map"].values, dtype=np.uint8)
    tokens = np.asarray(data["map_tokens"].values)
    order = _heads_by_interest(data)
    total = len(order)
    packed = _pack(stored, order)
    while len(packed) > budget and len(order) > 1:
        order = order[: max(1, int(len(order) * budget / len(packed) * 0.95))]
        packed = _pack(stored, order)
    blocks = frames.blocks(data)
    strongest = np.unravel_index(_known(data).argmax(), _known(data).shape)
    return {
        "strongest": [int(blocks[strongest[0]]), int(strongest[1])],
        "lengths": [_length(row) for row in tokens],
        "heads": [[int(blocks[layer]), int(head)] for layer, head in order],
        "total": total,
        "size": stored.shape[-1],
        "tokens": [[token_text(token, 60) for token in row] for row in tokens],
        "bytes": packed,
    }


def _known(data: Dataset) -> np.ndarray:
    """Late share with the heads that cannot see P0 put last."""
    return np.nan_to_num(frames.late_share(data), nan=-1.0)


def _length(tokens: np.ndarray) -> int:
    """Tokens of a prompt without the empty strings that pad it."""
    filled = [number for number, token in enumerate(tokens) if str(token) != ""]
    return filled[-1] + 1 if filled else 0


def _heads_by_interest(data: Dataset) -> list[tuple[int, int]]:
    """The strongest head of every block, then all others by late share."""
    share = _known(data)
    best = [(layer, int(row.argmax())) for layer, row in enumerate(share)]
    ranked = np.dstack(np.unravel_index(np.argsort(-share, axis=None), share.shape))[0]
    return list(dict.fromkeys([*best, *((int(a), int(b)) for a, b in ranked)]))


def _pack(stored: np.ndarray, order: list[tuple[int, int]]) -> str:
    layers, heads = zip(*order)
    query, key = np.tril_indices(stored.shape[-1])
    chosen = stored[:, list(layers), list(heads)][:, :, query, key]
    return base64.b64encode(zlib.compress(chosen.tobytes(), 9)).decode("ascii")
