"""What `mix` shows: is the sink used, how far a change spreads with it and without it, collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sinkscope.report import frames, mixing_charts, mixing_curves
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
UNIT = "\u00a0%"
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
            "control of each. Circuit: its units switched off, the largest writers first.",
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
        "How cutting the circuit changes the spread",
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
            "prompts can no longer be told apart.",
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
    found = _findings(one)
    found.tables = condition_tables(one)
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
    """Predictions, mediation, paraphrases, checks, and what is reported apart."""
    return [sentence for say in SAID for sentence in [say(one)] if sentence]


def _predictions(one: MixSummary) -> str:
    taken = _row_of(one, "redistributed")
    if taken is None or not one.sink_heads or number_of(taken.kl) is None:
        return ""
    return f"Its predictions then move by {short(taken.kl)} nats (KL)."


def _mediation(one: MixSummary) -> str:
    share = number_of(one.mediation.get("share"))
    if share is None:
        return ""
    interval = percent_interval(one.mediation["share"])
    return (
        f"Of what cutting the circuit does to mixing, {percent(share)} ({interval}\u00a0%) goes "
        "through the attention that position zero draws."
    )


def _paraphrases(one: MixSummary) -> str:
    if not one.paraphrases:
        return ""
    change = one.paraphrases["spread_change"]["redistributed"]
    return (
        f"Paraphrases ({one.paraphrases['n']} pairs): without the sink their difference spreads "
        f"{_with_interval(change)}."
    )


def _checks(one: MixSummary) -> str:
    said = []
    if one.theorem:
        holds = "holds" if one.theorem.get("holds") else "is violated"
        said.append(
            f"the spectral bound of Queipo-de-Llano et al. {holds} on "
            f"{one.theorem.get('streams')} streams"
        )
    if "holds" in one.path_bound:
        holds = "holds" if one.path_bound["holds"] else "is violated"
        said.append(
            f"the path-sum bound {holds} (norms at most {percent(one.path_bound['largest_ratio'])} "
            "of it)"
        )
    return f"Checked: {' and '.join(said)}." if said else ""


def _dropped(one: MixSummary) -> str:
    dropped = next((row for row in one.conditions if row.out_of_distribution), None)
    if dropped is None:
        return ""
    return (
        f"Dropping BOS changes the loss by {_signed(dropped.ce_change)} nats, which is out of "
        "distribution for a model that was trained with it."
    )


SAID = (_predictions, _mediation, _paraphrases, _checks, _dropped)


def _row_of(one: MixSummary, name: str) -> MixRow | None:
    return next((row for row in one.conditions if row.name == name), None)


def _keys(one: MixSummary) -> list[tuple[str, str, str]]:
    keys = []
    taken, control = _row_of(one, "redistributed"), _row_of(one, "other-key")
    if taken is not None and one.sink_heads:
        for measured, beside, show, words in (
            (taken.ce_change, control and control.ce_change, _signed, "nats of loss"),
            (taken.spread_change, control and control.spread_change, _change, "spread"),
        ):
            compared = f"{_bounds(measured, show)}; control {show(beside)}"
            keys.append((show(measured), f"{words} without the sink", compared))
    heads = len(one.sink_heads)
    keys.append((str(heads), "heads sink", f"late share {percent(number_of(one.late_share))}"))
    return keys


def condition_tables(one: MixSummary) -> list[Table]:
    """What every condition takes and what mixes then; what loss and stream make of it."""
    mixing = Table("Mixing", ["Condition", "Sink left", "Mass taken", "Spread (95 %)", "Jacobian"])
    loss = Table("Loss and stream", ["Condition", "P0 norm", "Rank", "Loss", "KL", "Use"])
    mixing.numeric, loss.numeric = {1, 2, 3, 4}, {1, 2, 3, 4}
    for row in one.conditions:
        name = visible(mixing_charts.name_of(row.name))
        intact = row.name == "intact"
        mixing.rows.append(
            [
                name,
                percent(number_of(row.sink_left)),
                percent(number_of(row.mass_removed)),
                short(row.spread) if intact else _with_interval(row.spread_change),
                short(row.influence) if intact else _change(row.influence_change),
            ]
        )
        loss.rows.append(
            [
                name,
                percent(number_of(row.p0_norm)),
                short(row.effective_rank),
                _signed(row.ce_change),
                short(row.kl),
                _use(row),
            ]
        )
    return [mixing, loss]


def _use(row: MixRow) -> str:
    return "out of distribution" if row.out_of_distribution else (row.use or NO_VALUE)


def _change(measured: Any) -> str:
    value = number_of(measured)
    if value is None:
        return NO_VALUE
    shown = f"{100 * value:+.1f}" if abs(value) >= 0.1 else f"{100 * value:+.2f}"
    return f"{_plain_zero(shown)}\u00a0%"


def _with_interval(measured: Any) -> str:
    bounds = _bounds(measured, _change)
    return f"{_change(measured)} ({bounds})" if bounds else _change(measured)


def _bounds(measured: Any, show: Callable[[Any], str]) -> str:
    """Both ends of an interval, the unit behind the second; empty without one."""
    bounds = bounds_of(measured)
    if bounds is None:
        return ""
    low, high = map(show, bounds)
    return f"{low.removesuffix(UNIT)} to {high}"


def _signed(measured: Any) -> str:
    value = number_of(measured)
    return NO_VALUE if value is None else _plain_zero(f"{value:+.3f}")


def _plain_zero(shown: str) -> str:
    """No sign on what rounds to zero."""
    return shown[1:] if float(shown) == 0 else shown.replace("-", "−")


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
            "Change of the spread at the end of the stack once the sink’s attention is shared out, "
            "with 95 % intervals over prompts. Models differ in more than depth.",
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
