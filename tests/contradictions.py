"""Whether what a result says in the terminal and on its page follows from its numbers.

A rule reads sentences, tables and stages as a user sees them and holds each number and word against
summary.json; it yields what does not follow. `contradictions` gives all that is found.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from sinkscope.report import commands, frames
from sinkscope.report.brief import print_brief
from sinkscope.report.causal.names import NAMES
from sinkscope.report.causal.verdict_page import SENTENCES, VERBS
from sinkscope.report.page import render_page
from sinkscope.report.parts import Section, Table, Tables
from sinkscope.report.text import multiple, number_of, percent, ranges, short, typeset, visible
from sinkscope.result import Result
from sinkscope.result import TestRow as Row

CODES = "|".join(sorted(NAMES, key=len, reverse=True))
NO_CHANGE = 0.0005  # of a share: shown without its sign
STATES = {True: "shown", False: "failed", None: "untested"}
SAID = {"shown": "yes", "failed": "no", "untested": "not tested", "undetermined": "undetermined"}


@dataclass
class Seen:
    """What a user sees of a result under one BOS policy."""

    result: Result
    bos: str
    page: str

    @cached_property
    def data(self) -> dict[str, Any]:
        """The summary of each command, as plain values."""
        summary = self.result.summary
        return {
            name: getattr(summary, name)[self.bos].model_dump()
            for name in ("scan", "trace", "verify", "mix")
            if self.bos in getattr(summary, name)
        }

    @cached_property
    def sections(self) -> dict[str, Section]:
        return {one.name: one for one in commands.all_sections(self.result)}

    def concluded(self, name: str) -> str:
        """The conclusion in the heading of a part; empty without that part."""
        part = self.sections.get(name)
        said = dict(part.conclusions) if part else {}
        return said.get(self.bos) or next(iter(said.values()), "")

    @cached_property
    def sentences(self) -> list[str]:
        found = commands.all_findings(self.result, self.bos)
        return [text for one in found for text in (one.headline, *one.sentences)]

    @cached_property
    def text(self) -> str:
        return " ".join([*self.sentences, *map(self.concluded, self.sections)])

    @cached_property
    def keys(self) -> dict[str, str]:
        found = commands.all_findings(self.result, self.bos)
        return {what: value for one in found for value, what, _ in one.keys}

    def table(self, title: str) -> Table | None:
        """A table by the beginning of its title, of the terminal or of the page."""
        found = [t for one in commands.all_findings(self.result, self.bos) for t in one.tables]
        for part in (part for one in self.sections.values() for part in one.parts):
            if isinstance(part, Tables):
                found += part.panels.get(self.bos, [])
        return next((one for one in found if one.title.startswith(title)), None)

    @property
    def tests(self) -> list[Row]:
        return self.result.summary.verify[self.bos].tests


Rule = Callable[[Seen], Iterator[str]]
RULES: list[tuple[str, Rule]] = []  # the command it is about, and the rule


def rule(command: str) -> Callable[[Rule], Rule]:
    def add(one: Rule) -> Rule:
        RULES.append((command, one))
        return one

    return add


def contradictions(result: Result) -> list[str]:
    """Every sentence, word or cell that does not follow from the summary."""
    page = render_page(result)
    found = [f"terminal: {line}" for line in unknown_to_the_page(result, page)]
    for bos in frames.policies(result):
        seen = Seen(result, bos, page)
        for command, one in RULES:
            if command in seen.data:
                found += [f"{bos} BOS, {one.__name__}: {said}" for said in one(seen)]
    return found


def words_of(page: str) -> str:
    """The text of a page, without its scripts."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def unknown_to_the_page(result: Result, page: str) -> Iterator[str]:
    """Answers of the terminal that the page does not hold, word by word."""
    stream = io.StringIO()
    print_brief(result, Console(file=stream, width=100_000, color_system=None))
    shown = words_of(page)
    for line in stream.getvalue().splitlines()[2:]:
        told = " ".join(line[9:].split()).removesuffix(".")  # the end of what was shortened
        known = told in shown or told.removeprefix("Missing: ") in shown
        if line[:9].strip() in ("Sink", "Where", "Since", "Proved", "Used") and not known:
            yield told


def differ(what: str, shown: Any, known: Any) -> Iterator[str]:
    if shown != known:
        yield f"{what}: shown {shown!r}, known {known!r}"


# ---- scan -------------------------------------------------------------------------------------


