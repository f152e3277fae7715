"""What a command ends with: answers in the order of the questions, that fit and that follow."""

import io

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from sinkscope.report import commands
from sinkscope.report.brief import MORE, SPARE, brief, fitted, print_brief, sentences, weaknesses
from sinkscope.report.compare import comparison, policies_compared, runs_compared
from sinkscope.report.differences import figures
from sinkscope.report.parts import QUESTIONS, WEAK, Findings
from sinkscope.report.table import print_tables, render_text
from sinkscope.report.text import percent
from sinkscope.result import Measured
from sinkscope.stats import difference, t_interval
from tests.circuit_fixture import build_circuit
from tests.report_fixture import build_result
from tests.timeline_fixture import build_timeline


def printed(result, width=80, show=print_brief):
    stream = io.StringIO()
    show(result, Console(file=stream, width=width, color_system=None))
    return stream.getvalue().splitlines()


def one_line(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def circuit():
    result = build_circuit(policies=("without",))
    verified = result.summary.verify["without"]
    verified.missing = [f"reason {i}: {'a long one; ' * 40}" for i in range(3)]
    verified.verdict_detail["because"] = "it is so; " * 40
    return result


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_answers_fit_a_screen_and_its_width(circuit, width):
    lines = printed(circuit, width)
    assert len(lines) < 25 or width < 80
    assert max(map(cell_len, lines)) <= width
    assert not [line for line in lines if line != line.rstrip()]
    assert "…" not in "".join(lines)


def said_of(circuit, answers, width=80):
    lines = brief(circuit, {"": [Findings("a", answers=answers)]}, width)
    return [line.plain for line in lines[2:]]


def test_many_long_answers_are_shortened_until_they_fit_a_screen(circuit):
    long = [(question, "Six words make a sentence here. " * 9) for question in QUESTIONS[:-1]]
    lines = said_of(circuit, long)
    assert len(lines) <= 22
    left = [question for question in QUESTIONS[:-1] if question != SPARE]
    assert [line[:9].strip() for line in lines if line[:9].strip()] == [*left, MORE]
    kept = one_line(" ".join(line[9:] for line in lines)).count("Six words")
    assert lines[-1].endswith(f"{9 * len(long) - kept} sentences: --verbose.")


def test_a_sentence_stands_whole_whatever_room_it_takes(circuit):
    """Two lines an answer, none of which can be left out; only weaknesses can."""
    answers = [("To do", "word " * 25)] * 12 + [(WEAK, "Short."), (WEAK, "Shorter.")]
    lines = said_of(circuit, answers)
    assert " ".join(lines).count("word") == 12 * 25
    assert one_line(" ".join(lines[-2:])).endswith("Short. More 1 sentence: --verbose.")


def test_answers_that_just_fit_leave_no_line_for_what_is_left_out():
    answers = [(question, "Short.") for question in ("Sink", "Where", "Since", "Proved")]
    assert [one.question for one in fitted(answers, 12, 4, 1)] == [q for q, _ in answers]
    answers[1] = ("Where", "A sentence. Another.")  # two lines: one must go, and it is said
    assert [one.question for one in fitted(answers, 12, 5, 1)] == [q for q, _ in answers]
    assert [one.question for one in fitted(answers, 12, 4, 1)][-1] == MORE


def test_the_answers_come_in_the_order_of_the_questions(circuit):
    asked = [one for one in QUESTIONS if any(x.startswith(one) for x in printed(circuit))]
    found = [line[:9].strip() for line in printed(circuit)[2:] if line[:9].strip()]
    assert found == [*asked, MORE]
    assert {"Sink", "Where", "Since", "Made by", "Proved", WEAK} <= set(found)


def test_every_answer_is_a_sentence_of_the_tables(circuit):
    whole = one_line(render_text(circuit))
    for found in commands.all_findings(circuit, "without"):
        assert found.answers
        for _, sentence in found.answers:
            assert one_line(sentence) in whole


def test_sentences_are_parted_outside_brackets():
    text = "It is so (by 3; in 4. 5); and so. 1.5 times"
    assert sentences(text) == ["It is so (by 3; in 4. 5);", "and so.", "1.5 times"]
    [one, more] = fitted([("Sink", f"{text} {'word ' * 9}")], 12, 2, 1)
    assert one.lines == ["It is so (by", "3; in 4. 5)."]
    assert (more.question, more.lines) == (MORE, ["2 sentences:", "--verbose."])


def test_weaknesses_are_told_once_and_the_rest_is_counted(circuit):
    notes = [f"Note {i}." for i in range(9)]
    found = [Findings("a", notes=notes), Findings("b", notes=notes)]
    assert weaknesses(found) == [(WEAK, note) for note in notes]
    lines = [line.plain[9:] for line in brief(circuit, {"": found}, 80)[2:]]
    assert lines == [*notes[:3], "6 sentences: --verbose."]


def test_how_many_documents_are_needed_comes_before_other_notes():
    said = "Intervals rest on {} documents: to cover 95 % they need {} or more (--text)."
    found = [Findings("a", notes=["Other.", said.format(6, 6)], answers=[(WEAK, "Missing.")])]
    found += [Findings("b", notes=[said.format(7, 42)])]
    told = ["Missing.", said.format(7, 42), "Other."]
    assert weaknesses(found) == [(WEAK, text) for text in told]


def test_a_token_moves_no_cursor():
    lines = printed(build_circuit())
    assert not [line for line in lines if any(ord(one) < 32 or one == "\u202e" for one in line)]


def test_tables_are_not_padded_in_a_pipe(circuit):
    lines = printed(circuit, show=print_tables)
    assert "By block" in lines
    assert not [line for line in lines if line != line.rstrip()]


@pytest.mark.parametrize("runs", [1, 3, 12])
def test_a_timeline_ends_with_its_answers(tmp_path, runs):
    lines = printed(build_timeline(tmp_path, runs=runs))
    assert len(lines) < 25
    assert max(map(cell_len, lines)) <= 80
    assert lines[2] == "Without BOS, another token in every prompt at positions 0–2"
    asked = [line[:9].strip() for line in lines[3:] if line[:9].strip()]
    assert asked[0] == "Formed"
    if runs == 1:
        whole = ["Formed", "Stages", "Settled", "Written", WEAK, MORE]
        assert asked == [question for question in whole if question in asked]
        assert len(asked) >= 4
    assert (f"{runs - 8} more runs: --verbose." in one_line(" ".join(lines))) == (runs > 8)


def test_what_has_no_answers_is_shown_whole():
    bare = build_result(policies=())
    assert printed(bare) == printed(bare, show=print_tables)


@pytest.mark.parametrize(
    ("gap", "said"),
    [(0.2, "20.0 points higher"), (-0.2, "20.0 points lower"), (0.0, "is not shown")],
)
def test_what_is_compared_ends_with_a_table_and_a_sentence(gap, said):
    result, other = build_result(), build_result()
    scans = result.summary.scan
    scans["without"].late_share = Measured(value=0.5, low=0.49, high=0.51)
    scans["with"].late_share = Measured(value=0.5 + gap, low=0.49 + gap, high=0.51 + gap)
    other.summary.scan["with"].late_share = scans["without"].late_share
    for [(table, sentence), names] in (
        (policies_compared(result)[0], ["With BOS", "Without BOS"]),
        (runs_compared(result, other)[0], ["This run", "Other run"]),
    ):
        assert table.columns == ["", *names, "Difference"]
        assert table.rows[0][:3] == ["Late share of P0", percent(0.5 + gap), percent(0.5)]
        assert said in sentence
        assert "interval" in sentence
        assert sentence.split(" interval ")[1].split(" points")[0] == (
            f"{100 * gap - 1.414:+.1f} to {100 * gap + 1.414:+.1f}".replace("-", "−")
        )


def test_two_runs_are_compared_in_the_terminal(circuit):
    stream = io.StringIO()
    print_brief(circuit, Console(file=stream, width=80, color_system=None), circuit)
    assert "This run" in stream.getvalue()
    assert "not shown to differ" in one_line(stream.getvalue())
    assert "This run" not in "\n".join(printed(circuit))


def test_differences_beyond_noise_are_named_and_those_within_are_counted():
    result, other = build_circuit(policies=("without",)), build_circuit(policies=("without",))
    assert "No difference lies beyond noise" in runs_compared(result, other)[-1][1]
    scan = other.summary.scan["without"]
    scan.late_share = Measured(value=0.9, low=0.89, high=0.91)
    share = result.summary.scan["without"].late_share
    share.low, share.high = share.value - 0.01, share.value + 0.01
    table, said = runs_compared(result, other)[-1]
    assert [row[0] for row in table.rows] == ["scan: late share"]
    assert table.rows[0][1:3] == [percent(share.value), percent(0.9)]
    assert "1 differs beyond noise" in said
    assert "same model, prompts and settings" in said
    other.summary.model.weights_sha256 = "another"
    result.summary.command["n"], other.summary.command["n"] = 64, 99
    other.summary.command["pairs"] = 3  # what the other alone is asked for is no difference
    other.summary.trace = {}
    said = runs_compared(result, other)[-1][1]
    assert "differ in model (" in said
    assert "n (64 and 99)" in said
    assert "pairs" not in said
    assert "commands (scan + trace + verify and scan + verify)" in said


def test_of_runs_without_a_shared_policy_nothing_bound_to_one_is_compared():
    one, other = build_circuit(policies=("without",)), build_circuit(policies=("with",))
    one.summary.scan["without"].late_share = Measured(value=0.9, low=0.89, high=0.91)
    other.summary.scan["with"].late_share = Measured(value=0.1, low=0.09, high=0.11)
    [(table, said)] = runs_compared(one, other)
    section = comparison(one, other)
    assert table.rows == section.parts == []
    for words in (said, section.lead):
        assert words.count("share no BOS policy, so nothing is compared.") == 1
        assert "beyond noise" not in words
    both = build_circuit(policies=("without", "with"))
    both.summary.scan["with"].late_share = Measured(value=0.9, low=0.89, high=0.91)
    table, said = runs_compared(both, other)[-1]  # the shared policy alone, as one has two
    assert "scan: late share" in [row[0] for row in table.rows]


def test_of_many_figures_without_a_difference_none_is_called_one():
    rng = np.random.default_rng(0)
    pair = [build_circuit(policies=("without",)) for _ in range(2)]
    for result in pair:
        rates = {str(i): t_interval(rng.normal(0.5, 0.1, 24)) for i in range(200)}
        result.summary.scan["without"].sink_rate = rates
    assert runs_compared(*pair)[-1][0].rows == []


def test_one_policy_is_compared_with_nothing(circuit):
    assert policies_compared(circuit) == []
    assert "Difference" not in "\n".join(printed(circuit))


def test_interval_of_a_difference_is_recovered_from_two():
    one, other = Measured(value=3.0, low=2.0, high=6.0), Measured(value=1.0, low=-3.0, high=1.5)
    found = difference(one, other)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - 1.25**0.5, 7))
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        parts = [t_interval(rng.normal(0, size, 12)) for size in (1, 2)]
        found = difference(*parts)
        inside += found.low <= 0 <= found.high
    assert 0.92 <= inside / 300 <= 0.99
    assert difference(one, Measured(value=1.0)).low is None
    assert difference(one, Measured(value=None)).value is None


