"""How far a command is, what is said of it where there is no terminal, and what a budget takes."""

from __future__ import annotations

import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

import sinkscope
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.timing import seconds_a_prompt
from sinkscope.pace import LEAST, WORK, Budget, Pace, planned, rounded, span
from sinkscope.progress import _lines, _moves, _stages, progress_bar, shown
from sinkscope.settings import RunSettings, ScanSettings, TimelineSettings
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model


class Hand:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pace_is_of_the_whole_command():
    clock = Hand()
    pace = Pace([("scan", 1.0), ("trace", 1.0), ("verify", 2.0)] * 2, clock)
    assert pace.left is None
    pace.update("scan (with BOS)", 0, 4)
    clock.now = 2.0
    pace.update("scan (with BOS)", 2, 4)
    assert pace.fraction == pytest.approx(0.5 / 8)
    assert pace.left == pytest.approx(30.0)
    clock.now = 12.0  # nothing was reported since
    assert pace.left == pytest.approx(20.0)
    pace.update("verify (with BOS)", 13, 13)  # nothing of trace was reported
    assert pace.fraction == pytest.approx(4 / 8)
    pace.update("scan (without BOS)", 4, 4)
    pace.update("trace", 0, 4)
    assert pace.fraction == pytest.approx(5 / 8)
    pace.update("something else", 1, 4)
    assert pace.fraction < 6 / 8


def test_pace_without_stages_is_of_the_one_that_is_reported():
    clock = Hand()
    pace = Pace((), clock)
    pace.update("a", 5, 10)
    clock.now = 4.0
    pace.update("b", 0, 10)
    clock.now = 6.0
    pace.update("b", 1, 10)
    assert pace.left == pytest.approx(18.0)
    assert str(pace) == "b: 10 % in 2 s, about 20 s left"
    pace.update("c", 1, 100)
    assert pace.left is None  # its pace says nothing yet


def test_a_step_is_named_and_counted():
    clock = Hand()
    pace = Pace([("scan", 1.0), ("verify", 3.0)], clock)
    assert str(pace) == "starting, 0 s"
    pace.update("scan (with BOS)", 0, 3)
    clock.now = 8.0
    pace.update("verify (with BOS)", 1, 3)
    assert str(pace) == "step 2 of 2, verify: 50 % in 8 s, about 10 s left"
    clock.now = 20.0  # it takes longer than was thought, and no more is promised
    assert str(pace) == "step 2 of 2, verify: 50 % in 20 s"


def test_what_comes_before_the_first_step_is_told_and_foretells_nothing():
    clock = Hand()
    pace = Pace([("scan", 1.0)] * 2, clock)
    clock.now = 30.0
    pace.update("loading", 0, 1)
    assert str(pace) == "loading, 30 s"
    pace.update("scan (with BOS)", 0, 4)
    clock.now = 32.0
    pace.update("scan (with BOS)", 4, 4)
    assert pace.left == pytest.approx(2.0)
    assert str(pace) == "step 1 of 2, scan (with BOS): 50 % in 32 s"


def test_an_estimate_does_not_jump():
    """A step of a tenth that takes four times as long moves the estimate by less than the tenth."""
    clock = Hand()
    pace = Pace([("scan", 1.0)], clock)
    whole = []
    for done in range(1, 101):
        clock.now += 4.0 if 30 <= done < 40 else 1.0
        pace.update("scan", done, 100)
        whole.append(0 if pace.left is None else clock.now + pace.left)
    told = [one for one in whole if one]
    assert max(abs(b / a - 1) for a, b in pairwise(told)) < 0.05
    assert told[-1] == pytest.approx(130, rel=0.1)


def test_seconds_are_rounded_as_far_as_an_estimate_goes():
    assert [rounded(x) for x in (2, 13, 89, 400, 4000)] == [0, 15, 90, 390, 3900]


def test_the_advice_goes_on_question_by_question_and_never_back():
    subject = Subject.from_model(tiny_model("llama"), name="tiny")
    for asked in (None, "bos, fp16,heads"):
        pace, seen = Pace(planned("advise", 8, 8, questions=asked)), []

        def note(label, done, total, pace=pace, seen=seen):
            pace.update(label, done, total)
            seen.append((label.split(" ")[0], pace.fraction))

        sinkscope.advise(subject, n=8, length=64, kind="random", questions=asked, progress=note)
        parts = [fraction for _, fraction in seen]
        assert parts == sorted(parts)
        stages = [stage for stage, _ in pace.stages if stage != "nulls"]
        assert [one for one in dict.fromkeys(name for name, _ in seen) if one != "nulls"] == stages


