"""Pages, tables and help use the field's words; what is ours stands in the glossary."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sinkscope.report.causal.names import NAMES
from sinkscope.report.page import render_page
from sinkscope.report.table import render_text
from tests.circuit_fixture import build_circuit
from tests.timeline_fixture import build_timeline

ROOT = Path(__file__).resolve().parent.parent
# private terms that were given up, each for a term of the field
FORMER = (
    r"asked heads?",
    r"light set",
    r"\bcalm\b",
    r"told apart",
    r"\bthe course\b",
    r"only there",
    r"shared out",
    r"read points?",
    r"reading heads?",
    r"by a look",
    r"\b(attention|MLP|mlp) writes?\b",
    r"\bevenness\b",
)
COMMANDS = ["run", "scan", "trace", "verify", "mix", "timeline", "report", "models", "doctor"]
LAB = ["list", "train", "build", "run", "study"]
# terms that are ours and remain; a page or a table may use one only if the glossary defines it
OURS = (
    *("P0", "sink head", "late share", "sink rate", "selectivity", "α₀", "block input"),
    *("sink direction", "sink margin", "emergence block", "unmixed", "C₂", "edit", "control"),
    *("spread", "row entropy", "no-op", "broadcast", "settled", "lean", "exact", "completeness"),
    *(
        "null",
        "unit",
        "verdict",
        "faithfulness",
        "frozen",
        "patched",
        "ablated",
        "supervised heads",
    ),
)


def glossary():
    """The terms of the table of words, without code marks."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").split("## Edits")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", text, re.M)[1:]
    return {ours.strip(): meaning.strip() for ours, meaning in rows if set(ours) != {"-"}}


def words_of(page):
    """What a page says, without its scripts and styles."""
    return re.sub(r"<style.*?</style>|<script>.*?</script>", "", page, flags=re.S)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """All help, pages and tables: name -> text."""
    from sinkscope.cli.app import app

    runner = CliRunner()
    told = {}
    for words in [[], *([one] for one in COMMANDS), ["lab"], *(["lab", one] for one in LAB)]:
        done = runner.invoke(app, [*words, "--help"])
        assert done.exit_code == 0, done.output
        told[" ".join(["sinkscope", *words, "--help"])] = " ".join(done.output.split())
    circuit = build_circuit()
    trained = build_timeline(tmp_path_factory.mktemp("words"))
    for name, result in (("circuit", circuit), ("timeline", trained)):
        told[f"page of a {name}"] = words_of(render_page(result))
        told[f"tables of a {name}"] = render_text(result)
    return told


@pytest.mark.parametrize("former", FORMER)
def test_a_term_that_was_given_up_is_not_said(said, former):
    found = {
        where: match.group(0)
        for where, text in said.items()
        if (match := re.search(former, text, re.IGNORECASE))
    }
    assert not found


def test_terms_of_ours_that_are_said_stand_in_the_glossary(said):
    text = " ".join(said.values()).lower()
    used = [term for term in OURS if term.lower() in text]
    assert len(used) > 15
    assert not [term for term in used if term not in glossary()]
    assert all(len(meaning) > 15 for meaning in glossary().values())


def test_every_code_of_a_test_is_named_on_the_page_and_in_the_tables(said):
    for where in ("page of a circuit", "tables of a circuit"):
        codes = set(re.findall(r"\b([NSIM][1-9]s?)\b", said[where])) & set(NAMES)
        assert codes
        for code in codes:
            name = NAMES[code][1:].split(",")[0][:20]
            assert name in said[where], (where, code)