@rule("scan")
def late_share_is_one_number_everywhere(seen: Seen) -> Iterator[str]:
    scan = seen.data["scan"]
    known = percent(number_of(scan["late_share"]))
    for said in re.findall(r"later queries give it ([^ ]+\u00a0%) of their attention", seen.text):
        yield from differ("sentence", said, known)
    yield from differ("key", seen.keys.get("of late attention goes to position zero"), known)
    times = short(scan["late_share"]["value"] / scan["uniform_late_share"])
    for said in re.findall(r"([\d.,]+) times the [^ ]+\u00a0% of uniform", seen.text):
        yield from differ("times uniform", said, times)
    nulls = seen.table("P0 and its nulls")
    row = next((row for row in nulls.rows if row[0] == "This model"), None) if nulls else None
    if row is not None:
        yield from differ("table", row[1].split("\u00a0(")[0], known)


@rule("scan")
def sink_or_none_is_said_once(seen: Seen) -> Iterator[str]:
    sink = seen.data["scan"]["p0_sink"]
    positive = "Position zero is an attention sink" in seen.text
    negative = "Position zero is no attention sink" in seen.text or "is no sink" in seen.text
    yield from differ("is a sink", (positive, negative), (sink is True, sink is False))


@rule("scan")
def sink_heads_are_counted_alike(seen: Seen) -> Iterator[str]:
    scan = seen.data["scan"]
    count, blocks = scan["sink_head_count"], ranges([row[0] for row in scan["sink_heads"]])
    told = r"(\d+) of \d+ heads are sinks .*?, in blocks? ([\d–, ]+)\."
    for number, where in re.findall(told, seen.text):
        yield from differ("sentence", (int(number), where), (count, blocks))
    if "No head sinks at it" in seen.text:
        yield from differ("no head", 0, count)
    table = seen.table("By block")
    if table is not None and "Sink heads" in table.columns:
        column = table.columns.index("Sink heads")
        yield from differ("table", sum(int(row[column]) for row in table.rows), count)


@rule("scan")
def rate_in_the_heading_is_that_of_key_and_table(seen: Seen) -> Iterator[str]:
    known = percent(number_of(seen.data["scan"]["sink_rate"]["0.3"]))
    said = re.match(r"Sink rate ([^ ]+\u00a0%) at", seen.concluded("rates"))
    yield from differ("heading", said and said[1], known)
    yield from differ(
        "key",
        seen.keys.get("of heads give it more than 30\u00a0%, mean over prompts (sink rate)"),
        known,
    )
    table = seen.table("Sink rate")
    if table is not None:
        at = [row for row in table.rows if row[0] in ("ε = 0.3", "All blocks")]
        cells = [cell.split("\u00a0(")[0] for row in at for cell in row]
        yield from differ("table", known in cells, True)


@rule("scan")
def heads_above_random_are_one_number(seen: Seen) -> Iterator[str]:
    said = re.search(r"([^ ]+\u00a0%) of the heads give it more late attention", seen.text)
    key = seen.keys.get("of heads exceed random targets")
    if said and key:
        yield from differ("key", key, said[1])


@rule("scan")
def massive_rule_is_said_as_it_is(seen: Seen) -> Iterator[str]:
    met, table = seen.data["scan"]["massive"].get("rule_met"), seen.table("Massive")
    if met is None or table is None:
        return
    yield from differ("heading", "There are massive" in seen.concluded("massive"), met)
    yield from differ("table", table.rows[0][1], "yes" if met else "no")


# ---- trace ------------------------------------------------------------------------------------


@rule("trace")
def emergence_is_one_block(seen: Seen) -> Iterator[str]:
    block = seen.data["trace"]["emergence_block"]
    said = re.search(r"stands apart from the others (?:for good )?from block (\d+) on", seen.text)
    yield from differ("sentence", int(said[1]) if said else None, block if block != -1 else None)
    told = "is the block from which on position zero stands apart"
    key = next((value for name, value in seen.keys.items() if name.startswith(told)), None)
    known = None if block is None else str(block) if block >= 0 else "embedding"
    yield from differ("key", key, known)


@rule("trace")
def readers_are_counted_alike(seen: Seen) -> Iterator[str]:
    heads = seen.data["trace"]["reading_heads"]
    counts = {int(n) for n in re.findall(r"(\d+) sink heads read it", seen.text)}
    if "One sink head reads it" in seen.text:
        counts.add(1)
    if "No head reads it" in seen.text:
        counts.add(0)
    yield from differ("sentence", counts, {len(heads)})
    table = seen.table("Sink heads, which read it")
    if table is not None:
        yield from differ("table", {int(row[0]) for row in table.rows}, {b for b, _ in heads})
    known = f"{len(heads):,}" if heads else None
    yield from differ("key", seen.keys.get("sink heads read it"), known)