@pytest.mark.parametrize("name", ["scan", "trace", "verify", "run"])
def test_stages_come_in_the_order_in_which_they_are_reported(name):
    subject = Subject.from_model(tiny_model("llama"), name="tiny")
    said: list[str] = []

    def note(label, done, total):
        said.append(label.split(" ")[0])

    getattr(sinkscope, name)(subject, n=8, length=24, kind="random", progress=note)
    stages = [stage for stage, _ in planned(name, 8, 8)]
    reported = list(dict.fromkeys(said))
    assert reported == [stage for stage in stages if stage in reported]


def test_python_shows_a_bar_in_a_terminal_and_nothing_elsewhere(monkeypatch):
    from rich.console import Console

    given: list = []

    @shown
    def scan(progress=None):
        given.append(progress)

    scan()
    monkeypatch.setattr(Console, "is_terminal", True)
    scan()
    scan(progress=len)
    with progress_bar():
        scan()  # it has no bar within another
    assert given.pop() is None
    assert given[0] is None
    assert callable(given[1])
    assert given[2] is len


def test_a_bar_is_drawn_where_it_can_be_drawn_anew(monkeypatch):
    monkeypatch.setattr("sinkscope.progress.find_spec", lambda name: None)
    places = {"is_terminal": True, "is_dumb_terminal": False, "is_jupyter": False}
    assert _moves(SimpleNamespace(**places))
    assert not _moves(SimpleNamespace(**places | {"is_dumb_terminal": True}))
    assert not _moves(SimpleNamespace(**places | {"is_jupyter": True}))
    monkeypatch.setattr("sinkscope.progress.find_spec", lambda name: name)
    assert _moves(SimpleNamespace(**places | {"is_jupyter": True, "is_terminal": False}))


def test_the_bar_knows_what_a_command_was_asked_for():
    asked = RunSettings(n=32, rows=8, bos="both")
    assert _stages("run", (None, asked), {}) == planned("run", 32, 8, 2)
    assert _stages("run", (None,), {"n": 32, "rows": 8, "bos": "both"}) == planned("run", 32, 8, 2)
    assert _stages("scan", (None, ScanSettings(n=4)), {}) == planned("scan", 4, 4)
    *before, (last, work) = planned("scan", 4, 4, writes=True)
    assert last == "report"
    assert work < 0.05 * sum(part for _, part in before)  # it does not grow with the model
    assert len(_stages("timeline", (["a", "b"], TimelineSettings()), {})) == 4
    assert len(_stages("timeline", ("a",), {})) == 2


def test_span():
    assert [span(x) for x in (3.4, 60, 200, 7500)] == ["3 s", "1 min", "3 min 20 s", "2 h 5 min"]


def test_lines_are_written_where_there_is_no_terminal(capsys):
    with _lines(Pace([("scan", 1.0)]), first=0.01, every=0.01) as step:
        step("scan (without BOS)", 1, 2)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1
    assert lines[-1].startswith("sinkscope: scan (without BOS): 50 % in 0 s")
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # and none after it


def test_a_budget_gives_room_to_as_many_prompts_as_there_is_time_for():
    assert Budget(None).left == float("inf")
    on_all = sum(work for stage, work in planned("run", 1, 1) if stage != "verify")
    budget = Budget(1.0, Hand())
    for prompts in (30, 10):  # more than the rows of verify, and fewer
        seconds = 60 / (prompts * on_all + min(prompts, 12) * WORK["verify"])
        assert budget.room("run", 64, 12, seconds * 0.999) == prompts
    assert budget.room("run", 64, 12, 1e-9) == 64
    assert budget.room("run", 64, 12, 1e9) == LEAST
    assert budget.room("verify", 64, 64, 1.0) == max(LEAST, int(60 / (on_all + WORK["verify"])))
    assert str(Budget(2.5)) == "the budget of 2.5 minutes"


def test_a_run_takes_fewer_prompts_and_tests_where_its_budget_is_short_and_says_so():
    subject = Subject.from_model(tiny_model("llama"), name="tiny")
    ids = torch.randint(3, 100, (12, 32), generator=torch.Generator().manual_seed(0))
    assert seconds_a_prompt(subject, token_prompts(ids)) > 0
    result = sinkscope.run(
        subject, kind="random", n=12, length=32, untrained=False, draws=1, budget=0.0
    )
    [scan] = result.summary.scan.values()
    assert result.summary.prompts.n == LEAST
    assert scan.notes[-1].startswith(f"Of 12 prompts {LEAST} were taken: the budget of 0 minutes")
