"""No sentence, stage, table or figure of a report says what its numbers do not.

Rendered are models whose answer is known, one of each kind of verdict, at small size; the
pretrained model is held to the same in test_real_model.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

import sinkscope
from sinkscope.known.constructed.build import build_model
from sinkscope.known.constructed.spec import draw_spec
from sinkscope.result import Result
from tests.contradictions import RULES, contradictions

# mechanism, what it is run with, and the verdicts that so few prompts may come to
KINDS = (
    ("p0-two-block", {"n": 8}, {"p0-circuit"}),
    ("bos-token", {"n": 12, "bos": "both", "length": 64}, {"bos-token", "none", "undetermined"}),
    ("position-embedding", {"n": 8}, {"position-embedding"}),
    ("learned-sink", {"n": 8}, {"learned-sink"}),
    ("delimiter", {"n": 16, "length": 64}, {"other", "none", "undetermined"}),
    ("uniform", {"n": 16, "length": 64}, {"none", "undetermined"}),
    ("query-bias", {"n": 8}, {"query-bias"}),
    ("rotary-distance", {"n": 8}, {"rotary-distance"}),
    ("position-periodic", {"n": 8}, {"position-embedding"}),
    ("p0-and-position", {"n": 8}, {"p0-circuit+position-embedding"}),
    ("p0-part", {"n": 24}, {"p0-circuit", "undetermined"}),
    ("p0-suppression", {"n": 8}, {"p0-circuit"}),
    ("p0-two-phase", {"n": 8}, {"p0-circuit"}),
    ("p0-hybrid", {"n": 8}, {"p0-circuit"}),
)
SMALL = {"kind": "random", "length": 40, "rows": 16, "untrained": False, "vocabulary": False}


@pytest.fixture(scope="module")
def result_of(tmp_path_factory) -> Callable[[str], Result]:
    options = {name: asked for name, asked, _ in KINDS}

    @functools.cache
    def run(name: str) -> Result:
        folder = build_model(draw_spec(name, 7), tmp_path_factory.mktemp(name) / "model")
        return sinkscope.run(sinkscope.load(folder), **{**SMALL, **options[name]})

    return run


@pytest.mark.parametrize(("name", "verdicts"), [(name, known) for name, _, known in KINDS])
def test_what_is_said_follows_from_the_numbers(result_of, name, verdicts):
    result = result_of(name)
    assert {one.verdict for one in result.summary.verify.values()} <= verdicts
    assert contradictions(result) == []


@pytest.fixture(scope="module")
def mixed() -> Result:
    return sinkscope.mix(
        sinkscope.load(), n=4, pairs=4, length=32, jacobian=False, sweeps=False, circuit=False
    )


def test_what_a_mix_says_follows_from_its_numbers(mixed):
    assert contradictions(mixed) == []


WORDS = "sinkscope.report"
# where a wrong word could come from, what it says, and the rule that must see it
WRONG = (
    ("scan.headline.percent", lambda share: "9.9\u00a0%", "late_share_is_one_number_everywhere"),
    ("scan.words.where", lambda *_: "99 of 100 heads are sinks (so), in blocks 1–9.", "sink_heads"),
    ("scan.words.headline", lambda scan: "Position zero is no attention sink.", "sink_or_none"),
    ("scan.conclusions.percent", lambda share: "9.9\u00a0%", "rate_in_the_heading"),
    ("scan.words.percent", lambda share: "9.9\u00a0%", "heads_above_random"),
    ("scan.conclusions.massive", lambda scan: "There are massive activations.", "massive_rule"),
    ("circuit.words._emergence", lambda trace: "", "emergence_is_one_block"),
    ("circuit.words._readers", lambda trace: "99 sink heads read it.", "readers_are_counted"),
    (
        "circuit.words._writers",
        lambda trace: "The MLP of block 9 writes 99.9\u00a0% of it.",
        "the_largest_writer",
    ),
    ("circuit.words.percent", lambda share: "9.9\u00a0%", "early_writing"),
    ("causal.verdict_page._sentence", lambda one: "There is a sink", "the_verdict_is_one_word"),
    ("causal.tables.stage_said", lambda stage: "no", "stages_are_alike"),
    ("causal.verdict_page.multiple", lambda share: "9.9\u00a0%", "faithfulness_and"),
    (
        "causal.page.shown_by",
        lambda one, kind: "Needed: N2 variance. Not shown to be needed: N1 it.",
        "codes_in_a_heading",
    ),
    (
        "causal.page.edits_said",
        lambda one: "1 edit: 1 run in full, 0 screened",
        "edits_are_counted",
    ),
    ("causal.tables.with_names", lambda said: said, "what_would_change_it"),
)


@pytest.mark.parametrize(("where", "wrong", "rule"), WRONG)
def test_a_wrong_word_is_seen(result_of, monkeypatch, where, wrong, rule):
    result = result_of("p0-two-block")
    monkeypatch.setattr(f"{WORDS}.{where}", wrong)
    found = contradictions(result)
    assert any(rule in said for said in found), found


def test_wrong_numbers_are_seen(result_of, mixed):
    result = result_of("p0-two-block")
    changed = Result(result.summary.model_copy(deep=True), result.data)
    verified = changed.summary.verify["without"]
    for test in verified.tests:
        if test.kind == "necessity" and test.claim and test.passed and test.key_change:
            test.key_change.value = -0.1
    verified.stages[0].passed = not verified.stages[0].passed
    found = " ".join(contradictions(changed))
    assert "a_row_that_is_said_to_hold" in found
    assert "stages_are_alike" in found
    other = Result(mixed.summary.model_copy(deep=True), mixed.data)
    for one in other.summary.mix.values():
        one.sentence = "The sink is `used` here: 9%."
    assert contradictions(other) == []  # what is said is taken from there


def test_every_command_has_rules():
    assert {command for command, _ in RULES} == {"scan", "trace", "verify", "mix"}