@rule("trace")
def the_largest_writer_is_named_with_its_share(seen: Seen) -> Iterator[str]:
    shares = {name: one for name, one in seen.data["trace"]["write_shares"].items() if one > 0}
    said = re.search(r"The (\w+) of block (\d+) writes ([^ ]+\u00a0%) of", seen.text)
    if said is None:
        return
    name, share = max(shares.items(), key=lambda item: item[1])
    kind = said[1].lower()
    yield from differ("sentence", (f"{said[2]}.{kind}", said[3]), (name, percent(share)))
    table = seen.table("Who writes")
    if table is not None:
        cells = [row[2] for row in table.rows if row[0] == said[2] and row[1].lower() == kind]
        yield from differ("table", cells, [said[3]])


@rule("trace")
def early_writing_is_one_number(seen: Seen) -> Iterator[str]:
    known = percent(number_of(seen.data["trace"]["concentration"].get("2")))
    for said in re.findall(r"the first two blocks make ([^ ]+\u00a0%)", seen.text):
        yield from differ("heading", said, known)
    key = seen.keys.get("is written by the first two blocks (C₂)")
    if key is not None:
        yield from differ("key", key, known)


# ---- verify -----------------------------------------------------------------------------------


@rule("verify")
def the_verdict_is_one_word(seen: Seen) -> Iterator[str]:
    verdict = seen.data["verify"]["verdict"]
    yield from differ("heading", seen.concluded("verdict").split(":")[0], verdict)
    for part in verdict.split("+"):
        yield from differ(part, SENTENCES[part] in seen.concluded("verdict"), True)
    for name, sentence in SENTENCES.items():
        if name not in verdict.split("+") and name != "p0-circuit":
            yield from differ(f"{name} is not said", sentence in seen.text, False)
    if verdict == "none":
        yield from differ("none beside a sink", "is an attention sink" in seen.text, False)


@rule("verify")
def stages_are_alike_on_card_and_table_and_in_the_verdict(seen: Seen) -> Iterator[str]:
    held = seen.data["verify"]
    cards = re.findall(r'<li class="stage (\w+)">(.*?)</li>', seen.page, re.S)
    verified = seen.result.summary.verify
    earlier = [*verified][: [*verified].index(seen.bos)]
    before = sum(len(verified[bos].stages) for bos in earlier)
    cards = cards[before : before + len(held["stages"])]
    table = seen.table("Stages")
    rows = table.rows if table else []
    for stage, (state, card), row in zip(held["stages"], cards, rows, strict=True):
        open_ = stage["outcome"] == "undetermined"
        known = "undetermined" if open_ else STATES[stage["passed"]]
        name = f"stage {stage['stage']}"
        yield from differ(f"card of {name}", state, known)
        yield from differ(f"row of {name}", row[1], SAID[known])
        lacks = known in ("failed", "undetermined")
        card_says = re.search("Why( not)?:", card) is not None
        yield from differ(f"reason on the card of {name}", card_says, lacks)
        sentence = [one for one in seen.sentences if one.startswith(f"Stage {stage['stage']},")]
        yield from differ(f"reason of {name}", len(sentence), int(lacks))
        verb = VERBS.get(stage["stage"])
        if held["verdict"] == "p0-circuit" and verb:
            said = verb in seen.concluded("verdict")
            yield from differ(f"verb of {name}", said, known == "shown")
        value = number_of(stage["necessity"])
        if value is not None:
            shown = percent(0.0 if abs(value) < NO_CHANGE else value)
            yield from differ(f"necessity of {name}", shown in html.unescape(card), True)
    amplified = any(one["stage"] == 2 and one["passed"] for one in held["stages"])
    if not amplified:
        yield from differ("amplified", "amplified in" in seen.concluded("verdict"), False)


@rule("verify")
def faithfulness_and_completeness_are_one_number_each(seen: Seen) -> Iterator[str]:
    for name, what in (
        ("faithfulness", "of the sink is kept by the circuit alone (faithfulness)"),
        ("completeness", "is kept by everything but the circuit (completeness)"),
    ):
        value = number_of(seen.data["verify"][name])
        key = seen.keys.get(what)
        yield from differ(name, key, None if value is None else multiple(value))
        if value is not None and "units (" in seen.text:
            yield from differ(f"{name} in words", multiple(value) in seen.text, True)


