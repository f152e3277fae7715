"""Sentences on many runs; each counts models in the rows beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sinkscope.report.parts import Findings
from sinkscope.report.sweep.columns import EMBEDDING
from sinkscope.report.text import counted, visible
from sinkscope.schema.sweep import SweepRow, SweepSummary

LIMIT = (
    "Every model reads the same text, cut by its own tokenizer. The late share is a mean over all "
    "heads of a model: of two models with equal sink heads, the one with more other heads has less."
)
OPEN = "undetermined"
NAMED = 4  # models that a sentence names


def findings(summary: SweepSummary) -> Findings:
    """What the runs found, beside each other."""
    rows = summary.rows
    said = [sinks(rows), verdicts(rows), known(rows), since(rows), phases(rows), by_policy(rows)]
    sentences = [sentence for sentence in said if sentence]
    return Findings(measured(summary), sentences, limit=LIMIT if rows else "")


def measured(summary: SweepSummary) -> str:
    """How many runs there are, and how many failed."""
    choices = summary.runs // max(len(summary.models), 1)
    said = (
        f"{counted(len(summary.models), 'model')} under {counted(choices, 'choice')} of settings: "
    )
    if not summary.failed:
        return f"{said}{counted(summary.runs, 'run')}, all measured."
    done = summary.runs - len(summary.failed)
    return f"{said}{done} of {summary.runs} runs measured, {len(summary.failed)} failed."


def sinks(rows: list[SweepRow]) -> str:
    """In how many models position zero is a sink: in all their rows, in some, in none."""
    answers = _by_model((row.model, row.p0_sink) for row in rows if row.kind)
    if not answers:
        return ""
    every = [model for model, found in answers.items() if found == {True}]
    some = [model for model, found in answers.items() if True in found and len(found) > 1]
    open_ = [model for model, found in answers.items() if True not in found and None in found]
    never = len(answers) - len(every) - len(some) - len(open_)
    said = [f"Position zero is a sink in {len(every)} of {counted(len(answers), 'model')}"]
    said += [f"in part of the rows of {len(some)} ({_names(some)})"] if some else []
    said += [f"in no row of {never}"] if never else []
    said += [f"and {len(open_)} are undecided ({_names(open_)})"] if open_ else []
    return f"{', '.join(said)}."


def verdicts(rows: list[SweepRow]) -> str:
    """How many models have which verdict; those whose rows differ are named."""
    found = _by_model((row.model, row.verdict) for row in rows if row.verdict)
    if not found:
        return ""
    alike = Counter(next(iter(each)) for each in found.values() if len(each) == 1)
    differ = [model for model, each in found.items() if len(each) > 1]
    said = [f"{verdict} for {counted(count, 'model')}" for verdict, count in alike.most_common()]
    said += [f"not the same in all rows of {_names(differ)}"] if differ else []
    return f"Verdict: {', '.join(said)}."


def known(rows: list[SweepRow]) -> str:
    """In how many rows of constructed models the verdict is the one that is known."""
    told = [(row, row.verdict, row.expected) for row in rows if row.expected and row.verdict]
    if not told:
        return ""
    wrong = [row for row, one, other in told if {*one.split("+")} != {*other.split("+")}]
    open_ = [row for row in wrong if row.verdict == OPEN]
    other = dict.fromkeys(row.model for row in wrong if row.verdict != OPEN)
    said = [f"the known one in {len(told) - len(wrong)} of {counted(len(told), 'row')}"]
    said += [f"{OPEN} in {len(open_)}"] if open_ else []
    said += [f"another in {len(wrong) - len(open_)} ({_names(other)})"] if other else []
    return f"Of constructed models, whose answer is known, the verdict is {', '.join(said)}."


def since(rows: list[SweepRow]) -> str:
    """Between which blocks position zero is set apart, in models where it is a sink."""
    blocks = [
        row.emergence_block for row in rows if row.p0_sink and row.emergence_block is not None
    ]
    if not blocks:
        return ""
    first, last = min(blocks), max(blocks)
    ends = [EMBEDDING if block < 0 else f"block {block}" for block in (first, last)]
    said = f"in {ends[0]} in all of them" if first == last else f"between {ends[0]} and {ends[1]}"
    return f"Where position zero is a sink, it is set apart {said}."


def phases(rows: list[SweepRow]) -> str:
    """Which models raise position zero more than once."""
    several = dict.fromkeys(row.model for row in rows if len(row.phases) > 1)
    if not several:
        return ""
    times = {len(row.phases) for row in rows if len(row.phases) > 1}
    most = "twice" if times == {2} else f"up to {max(times)} times"
    raises = "raises" if len(several) == 1 else "raise"
    return f"{counted(len(several), 'model')} {raises} position zero {most}: {_names(several)}."


def by_policy(rows: list[SweepRow]) -> str:
    """In which models BOS decides whether there is a sink."""
    asked = {(row.run, row.bos): row for row in rows if row.kind}
    pairs = [
        (row, asked[run, "with"])
        for (run, bos), row in asked.items()
        if bos == "without" and (run, "with") in asked
    ]
    if not pairs:
        return ""
    answers = [(one, other) for one, other in pairs if None not in (one.p0_sink, other.p0_sink)]
    differ = dict.fromkeys(one.model for one, other in answers if one.p0_sink != other.p0_sink)
    if not differ:
        same = f"{len(answers)} of {counted(len(pairs), 'run')}"
        return f"With BOS and without, the answer on the sink is the same in {same}; none differs."
    models = counted(len(differ), "model")
    return f"BOS decides whether position zero is a sink in {models}: {_names(differ)}."


def _by_model(pairs: Iterable[tuple[str, object]]) -> dict[str, set]:
    found: dict[str, set] = {}
    for model, value in pairs:
        found.setdefault(model, set()).add(value)
    return found


def _names(models: Iterable[str]) -> str:
    named = [visible(model, 40) for model in models]
    more = len(named) - NAMED
    return ", ".join(named[:NAMED]) + (f" and {more} more" if more > 0 else "")
