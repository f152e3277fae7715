"""What `advise` shows: a section a question, with the answer, the evidence and lines to paste."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from sinkscope.report import frames
from sinkscope.report.charts import Chart, by_series, measured_rows, tips, worded_bars
from sinkscope.report.parts import (
    Findings,
    Part,
    Plot,
    Section,
    Table,
    Tables,
    Words,
    table_of,
)
from sinkscope.report.text import (
    NO_VALUE,
    bounds_of,
    decimals,
    number_of,
    token_text,
    visible,
)
from sinkscope.result import Result
from sinkscope.schema import Advice, Measured
from sinkscope.schema.advise import AdviceLine

LEAD = "Tried on the text of this run; intervals are of 95 %, over its documents."
OPEN = ("undetermined", "does not apply")
LIMIT = (
    "What was tried here shows what it costs on these texts, not which parts of the model make the "
    "sink."
)
NATS, SIZE, SHARE = "nats", "size", "share"
# question -> what its answer is called in a line, what its number is, and the number's unit
SHORT = {
    "bos": ("BOS", "without it {} a token", NATS),
    "streaming": (
        "First tokens that a short cache must keep",
        "that number changes the loss by {} a token against keeping eight",
        NATS,
    ),
    "quantisation": (
        "Quantisation must leave alone",
        "int8 activations with one scale for all tokens cost {} a token",
        NATS,
    ),
    "fp16": ("float16", "the largest activation is {} of 65,504", SIZE),
    "repeats": ("Repeats like P0", "the last: {} of P0's norm", SHARE),
    "heads": ("Heads that do nothing", "with those that look so switched off, {} a token", NATS),
    "first-words": ("First words weigh more than later ones", "the KL differs by {}", NATS),
    "remedies": ("The sink", "without it {} a token", NATS),
}  # fmt: skip
# question -> title and column of the heads that it names
HEADS = {
    "streaming": ("Key-value heads that look at first and recent tokens alone", "Key-value heads"),
    "heads": ("Heads that look idle", "Heads"),
}


def sections(result: Result) -> list[Section]:
    """A section for each question."""
    return [_section(name, one) for name, one in result.summary.advise.items()]


def _section(name: str, one: Advice) -> Section:
    answer = "" if one.answer in OPEN else f" {one.answer.capitalize()}."
    said = visible(one.sentence)
    words = Words({"": Findings(said, limit=visible(one.limits))})
    parts: list[Part] = [words]
    cost = Plot(
        f"advise-{name}",
        "What it costs",
        "Change of the loss on the same text, with intervals of 95 %. Controls are there to be "
        "compared with.",
        cost_chart,
    )
    parts += cost.on({"": one})
    found = [table for table in tables(name, one) if table.rows]
    if found:
        parts.append(Tables({"": found}, stacked=True))
    lead = LEAD if one.rows or one.value else ""
    return Section(f"advise-{name}", f"{one.question}{answer}", lead, parts, {"": said})


def tables(name: str, one: Advice) -> list[Table]:
    """Lines to paste, evidence, outliers and heads of a question."""
    found = [told_lines_table(one), evidence(one), outlier_table(one)]
    return found + ([head_table(one, *HEADS[name])] if name in HEADS else [])


def lines_table(lines: Sequence[AdviceLine]) -> Table:
    """What to paste, and for which tool."""
    columns = {
        "Tool": lambda line: line["tool"],
        "For": lambda line: line.get("purpose", ""),
        "Line": lambda line: visible(line["line"]),
    }
    table = table_of("Lines to paste", lines, columns, set())
    table.verbatim = list(columns).index("Line")
    return table


def told_lines_table(one: Advice) -> Table:
    """The same with what is to be known of each line, and the tools that have no such setting."""
    table = lines_table(one.lines)
    table.columns.append("Know")
    for row, line in zip(table.rows, one.lines, strict=True):
        row.append(f"{line['note']} Read in {line['version']}, {line['source']}.")
    if one.lines and one.without:
        none = [NO_VALUE, NO_VALUE, "No such setting was found."]
        table.rows.append([", ".join(one.without), *none])
    return table


def evidence(one: Advice) -> Table:
    """What was done, and what it costs."""
    return table_of(
        "Evidence",
        one.rows,
        {
            "What was done": lambda row: visible(row["what"]),
            "Loss (nats)": lambda row: signed(row.get("ce_change")),
            "95 %": lambda row: interval(row.get("ce_change")),
            "KL (nats)": lambda row: signed(row.get("kl"), sign=""),
        },
        {1, 2, 3},
    )


def outlier_table(one: Advice) -> Table:
    """The maps that are given outliers."""
    return table_of(
        "Maps with outliers",
        one.outliers,
        {
            "Linear map": lambda each: visible(each["module"]),
            "Largest": lambda each: f"{each['size']:,.0f}",
            "Median": lambda each: f"{each['median']:,.1f}",
            "Position": lambda each: str(each["position"]),
            "Token": lambda each: token_text(each["token"]),
            "Channel": lambda each: str(each["channel"]),
        },
        {1, 2, 3, 5},
    )


def head_table(one: Advice, title: str, column: str) -> Table:
    """Heads by name, a row a block."""
    by_block: dict[int, list[int]] = {}
    for each in one.heads:
        by_block.setdefault(each["block"], []).append(each["head"])
    return table_of(
        title,
        by_block.items(),
        {
            "Block": lambda block, _: str(block),
            column: lambda _, heads: ", ".join(map(str, heads)),
        },
        {0},
    )


def signed(measured: Any, sign: str = "+") -> str:
    """A change with its sign."""
    return decimals(number_of(measured), 3, sign)


def interval(measured: Any) -> str:
    """Its interval; empty without one."""
    bounds = bounds_of(measured)
    return " to ".join(decimals(bound, 3, "+") for bound in bounds or ())


def cost_chart(one: Advice) -> Chart | None:
    """Change of the loss of each row; controls in grey."""
    table: list[frames.Row] = []
    for row in one.rows:
        table += measured_rows(
            row.get("ce_change"),
            what=visible(row["what"]),
            kind="Control" if row.get("control") else "Tried",
        )
    if not table:
        return None
    x = alt.X("value:Q", title="Change of the loss (nats a token)")
    said = tips("+.3f", what="What was done", value="Loss (nats)")
    return worded_bars(table, "what", x, said, **by_series(["Tried", "Control"], column="kind"))


def findings(result: Result, panel: str) -> Findings | None:
    """All answers for a terminal: a line each, beside their sentences and the lines to paste."""
    held = result.summary.advise
    if panel or not held:
        return None
    sentences = [f"{one.question} {visible(one.sentence)}" for one in held.values()]
    among = bool(result.summary.verify)  # of a whole run, the answers that say something
    answers = [
        ("To do", in_short(name, one))
        for name, one in held.items()
        if not (among and one.answer in OPEN)
    ]
    found = Findings("What to do about it", sentences, limit=LIMIT, answers=answers)
    pasted = [line for one in held.values() for line in one.lines]
    if pasted:
        found.tables = [lines_table(pasted)]
    return found


def in_short(name: str, one: Advice) -> str:
    """An answer with its number and interval, or why there is none, in a line or two."""
    about = SHORT[name][0]
    if one.answer in OPEN:
        return f"{about}: {one.answer}. {visible(one.sentence)}"
    said = f"{about}: {visible(one.answer)}"
    if one.facts.get("keep-tokens") == "yes":
        said += ", and the first delimiter"
    if one.value is None or one.value.value is None:
        return f"{said}."
    said += f"; {number_in_words(name, one)}"
    # lines to paste may set a cache of few bits; the first of its rows is the one they rest on
    cache = next((row for row in one.rows if row["what"].startswith("int4 cache")), None)
    if cache is not None:
        said += f", an int4 KV cache {with_bounds(cache['ce_change'], NATS)}"
    return f"{said}."


def number_in_words(name: str, one: Advice) -> str:
    """The number that decided, as part of a sentence."""
    assert one.value is not None
    _, number, unit = SHORT[name]
    if one.answer.endswith("or more"):  # the most is what all are held against
        number = "four cost {} a token against keeping eight"
    return number.format(with_bounds(one.value, unit))


def with_bounds(value: Measured, unit: str) -> str:
    """A number in its unit, with its interval where there is one."""
    bounds = bounds_of(value)
    if unit == NATS:
        return f"{signed(value)} nats" + (f" ({interval(value)})" if bounds else "")
    factor, sign = (1, "") if unit == SIZE else (100, " %")
    assert value.value is not None
    ends = " to ".join(f"{factor * x:,.0f}" for x in bounds or ())
    return f"{factor * value.value:,.0f}{sign}" + (f" ({ends})" if ends else "")
