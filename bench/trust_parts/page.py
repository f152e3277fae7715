"""docs/trust.md from the kept summary."""

from __future__ import annotations

from typing import Any

from trust_parts.tally import FLOORS

INTRO = """# How far to trust it

Written by `python bench/trust.py --draws {draws} --seed {seed} --keep FILE`, and once
more with `--page`. Every model below is built so that the answer is known, by code that the tool
does not use ([known-answers.md](known-answers.md) says how that is held); what each answer means
stands in [measures.md](measures.md). No seed here has set a threshold. Drawn so far:
{drawn}.
"""
AGAIN = """The families were asked on 24 prompts. Where the verdict was *undetermined* and named a
number of prompts, as in {count} of these draws, the answer on so many (256 at most) counts; so it
does for what a sink is used for, where 64 prompts of 128 tokens are asked first.
"""
NOT_SHOWN = """- What none of the prompts or documents shows, no interval over them holds. So it
  was in {count} of the draws of intervals, where the sink is in one of ten and none was drawn;
  these are left out.
"""
TELLS = """By construction, and not by a lack of prompts:

- A sink that needs both an unmixed position zero and one of certain tokens there (`p0-part`) is a
  circuit on condition, or tokens on condition. It counts as a circuit here, since the tokens do
  nothing elsewhere; the scan says in how many of the prompts the sink is.
- Where either of two carriers is enough (`p0-or-bos`), removing one changes nothing. Both are due,
  since removing both ends the sink.
- What carries a sink at another position than zero (`position-one`) is not tested: such a sink is
  `other`, with its positions, which counts as right.
- Where two sinks stand side by side, the writing neurons of the circuit among them are named only
  if the sink of its own heads goes without them; that none is named wrongly is held, not that they
  are named.
- Where prompts fill all positions of a model (`position-full`), ids cannot be shifted. Only
  swapping two of them is left to tell position ids from position zero.
- An event after a calm longer than the settling signal waits for cannot be foreseen by anything
  that looks back; such runs (`late`) are left out of the figures for timelines.
- Where no late query of a network sees position zero, since all its windows are shorter,
  *undetermined* is right as well as `none`.
"""


def page(values: dict[str, Any]) -> str:
    """The whole page."""
    parts = [
        _intro(values),
        _floors(values["values"], values["missed"]),
        *([AGAIN.format(count=values["asked_again"])] if "asked_again" in values else []),
        _kinds(values["by_kind"]),
        _confusion(values["confusion"]),
        _mistaken(values["confusion"]),
        TELLS,
        *([NOT_SHOWN.format(count=values["not_shown"])] if "not_shown" in values else []),
        _prompts(values["few_prompts"]),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _intro(values: dict[str, Any]) -> str:
    drawn = [f"{part} {there:,} of {asked:,}" for part, (there, asked) in values["drawn"].items()]
    return INTRO.format(draws=values["draws"], seed=values["seed"], drawn=", ".join(drawn))


def _floors(values: dict[str, list[int]], missed: list[str]) -> str:
    rows = [
        (name, f"{hits} of {of}", f"{hits / of:.3f}" if of else "", _floor(*FLOORS[name]))
        for name, (hits, of) in values.items()
    ]
    return (
        "## In all\n\n"
        + _table(("answer", "counted", "share", "floor"), rows)
        + (
            "\n\n*Circuit*: emergence block, writing neurons and reading heads, all exactly. "
            "*Recognition*:\nwithin one read point. *Scan*: where the sink is, and whether it is "
            "weak, in few heads or in a part of\nthe prompts. *Decoys* are models whose sink is no "
            "circuit of position zero. *Anything else*: any\nverdict but `none` and "
            "`undetermined`.\n\n"
        )
        + (
            f"Outside their bounds: {'; '.join(missed)}.{_narrow(values)}"
            if missed
            else "Every floor of what was drawn is met."
        )
        + "\n"
    )


def _narrow(values: dict[str, list[int]]) -> str:
    """Which counts would lie within bounds on both sides that are missed."""
    said = ""
    for name, (hits, of) in values.items():
        least, most = FLOORS[name]
        if 0 < least < most < 1 and of and not least <= hits / of <= most:
            inside = [count for count in range(of + 1) if least <= count / of <= most]
            counts = " or ".join(map(str, inside)) or "no count"
            said += f" Of {of} draws {counts} lies within."
    return said


def _floor(least: float, most: float) -> str:
    if least == most:
        return f"{least:g}"
    if most == 1.0:
        return f"at least {least:g}"
    return f"at most {most:g}" if least == 0.0 else f"{least:g} to {most:g}"


def _kinds(rows: dict[str, dict[str, list[int]]]) -> str:
    cells = [
        (kind, ", ".join(f"{name} {hits}/{of}" for name, (hits, of) in each.items()))
        for kind, each in rows.items()
    ]
    return "## By what was drawn\n\n" + _table(("part: kind", "right, of"), cells) + "\n"


def _confusion(counts: list[list]) -> str:
    said = sorted({row[1] for row in counts})
    due = sorted({row[0] for row in counts})
    cells = {(row[0], row[1]): row[2] for row in counts}
    rows = [(f"`{one}`", *(cells.get((one, other), "") for other in said)) for one in due]
    head = ("true \\ said", *(f"`{name}`" for name in said))
    return "## Verdicts, true and said\n\n" + _table(head, rows) + "\n"


def _mistaken(counts: list[list]) -> str:
    wrong = [row for row in counts if row[0] != row[1]]
    lines = [f"- `{due}` called `{said}`, {n} times: {kinds}." for due, said, n, kinds in wrong]
    found = "\n".join(lines) or "No verdict was wrong in these draws."
    return f"## What it cannot tell apart\n\n{found}\n"


def _prompts(rows: list[list]) -> str:
    counts = sorted({row[1] for row in rows})
    cells = {(row[0], row[1]): row[2:] for row in rows}
    lines = []
    for due in sorted({row[0] for row in rows}):
        found = [cells.get((due, n)) for n in counts]
        lines.append((f"`{due}`", *(" / ".join(map(str, each)) if each else "" for each in found)))
    return (
        "## How many prompts an answer needs\n\nModels with this verdict on n prompts: right / "
        "undetermined / wrong. An undetermined verdict says\nhow many prompts to take; *that "
        "suffices*, above, is how often those were enough.\n\n"
    ) + _table(("true verdict", *(f"n = {n}" for n in counts)), lines)


def _table(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
