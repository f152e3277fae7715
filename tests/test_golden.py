"""Golden numbers: what counts as a difference, and how a number's history is told."""

from __future__ import annotations

import json

import golden
import history

HELD = {"bundled, with BOS": {"late_share": 0.3, "verdict": "p0-circuit", "norm_ratio": 100.0}}


def test_a_number_may_move_within_its_tolerance_alone():
    assert golden.close("late_share", 0.3, 0.3004)
    assert not golden.close("late_share", 0.3, 0.3006)
    assert golden.close("norm_ratio", 100.0, 100.4)
    assert not golden.close("norm_ratio", 1.0, 1.4)
    assert not golden.close("late_share", 0.3, None)
    assert not golden.close("sink_heads", 8, 9)


def test_what_differs_is_missing_or_failed_is_named():
    same = {"bundled, with BOS": {**HELD["bundled, with BOS"], "late_share": 0.3001}}
    assert golden.differences(HELD, same) == []
    other = {"bundled, with BOS": {**HELD["bundled, with BOS"], "verdict": "none"}}
    assert golden.differences(HELD, other) == [
        "bundled, with BOS: verdict is 'none', golden 'p0-circuit'"
    ]
    assert golden.differences(HELD, {}) == ["bundled, with BOS: not measured"]
    assert golden.differences(HELD, {"bundled": {"failed": "no memory"}}) == [
        "bundled, with BOS: no memory"
    ]
    real = {f"{golden.REAL}, without BOS": {"late_share": 0.5}}
    assert golden.differences(real, {}) == []


def test_the_committed_numbers_agree_with_themselves_and_their_tolerances():
    held = json.loads(golden.GOLDEN.read_text(encoding="utf-8"))
    assert golden.differences(held["numbers"], held["numbers"]) == []
    written = {key: one["most"] for key, one in held["tolerances"].items()}
    assert written == {key: most for key, (most, _) in golden.TOLERANCES.items()}


def measurement(date: str, torch: str, share: float) -> dict:
    versions = {"torch": torch, "transformers": "5.0.0"}
    numbers = {"bundled, with BOS": {"late_share": share, "verdict": "<b>"}}
    return {"date": date, "versions": versions, "numbers": numbers}


def test_history_is_in_order_and_says_what_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "HISTORY", tmp_path)
    for i, one in enumerate(
        [
            measurement("2026-02-01", "2.13.0", 0.31),
            measurement("2026-01-01", "2.13.0+cpu", 0.3),
            measurement("2026-01-01", "2.6.0", 0.3001),
        ]
    ):
        (tmp_path / f"{i}.json").write_text(json.dumps(one), encoding="utf-8")
    files = history.kept()
    found = history.series(files, "late_share")
    [(_, points)] = found.items()
    assert [value for _, value in points] == [0.3001, 0.3, 0.31]
    assert history.moved("late_share", points)
    assert not history.moved("late_share", points[:2])
    lines = history.table(found).splitlines()
    said = [each.strip() for each in lines[1].split("  ") if each]
    assert said == ["bundled, with BOS", "late_share", "0.3001", "0.31", "0.3 to 0.31", "moved"]
    drawn = history.page(history.series(files), HELD, 3)
    assert drawn.count("<circle") == 3
    assert "&lt;b&gt;" in drawn
    assert "<b>" not in drawn
