"""From labelled arrays to the small rows that charts and tables are drawn from."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from xarray import Dataset

from sinkscope.report.text import ranges, visible
from sinkscope.result import Result
from sinkscope.stats import nan_mean

Row = dict[str, Any]
POLICIES = {"with": "With BOS", "without": "Without BOS"}
HEAD_CLASSES = ("not a sink", "no-op", "broadcast", "undecided")
ONCE = "× 1"  # ends the most frequent token of a position where no two prompts share one
FIGURES = 4  # significant figures kept in the page: more cannot be seen in a chart


def datasets(result: Result) -> dict[str, Dataset]:
    """BOS policy -> dataset of the scan, in the order of the summary."""
    tree = result.data
    return {bos: tree[f"scan/{bos}"].to_dataset() for bos in result.summary.scan}


def model_name(result: Result) -> str:
    """Model id and revision of a run."""
    model = result.summary.model
    return visible(model.id) + (f" @ {visible(model.revision)}" if model.revision else "")


def policies(result: Result) -> list[str]:
    """Every BOS policy that some command of the result was run under."""
    summary = result.summary
    held = (summary.scan, summary.trace, summary.verify, summary.mix)
    return list(dict.fromkeys(bos for command in held for bos in command))


def first_positions(result: Result) -> list[str]:
    """What stands at positions 0, 1, 2 under each BOS policy, a line each."""
    lines = []
    prompts = result.summary.prompts
    for bos, positions in prompts.positions.items():
        held = [(i, names[0]) for i, names in enumerate(positions) if names]
        apart = [i for i, name in held if prompts.n > 1 and name.endswith(ONCE)]
        most = [f"{i} {visible(name, 24)}" for i, name in held if i not in apart]
        told = [f"most often at position {', '.join(most)}"] if most else []
        if apart:
            where = f"position{'s' if len(apart) > 1 else ''} {ranges(apart)}"
            told.append(f"another token in every prompt at {where}")
        if told:
            lines.append(f"{POLICIES.get(bos, bos)}, {'; '.join(told)}")
    return lines


def group(result: Result, command: str, bos: str) -> Dataset:
    """The arrays of one command under one BOS policy; an empty dataset where it kept none."""
    import xarray

    path = f"{command}/{bos}" if bos else command
    tree = result.data
    if f"/{path}" not in tree.groups:
        return xarray.Dataset()
    return tree[path].to_dataset()


def label(panel: str) -> str:
    """The words that stand over a panel."""
    return POLICIES.get(panel, visible(panel))


def rounded(value: Any, figures: int = FIGURES) -> float | int | None:
    """A number in a few significant figures; None for NaN and infinities, which JSON lacks."""
    number = float(value)
    if not math.isfinite(number):
        return None
    short = float(f"{number:.{figures}g}")
    return int(short) if short == int(short) else short


def rows(**columns: Any) -> list[Row]:
    """Equal-length columns as row dicts; rows with a missing number are left out."""
    cells = {name: [_cell(value) for value in column] for name, column in columns.items()}
    table = [dict(zip(cells, values)) for values in zip(*cells.values())]
    return [row for row in table if None not in row.values()]


def long(series: dict[str, Any], **x: Any) -> list[Row]:
    """Columns of one length as rows of x, `value` and the name of the column as `series`."""
    [(name, at)] = x.items()
    return [
        row
        for label, values in series.items()
        for row in rows(**{name: at, "value": values, "series": [label] * len(values)})
    ]


def inline(table: list[Row]) -> dict[str, list[Row]]:
    """Rows as the data of a chart.

    A plain dict, since `alt.Data` checks every row against the schema, which takes seconds.
    """
    return {"values": table}


def _cell(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (str, np.str_)):
        return str(value)
    return rounded(value)


def blocks(data: Dataset) -> np.ndarray:
    """[layer] block index of every softmax attention layer."""
    return np.asarray(data["block"].values if "block" in data.coords else data["layer"].values)


def layer_types(data: Dataset) -> list[str]:
    """Kind of every attention layer: full, sliding, chunked or linear."""
    if "layer_type" not in data.coords:
        return ["full"] * data.sizes["layer"]
    return [str(kind) for kind in data["layer_type"].values]


def by_type(data: Dataset) -> dict[str, np.ndarray]:
    """Kind of attention -> boolean [layer]; figures are never averaged across kinds."""
    types = np.array(layer_types(data), dtype=object)
    return {kind: types == kind for kind in dict.fromkeys(types)}


def readers(data: Dataset) -> list[str]:
    """Which reader read every attention layer."""
    if "reader" not in data.coords:
        return [""] * data.sizes["layer"]
    return [str(reader) for reader in data["reader"].values]


def has(data: Dataset, *names: str) -> bool:
    """Whether all of these variables are there and hold at least one finite number."""
    return all(
        name in data and data[name].size > 0 and bool(np.isfinite(data[name].values).any())
        for name in names
    )


def nanmedian(values: np.ndarray, axis: int) -> np.ndarray:
    """Median of values [...] over one axis, without NaN entries; NaN where nothing is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(np.asarray(values, dtype=np.float64), axis=axis))


def nanmax(values: np.ndarray) -> float:
    """Largest finite value of an array [...], or NaN."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else float("nan")


def late_share(data: Dataset) -> np.ndarray:
    """[layer, head] mean attention on P0 by late queries, over the prompts."""
    return nan_mean(data["p0_late"].values)


def alpha0(data: Dataset) -> np.ndarray:
    """[layer, head] mean attention P0 receives from all queries, over the prompts."""
    return nan_mean(data["p0_received"].values)


def norm_ratio(data: Dataset) -> np.ndarray:
    """[point] norm of P0 over the median of the others: geometric mean over the prompts.

    As a trace takes it (`circuit.rise.Seen.log_ratio`).
    """
    with np.errstate(divide="ignore"):
        return np.exp(nan_mean(np.log(data["norm_ratio"].values)))


def grid(values: np.ndarray, **axes: Any) -> list[Row]:
    """[a, b] values as rows of their two coordinates, given by name in this order, and `value`."""
    (first, rows_at), (second, columns_at) = axes.items()
    along = {first: np.repeat(rows_at, values.shape[1]), second: np.tile(columns_at, len(values))}
    return rows(**along, value=values.ravel())


def per_head(data: Dataset, values: np.ndarray) -> list[Row]:
    """[layer, head] values as rows of block, head, value and layer type."""
    kinds = dict(zip(map(int, blocks(data)), layer_types(data)))
    table = grid(values, block=blocks(data), head=range(values.shape[1]))
    return [{**row, "type": kinds[row["block"]]} for row in table]
