"""Tables as lines of a terminal: they fit, nothing is cut, and what is pasted stays whole."""

import pytest
from rich.cells import cell_len

from sinkscope.report.lines import hanging, table_lines
from sinkscope.report.parts import Table

EDIT = "resample-ablate the attention output of block 0 at position 0"
TESTS = Table(
    "Deciding tests",
    ["Test", "Edit", "Key", "Total", "p (Holm)", ""],
    [
        ["N1", "Attention output resampled", "", "", "", ""],
        ["N1", EDIT, "−31.0\u00a0%", "−60.4\u00a0%", "0.008", "undetermined, take 152 prompts"],
        ["N3", "screened only", "–", "0.0\u00a0%", "–", ""],
    ],
    numeric={2, 3, 4},
)


def shown(table, width):
    return [line.plain for line in table_lines(table, width)]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
def test_a_table_fits_and_keeps_every_word(width):
    lines = shown(TESTS, width)
    assert max(map(cell_len, lines)) <= width
    words = "".join(lines).replace(" ", "")
    for row in TESTS.rows:
        for cell in row:
            if cell and cell != "–":
                for word in cell.split(" "):
                    assert word in words, word


def test_a_wide_terminal_has_a_line_a_row_and_a_narrow_one_its_words_above():
    wide = shown(TESTS, 200)
    assert len(wide) == 1 + 2 + 3 + 1  # title, header and rule, rows, blank
    assert [line for line in wide if EDIT in line and "152 prompts" in line]
    narrow = shown(TESTS, 80)
    assert f" N1  {EDIT}" in narrow
    below = narrow[narrow.index(f" N1  {EDIT}") + 1]
    header = narrow[1]
    for name, cell in (("Key", "−31.0\u00a0%"), ("Total", "−60.4\u00a0%"), ("p (Holm)", "0.008")):
        assert header.index(name) + len(name) == below.index(cell) + len(cell)
    assert narrow[3] == " N1  Attention output resampled"
    assert narrow[4].startswith(" N1")  # a row of words alone has no line of numbers


def test_where_columns_have_no_room_each_number_has_its_name():
    lines = shown(TESTS, 40)
    assert "Key\u00a0−31.0\u00a0%," in " ".join(lines)
    assert not [line for line in lines if "–" in line and "Key" in line]


def test_an_interval_breaks_before_its_number_does():
    table = Table("", ["", "Late share"], [["This model", "41.2\u00a0% (37.4–45.3)"]], {1})
    assert [line for line in shown(table, 80) if "41.2\u00a0% (37.4–45.3)" in line]
    assert "  This model" not in shown(table, 80)
    assert [line for line in shown(table, 24) if line.endswith("41.2\u00a0%")]


def test_what_is_to_be_pasted_is_one_line_however_narrow_the_terminal():
    line = "QuantoConfig(weights='int8', modules_to_not_convert=['a.b', 'c.d'])"
    table = Table("Lines to paste", ["Tool", "Line"], [["quanto", line]], verbatim=1)
    for width in (40, 200):
        assert f"    {line}" in shown(table, width)


def test_lines_below_the_first_stand_below_its_text():
    assert hanging("• ", "one two three", 9) == ["• one two", "  three"]
