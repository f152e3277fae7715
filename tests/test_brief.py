"""What a command ends with: answers in the order of the questions, that fit and that follow."""

import io

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from scipy.stats import ttest_ind

from sinkscope.report import commands
from sinkscope.report.brief import brief, fitted, print_brief, weaknesses
from sinkscope.report.compare import policies_compared
from sinkscope.report.parts import QUESTIONS, WEAK, Findings
from sinkscope.report.table import print_tables, render_text
from sinkscope.stats import unpaired_change
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


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_answers_fit_a_screen_and_its_width(circuit, width):
    lines = printed(circuit, width)
    assert len(lines) < 25 or width < 80
    assert max(map(cell_len, lines)) <= width
    assert not [line for line in lines if line != line.rstrip()]


def test_many_long_answers_are_shortened_until_they_fit_a_screen(circuit):
    long = [(question, "word " * 80) for question in QUESTIONS[:-1]]
    lines = brief(circuit, {"": [Findings("a", answers=long)]}, 80)
    assert len(lines) <= 24
    assert [line.plain[:9].strip() for line in lines[2:] if line.plain[:9].strip()] == [
        *QUESTIONS[:-1]
    ]


def test_the_answers_come_in_the_order_of_the_questions(circuit):
    asked = [one for one in QUESTIONS if any(x.startswith(one) for x in printed(circuit))]
    found = [line[:9].strip() for line in printed(circuit)[2:] if line[:9].strip()]
    assert found == asked
    assert {"Sink", "Where", "Since", "Made by", "Proved", WEAK} <= set(found)


def test_every_answer_is_a_sentence_of_the_tables(circuit):
    whole = one_line(render_text(circuit))
    for found in commands.all_findings(circuit, "without"):
        assert found.answers
        for _, sentence in found.answers:
            assert one_line(sentence) in whole


def test_what_is_cut_says_so():
    shown = ["one two three;", "four five six; …"]
    assert fitted("one two three; four five six; seven eight", 16, 2) == shown
    assert fitted("one two three four five six", 9, 2) == ["one two", "three …"]
    assert fitted("一二三四五六", 8, 3) == ["一二三四", "五六"]


def test_weaknesses_are_told_once_and_the_rest_is_counted():
    notes = [f"Note {i}." for i in range(9)]
    told = weaknesses([Findings("a", notes=notes), Findings("b", notes=notes)], 3)
    assert told == [(WEAK, f"Note {i}.") for i in range(3)] + [(WEAK, "6 more remarks: --verbose.")]


def test_a_token_moves_no_cursor():
    lines = printed(build_circuit())
    assert not [line for line in lines if any(ord(one) < 32 or one == "\u202e" for one in line)]


def test_tables_are_not_padded_in_a_pipe(circuit):
    lines = printed(circuit, show=print_tables)
    assert "By block" in lines
    assert not [line for line in lines if line != line.rstrip()]


def test_what_has_no_answers_is_shown_whole(tmp_path):
    trained = build_timeline(tmp_path)
    assert printed(trained) == printed(trained, show=print_tables)


@pytest.mark.parametrize(("gap", "said"), [(0.2, "20.0 points higher"), (0.0, "is not shown")])
def test_two_policies_are_compared_in_a_table_and_a_sentence(gap, said):
    result = build_result()
    late = result.data["scan/without"]["p0_late"].values
    for bos, more in (("without", 0.0), ("with", gap)):
        data = result.data[f"scan/{bos}"].to_dataset()
        data["p0_late"] = data["p0_late"].copy(data=late * 0 + noise(late) + more)
        result.data[f"scan/{bos}"].dataset = data
    table, sentence = policies_compared(result)
    assert table.columns == ["", "With BOS", "Without BOS", "Difference"]
    assert table.rows[0][0] == "Late share of P0"
    assert said in sentence
    assert "interval" in sentence


def noise(late):
    return 0.5 + 0.01 * np.arange(len(late))[:, None, None]


def test_one_policy_is_compared_with_nothing(circuit):
    assert policies_compared(circuit) is None
    assert "Compared" not in "\n".join(printed(circuit))


def test_difference_of_two_samples_is_welchs():
    rng = np.random.default_rng(3)
    one, other = rng.normal(1, 1, 9), rng.normal(0, 3, 5)
    found = unpaired_change(one, np.append(other, np.nan))
    low, high = ttest_ind(one, other, equal_var=False).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx(
        (one.mean() - other.mean(), low, high)
    )
    assert unpaired_change(one, other[:1]).low is None
    assert unpaired_change(one, other[:0]).value is None


def test_panels_have_headings_where_there_are_two():
    result = build_circuit()
    found = {bos: commands.all_findings(result, bos) for bos in ("with", "without")}
    said = [line.plain for line in brief(result, found, 80)]
    assert said.count("With BOS") == said.count("Without BOS") == 1
    assert sum(line.startswith("Proved") for line in said) == 2
