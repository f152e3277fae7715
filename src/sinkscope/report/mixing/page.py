"""What `mix` shows: is the sink used, how far a change spreads with it and without it, collapse."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import Chart
from sinkscope.report.mixing import charts, curves
from sinkscope.report.mixing.words import (
    collapse_said,
    condition_tables,
    findings_of,
    spread_said,
    sweeps_said,
)
from sinkscope.report.parts import (
    Figure,
    Findings,
    Headline,
    Part,
    Plot,
    Section,
    Variant,
    Words,
    concluded,
    plots,
)
from sinkscope.report.parts import tables as tables_of
from sinkscope.report.text import number_of
from sinkscope.result import Result
from sinkscope.schema import MixSummary

COLLAPSE = (
    ("effective_rank", "Effective rank", "exp of the entropy of the squared singular values"),
    ("matrix_entropy", "Matrix entropy (nats)", "entropy of the squared singular values"),
    ("anisotropy", "Anisotropy", "share of the largest squared singular value"),
    ("rank_collapse", "Distance to one row", "norm around the mean row over the whole norm"),
    ("token_cosine", "Mean cosine of two tokens", "mean over all pairs of positions"),
)
SIDES = {"with": "intact", "without": "redistributed"}
DOSES = (
    Plot(
        "mix-loss",
        "Loss as the sink is taken away",
        "Change of the loss on the same text, with 95 % intervals. Crosses at the right: the "
        "control of each. Circuit: its units ablated, the largest outputs first.",
        partial(curves.dose_chart, measure="ce_change", title="Change of the loss (nats)"),
    ),
    Plot(
        "mix-kl",
        "Predictions as the sink is taken away",
        "KL divergence from the intact model's predictions: the loss can stay while they change.",
        partial(curves.dose_chart, measure="kl", title="KL (nats)"),
    ),
)
SPREADS = [
    Plot(
        f"spread-{side}",
        charts.name_of(condition),
        "Depth runs upwards. Both maps share their colours.",
        partial(charts.spread_map, condition=condition),
    )
    for side, condition in SIDES.items()
]
SPREAD_OVER_DEPTH = Plot(
    "spread-depth",
    "Spread over depth",
    "Mean over all tokens behind the changed one, and over pairs.",
    charts.spread_curves,
)
MEDIATION = Plot(
    "mix-mediation",
    "How ablating the circuit changes the spread",
    "With 95 % intervals. Every query's attention on position zero is held at what it is in "
    "the other model, so that its part stands alone.",
    curves.mediation_chart,
)
JACOBIANS = [
    Plot(
        f"jacobian-{side}",
        f"Jacobian: {charts.name_of(condition)}",
        "How strongly the last stream of a target depends on the embedding of a source, in "
        "one prompt. Empty: no dependence.",
        partial(charts.jacobian_map, condition=condition),
    )
    for side, condition in SIDES.items()
]
ROWS = [
    Plot(
        name.replace("_", "-"),
        title,
        f"{caption} Mean over heads and late queries.",
        partial(charts.rows_curves, name=name, title=title),
    )
    for name, title, caption in (
        ("row_entropy", "Row entropy of attention", "Over its largest value: 1 is even."),
        ("smoothness", "Smoothness of attention", "1 is a flat row, near 0 one of lone spikes."),
    )
]
SWEEPS = (
    Plot(
        "mix-length",
        "Spread over context length",
        "With 95 % intervals over prompts.",
        curves.length_chart,
    ),
    Plot(
        "mix-length-change",
        "Change of the spread over context length",
        "Without the sink against with it, prompt by prompt, with 95 % intervals.",
        curves.change_chart,
    ),
    Plot(
        "mix-length-share",
        "The sink over context length",
        "Late share of position zero in the sink heads.",
        curves.share_chart,
    ),
    Plot(
        "mix-repeat",
        "Representational collapse over context length",
        "How far the last state moves when the last token is repeated: towards 0, the two "
        "prompts can no longer be distinguished.",
        curves.repeat_chart,
    ),
    Plot(
        "mix-depth",
        "Attention to P0 removed in one block",
        "Change of the spread at the end of the stack, with 95 % intervals.",
        curves.depth_chart,
    ),
)


def sections(result: Result) -> list[Section]:
    """Use, spread, collapse and sweeps; none where nothing was mixed."""
    mixed = result.summary.mix
    data = {bos: frames.group(result, "mix", bos) for bos in mixed}
    planned = [
        Section(
            "purpose",
            "What the sink is for",
            "Attention to position zero is removed in the sink heads and renormalised over the "
            "other keys (attention knockout), beside a control that removes another key: does the "
            "model need the sink, and do its tokens mix more?",
            [
                Words({bos: findings_of(one) for bos, one in mixed.items()}),
                *plots(mixed, *DOSES),
                *tables_of(mixed, condition_tables, stacked=True),
            ],
            {bos: findings_of(one).headline for bos, one in mixed.items()},
        ),
        Section(
            "spread",
            "How far a change travels",
            "One token of a prompt is replaced by another; shown is how much the streams of the "
            "tokens behind it move, relative to their length.",
            [
                *plots(data, *SPREADS, SPREAD_OVER_DEPTH),
                *plots(mixed, MEDIATION),
                *plots(data, *JACOBIANS),
            ],
            concluded(spread_said, mixed),
        ),
        Section(
            "collapse",
            "How alike tokens become",
            "The stream of a prompt as a matrix, a row a token. One massive row can be the whole "
            "matrix, so every figure is also given without the row of position zero.",
            [*_collapse(data), *plots(data, *ROWS)],
            concluded(collapse_said, mixed),
        ),
        Section(
            "mixing-sweeps",
            "Over length and depth",
            "The same texts cut after more and more tokens; and attention to position zero removed "
            "in one block at a time.",
            [*plots(mixed, *SWEEPS)],
            concluded(sweeps_said, mixed),
        ),
    ]
    return planned if mixed else []


def _collapse(data: dict[str, Dataset]) -> list[Figure]:
    variants = []
    for name, title, caption in COLLAPSE:
        drawn = {bos: charts.collapse_curves(one, name, title) for bos, one in data.items()}
        kept = {bos: chart for bos, chart in drawn.items() if chart is not None}
        what = f"{caption[0].upper()}{caption[1:]}; mean over prompts."
        if kept:
            variants.append(Variant(title, what, kept, f"collapse-{name.replace('_', '-')}"))
    return [Figure("collapse", "Collapse over depth", variants)] if variants else []


def findings(result: Result, panel: str) -> Findings | None:
    """Its words and tables for a terminal."""
    one = result.summary.mix.get(panel)
    if one is None:
        return None
    found = findings_of(one)
    found.answers = [("Used", said) for said in (found.headline, *found.sentences[:1])]
    found.tables = condition_tables(one)
    return found


def headline(result: Result, bos: str) -> Headline:
    """Its numbers that two runs are compared by."""
    one = result.summary.mix[bos]
    rows = {row.name: row for row in one.conditions}
    found: Headline = {
        "Sink used": ("word", one.verdict),
        "Mixing without the sink": ("word", one.mixing),
        "Spread of a change": ("ratio", number_of(one.spread.get("intact"))),
    }
    if "redistributed" in rows:
        found["Loss without the sink"] = ("ratio", number_of(rows["redistributed"].ce_change))
    return found


def main_chart(result: Result, bos: str) -> Chart | None:
    """Spread over depth, a line a condition."""
    return charts.spread_curves(frames.group(result, "mix", bos))


def comparison(results: Sequence[tuple[str, Result]]) -> list[Part]:
    """Mixing over models of different depth, where two of the runs at least have mixed."""
    policies = list(dict.fromkeys(bos for _, run in results for bos in run.summary.mix))
    rows = {bos: _by_depth(results, bos) for bos in policies}
    beside = Plot(
        "mix-models",
        "Spread without the sink, over the depth of the model",
        "Change of the spread at the end of the stack once attention to P0 is removed and "
        "renormalised, with 95 % intervals over prompts. Models differ in more than depth.",
        curves.models_chart,
    )
    return [*beside.on(rows)]


def _by_depth(results: Sequence[tuple[str, Result]], bos: str) -> list[tuple[str, int, MixSummary]]:
    """Name, number of blocks and summary of every run that mixed under this policy."""
    return [
        (name, frames.group(run, "mix", bos).sizes["point"] - 1, run.summary.mix[bos])
        for name, run in results
        if bos in run.summary.mix
    ]