@rule("verify")
def codes_in_a_heading_hold_in_the_table(seen: Seen) -> Iterator[str]:
    for kind in ("necessity", "sufficiency", "identity"):
        said = seen.concluded(kind)
        if not said:
            continue
        decided = [t for t in seen.tests if t.kind == kind and t.claim and t.confirmed]
        held = {t.id for t in decided if t.passed}
        first, *others = re.split(r"\. (?=Not shown|It does not|Undetermined)", said)
        positive = re.match(r"(Needed|Enough|The sink hangs on): ", first)
        told = {*re.findall(rf"\b({CODES})\b", first)} if positive else set()
        doses = {t.id for t in decided if t.dose is not None}  # of these the largest alone decides
        yield from differ(f"{kind}, hold", told - doses, held - doses)
        rest = said if not positive else " ".join(others)
        yield from differ(f"{kind}, both", {*re.findall(rf"\b({CODES})\b", rest)} & told, set())
        table = seen.table("Effects")
        for code in told:
            marks = {row[2] for row in table.rows if row[0] == code} if table else set()
            yes = any(mark.startswith("✓\u00a0") or mark == "carries it" for mark in marks)
            yield from differ(f"{code} in the table", yes, True)


@rule("verify")
def edits_are_counted_as_they_are(seen: Seen) -> Iterator[str]:
    said = re.match(r"(\d+) edits?: (\d+) run in full, (\d+) screened", seen.concluded("tests"))
    if seen.tests:
        full = sum(test.confirmed for test in seen.tests)
        known = (len(seen.tests), full, len(seen.tests) - full)
        yield from differ("heading", said and tuple(map(int, said.groups())), known)


@rule("verify")
def what_would_change_it_gives_the_number_of_its_row(seen: Seen) -> Iterator[str]:
    for said in seen.data["verify"]["what_would_change_it"]:
        found = re.match(rf"({CODES}): .*\(now ([+-]\d+)%, bound [+-]\d+%\): (.*)$", said)
        if found is None:
            continue
        part = re.search(r" \(on the (\d+) of \d+ sink heads that are (\S+)\)$", said)
        if part is not None:  # the row is of all sink heads
            parts = seen.data["verify"]["verdict_detail"]["parts"]
            heads = {str(one["heads"]) for one in parts if one["verdict"] == part[2]}
            yield from differ(said, part[1] in heads, True)
            continue
        rows = [t for t in seen.tests if t.id == found[1] and t.edit == found[3]]
        values = {
            round(100 * value)
            for t in rows
            for one in (t.key_change, t.sink_change)
            if (value := number_of(one)) is not None
        }
        if any(t.kind != "sufficiency" for t in rows):
            near = any(abs(int(found[2]) - value) <= 1 for value in values)
            yield from differ(said, near, True)
    shown = seen.table("What would change it")
    told = [row[0] for row in shown.rows] if shown else []
    for said, cell in zip(seen.data["verify"]["what_would_change_it"], told, strict=True):
        code, colon, rest = visible(said).partition(":")
        named = f"{code} {NAMES[code]}{colon}{rest}" if code in NAMES else visible(said)
        yield from differ("table", cell, typeset(named))


@rule("verify")
def a_row_that_is_said_to_hold_holds_in_its_numbers(seen: Seen) -> Iterator[str]:
    for test in seen.tests:
        value = number_of(test.key_change or test.sink_change)
        if test.kind == "necessity" and test.claim and test.passed and value is not None:
            half = value <= -0.5 + NO_CHANGE
            yield from differ(f"{test.id} takes half ({test.edit})", half, True)
        if test.kind == "necessity" and test.outcome == "absent" and value is not None:
            yield from differ(f"{test.id} takes nothing ({test.edit})", abs(value) < 0.5, True)


# ---- mix --------------------------------------------------------------------------------------


@rule("mix")
def use_is_said_as_it_was_decided(seen: Seen) -> Iterator[str]:
    one = seen.data["mix"]
    yield from differ("heading", seen.concluded("purpose"), typeset(one["sentence"]))
    yield from differ("heads", seen.keys.get("heads sink"), str(len(one["sink_heads"])))
    rank = one["effective_rank"]
    for name, words in (("intact", "with the sink"), ("redistributed", "without it")):
        if rank.get(name) and seen.concluded("collapse"):
            told = f"{short(rank[name])} {words}" in seen.concluded("collapse")
            yield from differ(f"rank {words}", told, True)
