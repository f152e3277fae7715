"""What `mix` shows: is the sink used, how far a change spreads with it and without it, collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sinkscope.report import frames
from sinkscope.report.mixing import charts as mixing_charts
from sinkscope.report.mixing import curves as mixing_curves
from sinkscope.report.mixing.words import condition_tables, findings_of
from sinkscope.report.parts import (
    Figure,
    Findings,
    Headline,
    Part,
    Section,
    Variant,
    Words,
    figure,
)
from sinkscope.report.parts import tables as tables_of
from sinkscope.report.text import number_of

if TYPE_CHECKING:
    from xarray import Dataset

    from sinkscope.report.charts import Chart
    from sinkscope.result import Result
    from sinkscope.schema import MixSummary

COLLAPSE = (
    ("effective_rank", "Effective rank", "exp of the entropy of the squared singular values"),
    ("matrix_entropy", "Matrix entropy (nats)", "entropy of the squared singular values"),
    ("anisotropy", "Anisotropy", "share of the largest squared singular value"),
    ("rank_collapse", "Distance to one row", "norm around the mean row over the whole norm"),
    ("token_cosine", "Mean cosine of two tokens", "mean over all pairs of positions"),
)
Each = Callable[["MixSummary", "Dataset"], "Chart | None"]


def sections(result: Result) -> list[Section]:
    """Use, spread, collapse and sweeps; none where nothing was mixed."""
    mixed = result.summary.mix
    if not mixed:
        return []
    data = {bos: frames.group(result, "mix", bos) for bos in mixed}

    def draw(name: str, title: str, caption: str, chart: Each) -> list[Figure]:
        drawn = ((bos, chart(mixed[bos], data[bos])) for bos in mixed)
        return figure(name, title, caption, drawn)

    planned = [
        Section(
            "purpose",
            "What the sink is for",
            "Attention to position zero is removed in the sink heads and renormalised over the "
            "other keys (attention knockout), beside a control that removes another key: does the "
            "model need the sink, and do its tokens mix more?",
            [
                Words({bos: findings_of(one) for bos, one in mixed.items()}),
                *_doses(draw),
                *tables_of(mixed, condition_tables, stacked=True),
            ],
        ),
        Section(
            "spread",
            "How far a change travels",
            "One token of a prompt is replaced by another; shown is how much the streams of the "
            "tokens behind it move, relative to their length.",
            [*_spread(draw)],
        ),
        Section(
            "collapse",
            "How alike tokens become",
            "The stream of a prompt as a matrix, a row a token. One massive row can be the whole "
            "matrix, so every figure is also given without the row of position zero.",
            [*_collapse(mixed, data)],
        ),
        Section(
            "mixing-sweeps",
            "Over length and depth",
            "The same texts cut after more and more tokens; and the sink taken away in one block "
            "at a time.",
            [*_sweeps(draw)],
        ),
    ]
    return [section for section in planned if section.parts]


def _doses(draw: Callable[..., list[Figure]]) -> list[Part]:
    return [
        *draw(
            "mix-loss",
            "Loss as the sink is taken away",
            "Change of the loss on the same text, with 95 % intervals. Crosses at the right: the "
            "control of each. Circuit: its units ablated, the largest outputs first.",
            lambda one, _: mixing_curves.dose_chart(one, "ce_change", "Change of the loss (nats)"),
        ),
        *draw(
            "mix-kl",
            "Predictions as the sink is taken away",
            "KL divergence from the intact model’s predictions: the loss can stay while they "
            "change.",
            lambda one, _: mixing_curves.dose_chart(one, "kl", "KL (nats)"),
        ),
    ]


def _spread(draw: Callable[..., list[Figure]]) -> list[Part]:
    found: list[Part] = []
    for condition, name in (("intact", "with"), ("redistributed", "without")):
        found += draw(
            f"spread-{name}",
            mixing_charts.name_of(condition),
            "Depth runs upwards. Both maps share their colours.",
            lambda _, data, c=condition: mixing_charts.spread_map(data, c),
        )
    found += draw(
        "spread-depth",
        "Spread over depth",
        "Mean over all tokens behind the changed one, and over pairs.",
        lambda _, data: mixing_charts.spread_curves(data),
    )
    found += draw(
        "mix-mediation",
        "How ablating the circuit changes the spread",
        "With 95 % intervals. Every query’s attention on position zero is held at what it is in "
        "the other model, so that its part stands alone.",
        lambda one, _: mixing_curves.mediation_chart(one),
    )
    for condition, name in (("intact", "with"), ("redistributed", "without")):
        found += draw(
            f"jacobian-{name}",
            f"Jacobian: {mixing_charts.name_of(condition).lower()}",
            "How strongly the last stream of a target depends on the embedding of a source, in "
            "one prompt. Empty: no dependence.",
            lambda _, data, c=condition: mixing_charts.jacobian_map(data, c),
        )
    return found


def _collapse(mixed: dict[str, MixSummary], data: dict[str, Dataset]) -> list[Part]:
    variants = []
    for name, title, caption in COLLAPSE:
        drawn = {bos: mixing_charts.collapse_curves(data[bos], name, title) for bos in mixed}
        charts = {bos: chart for bos, chart in drawn.items() if chart is not None}
        if charts:
            what = f"{caption[0].upper()}{caption[1:]}; mean over prompts."
            variants.append(Variant(title, what, charts, f"collapse-{name.replace('_', '-')}"))
    found: list[Part] = [Figure("collapse", "Collapse over depth", variants)] if variants else []
    for name, title, caption in (
        (
            "row_entropy",
            "Row entropy of attention",
            "Entropy of a row over its largest: 1 is even.",
        ),
        ("smoothness", "Smoothness of attention", "1 is a flat row, near 0 one of lone spikes."),
    ):
        found += figure(
            name.replace("_", "-"),
            title,
            f"{caption} Mean over heads and late queries.",
            ((bos, mixing_charts.rows_curves(data[bos], name, title)) for bos in mixed),
        )
    return found


def _sweeps(draw: Callable[..., list[Figure]]) -> list[Part]:
    return [
        *draw(
            "mix-length",
            "Spread over context length",
            "With 95 % intervals over prompts.",
            lambda one, _: mixing_curves.length_chart(one),
        ),
        *draw(
            "mix-length-change",
            "Change of the spread over context length",
            "Without the sink against with it, prompt by prompt, with 95 % intervals.",
            lambda one, _: mixing_curves.change_chart(one),
        ),
        *draw(
            "mix-length-share",
            "The sink over context length",
            "Late share of position zero in the heads that sink.",
            lambda one, _: mixing_curves.share_chart(one),
        ),
        *draw(
            "mix-repeat",
            "Representational collapse over context length",
            "How far the last state moves when the last token is repeated: towards 0, the two "
            "prompts can no longer be distinguished.",
            lambda one, _: mixing_curves.repeat_chart(one),
        ),
        *draw(
            "mix-depth",
            "Sink taken away in one block",
            "Change of the spread at the end of the stack, with 95 % intervals.",
            lambda one, _: mixing_curves.depth_chart(one),
        ),
    ]


def findings(result: Result, panel: str) -> Findings | None:
    """Its words and tables for a terminal."""
    one = result.summary.mix.get(panel)
    if one is None:
        return None
    found = findings_of(one)
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
    return mixing_charts.spread_curves(frames.group(result, "mix", bos))


def comparison(results: Sequence[tuple[str, Result]]) -> list[Part]:
    """Mixing over models of different depth, where two of the runs at least have mixed."""
    policies = list(dict.fromkeys(bos for _, run in results for bos in run.summary.mix))
    drawn = ((bos, mixing_curves.models_chart(_by_depth(results, bos))) for bos in policies)
    return [
        *figure(
            "mix-models",
            "Spread without the sink, over the depth of the model",
            "Change of the spread at the end of the stack once attention to P0 is removed and "
            "renormalised, with 95 % intervals over prompts. Models differ in more than depth.",
            drawn,
        )
    ]


def _by_depth(results: Sequence[tuple[str, Result]], bos: str) -> list[tuple[str, int, MixSummary]]:
    """Name, number of blocks and summary of every run that mixed under this policy."""
    return [
        (name, frames.group(run, "mix", bos).sizes["point"] - 1, run.summary.mix[bos])
        for name, run in results
        if bos in run.summary.mix
    ]
