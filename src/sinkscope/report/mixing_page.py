"""What `mix` shows: is the sink used, how far a change spreads with it and without it, collapse."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sinkscope.report import frames, mixing_charts
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
from sinkscope.report.tables import Table
from sinkscope.report.text import (
    NO_VALUE,
    bounds_of,
    number_of,
    percent,
    percent_interval,
    short,
    visible,
)

if TYPE_CHECKING:
    from xarray import Dataset

    from sinkscope.report.charts import Chart
    from sinkscope.result import Result
    from sinkscope.schema import MixRow, MixSummary

COLLAPSE = (
    ("effective_rank", "Effective rank", "exp of the entropy of the squared singular values"),
    ("matrix_entropy", "Matrix entropy (nats)", "entropy of the squared singular values"),
    ("anisotropy", "Anisotropy", "share of the largest squared singular value"),
    ("rank_collapse", "Distance to one row", "norm around the mean row over the whole norm"),
    ("token_cosine", "Mean cosine of two tokens", "mean over all pairs of positions"),
)
LIMIT = (
    "What is taken away here was there in training: a loss that rises says that this model uses "
    "its sink, not that a model without one would be worse."
)
Each = Callable[["MixSummary", "Dataset"], "Chart | None"]


def sections(result: Result) -> list[Section]:
    """Use, spread, collapse and sweeps; none where nothing was mixed."""
    mixed = result.summary.mix
    if not mixed:
        return []
    data = {bos: frames.group(result, "mix", bos) for bos in mixed}

    def draw(name: str, title: str, caption: str, chart: Each, wide: bool = False) -> list[Figure]:
        drawn = ((bos, chart(mixed[bos], data[bos])) for bos in mixed)
        return figure(name, title, caption, drawn, wide)

    planned = [
        Section(
            "purpose",
            "What the sink is for",
            "The sink is taken away, in the heads that sink, beside a control that takes away "
            "another key there: does the model need it, and do its tokens mix more?",
            [
                Words({bos: _findings(one) for bos, one in mixed.items()}),
                *_doses(draw),
                *tables_of(mixed, lambda one: [conditions_table(one)], stacked=True),
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
            "Change of the loss on the same text, with 95 % intervals. Controls stand at the "
            "right. Circuit: its units switched off, the largest writers first.",
            lambda one, _: mixing_charts.dose_chart(one, "ce_change", "Change of the loss (nats)"),
        ),
        *draw(
            "mix-kl",
            "Predictions as the sink is taken away",
            "KL divergence from the intact model’s predictions: the loss can stay while they "
            "change.",
            lambda one, _: mixing_charts.dose_chart(one, "kl", "KL (nats)"),
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
        wide=True,
    )
    for condition, name in (("intact", "with"), ("redistributed", "without")):
        found += draw(
            f"jacobian-{name}",
            f"Jacobian: {mixing_charts.name_of(condition).lower()}",
            "How strongly the last stream of a target depends on the embedding of a source, in "
            "one prompt. White: no dependence.",
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
        ("row_entropy", "Evenness of attention", "Entropy of a row over its largest: 1 is even."),
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
            lambda one, _: mixing_charts.length_chart(one),
        ),
        *draw(
            "mix-length-share",
            "The sink over context length",
            "Late share of position zero in the heads that sink.",
            lambda one, _: mixing_charts.share_chart(one),
        ),
        *draw(
            "mix-depth",
            "Sink taken away in one block",
            "Change of the spread at the end of the stack, with 95 % intervals.",
            lambda one, _: mixing_charts.depth_chart(one),
        ),
    ]


def findings(result: Result, panel: str) -> Findings | None:
    """Its words and tables for a terminal."""
    one = result.summary.mix.get(panel)
    if one is None:
        return None
    found = _findings(one)
    found.tables = [conditions_table(one)]
    return found


def _findings(one: MixSummary) -> Findings:
    first, _, rest = one.sentence.partition(". ")
    sentences = [f"{visible(each)}." for each in rest.rstrip(".").split(". ") if each]
    return Findings(
        f"{visible(first).rstrip('.')}.",
        [*sentences, *_more(one)],
        _keys(one),
        LIMIT,
        [visible(note) for note in one.notes],
    )


def _more(one: MixSummary) -> list[str]:
    """Mediation, checks and what is reported apart."""
    said = []
    share = number_of(one.mediation.get("share"))
    if share is not None:
        interval = percent_interval(one.mediation["share"])
        said.append(
            f"Of what cutting the circuit does to mixing, {percent(share)} ({interval} %) goes "
            "through the attention that position zero draws."
        )
    if one.theorem:
        holds = "holds" if one.theorem.get("holds") else "is violated"
        said.append(
            f"The spectral bound of Queipo-de-Llano et al. {holds} on all "
            f"{one.theorem.get('streams')} streams."
        )
    dropped = next((row for row in one.conditions if row.out_of_distribution), None)
    if dropped is not None:
        said.append(
            f"Dropping BOS changes the loss by {_signed(dropped.ce_change)} nats, which is out of "
            "distribution for a model that was trained with it."
        )
    return said


def _keys(one: MixSummary) -> list[tuple[str, str, str]]:
    rows = {row.name: row for row in one.conditions}
    keys = []
    taken = rows.get("redistributed")
    if taken is not None and one.sink_heads:
        control = rows.get("other-key")
        beside = f"control {_signed(control.ce_change)}" if control is not None else ""
        keys.append((_signed(taken.ce_change), "nats of loss without the sink", beside))
        beside = f"control {_change(control.spread_change)}" if control is not None else ""
        keys.append((_change(taken.spread_change), "more spread without the sink", beside))
    heads = len(one.sink_heads)
    keys.append((str(heads), "heads sink", f"late share {percent(number_of(one.late_share))}"))
    return keys


def conditions_table(one: MixSummary) -> Table:
    """Every condition with what became of the sink, the spread, the rank and the loss."""
    columns = [
        "Condition",
        "Sink left",
        "Spread",
        "Change",
        "Jacobian",
        "Rank",
        "Loss",
        "KL",
        "Use",
    ]
    table = Table("With the sink, without it, and controls", columns, numeric=set(range(1, 8)))
    table.rows = [
        [
            visible(mixing_charts.name_of(row.name)),
            percent(number_of(row.sink_left)),
            short(row.spread),
            _with_interval(row.spread_change),
            _change(row.influence_change),
            short(row.effective_rank),
            _signed(row.ce_change),
            short(row.kl),
            _use(row),
        ]
        for row in one.conditions
    ]
    return table


def _use(row: MixRow) -> str:
    return "out of distribution" if row.out_of_distribution else (row.use or NO_VALUE)


def _change(measured: Any) -> str:
    value = number_of(measured)
    return NO_VALUE if value is None else f"{100 * value:+.2f}\u00a0%".replace("-", "−")


def _with_interval(measured: Any) -> str:
    bounds = bounds_of(measured)
    shown = _change(measured)
    if bounds is None or shown == NO_VALUE:
        return shown
    low, high = (f"{100 * bound:+.2f}".replace("-", "−") for bound in bounds)
    return f"{shown} ({low} to {high})"


def _signed(measured: Any) -> str:
    value = number_of(measured)
    return NO_VALUE if value is None else f"{value:+.3f}".replace("-", "−")


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