def test_panels_have_headings_where_there_are_two():
    result = build_circuit()
    found = {bos: commands.all_findings(result, bos) for bos in ("with", "without")}
    said = [line.plain for line in brief(result, found, 80)]
    assert said.count("With BOS") == said.count("Without BOS") == 1
    assert sum(line.startswith("Proved") for line in said) == 2


def test_a_difference_is_that_of_the_numbers_beside_it():
    result, other = build_circuit(policies=("without",)), build_circuit(policies=("without",))
    other.summary.model.id, other.summary.model.weights_sha256 = "org/other", "another"
    for run, value in ((result, 0.3346), (other, 0.4115)):  # 33.5 % and 41.1 %, but 7.69 apart
        held = Measured(value=value, low=value - 0.01, high=value + 0.01)
        run.summary.scan["without"].late_share = held
    (table, said), (beyond, _) = runs_compared(result, other)
    [row] = [row for row in table.rows if row[0] == "Late share of P0"]
    assert [one.replace("\xa0", " ") for one in row[1:]] == ["33.5 %", "41.1 %", "−7.6 points"]
    assert "is 7.6 points lower than in other" in said
    assert [row[-1] for row in beyond.rows if row[0] == "scan: late share"] == ["−7.6 points"]
    assert table.columns[1:3] == beyond.columns[1:3]  # named after the models
    assert table.columns[2].startswith("other")


def test_tests_that_differ_in_their_dose_alone_are_figures_apart():
    result = build_circuit(policies=("without",))
    tests = [one for one in result.summary.verify["without"].tests if one.sink_change is not None]
    long = "give the sink direction's share of the other positions to the stream of position 0"
    for number, test in enumerate(tests[:2]):
        test.id, test.edit = "N5", f"{long} before block {number}"
    found = [key for key, _ in figures(result) if key[2].startswith("N5") and long in key[2]]
    assert found
    assert len(set(found)) == len(found)
