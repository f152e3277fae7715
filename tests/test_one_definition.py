"""One quantity, one definition: every command gives the same number for a model and prompts.

What is right is said in docs/measures.md, "One definition". Numbers are worked out once more from
the model's own maps, logits and states (`plain_reference`); for which heads sink, `scan` is right.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import sinkscope
from sinkscope.errors import InputError
from sinkscope.report.frames import norm_ratio
from sinkscope.subject.prompts import Prompts, build_prompts
from tests.plain_reference import mean, plain_direction, plain_late, plain_loss, plain_norm_ratio
from tests.rooms_fixture import (
    CASES,
    LATE_ROOMS,
    LENGTH,
    LONG,
    PLAIN,
    POINT,
    RAGGED,
    Case,
    case_of,
    heads_of,
    ids_of,
    late_of,
    mix_loss,
    mix_uniform,
    scan_direction,
    scan_tokens,
    timeline_tokens,
    tiny,
    trace_tokens,
    verify_loss,
)

TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}


# --- 1, 2: late share and its uniform value ---


@pytest.mark.parametrize("room", LATE_ROOMS)
@pytest.mark.parametrize("name", CASES)
def test_late_share(name, room):
    if room == "verify" and name not in LONG:
        pytest.skip("verify asks for 24 tokens")
    case = case_of(name)
    expected, _ = plain_late(case)
    if room == "trace":
        expected = mean(expected)
    found = late_of(case, room)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, **TOLERANCE)


@pytest.mark.parametrize("room", ["scan", "trace", "timeline", "mix"])
@pytest.mark.parametrize("name", CASES)
def test_uniform_late_share(name, room):
    case = case_of(name)
    expected = mean(plain_late(case)[1])
    if room in ("scan", "trace"):
        found = case.data(room)["uniform_late"].values
    elif room == "timeline":
        found = case.timeline.uniform
    else:
        found = mix_uniform(case.subject, case.prompts)
    np.testing.assert_allclose(found, expected, atol=1e-6)


# --- 3: which heads sink ---


@pytest.mark.parametrize("room", ["trace", "mix", "timeline", "report"])
@pytest.mark.parametrize("name", [*CASES, "rivals"])
def test_sinking_heads(name, room):
    case = case_of(name)
    expected = heads_of(case, "scan")
    assert bool(expected) == (name in ("constructed", "right-padded", "short-window", "rivals"))
    if name == "rivals":
        [scan] = case.scan.summary.scan.values()
        assert scan.sink["positions"] == [0, 1]
    assert heads_of(case, room) == expected


@pytest.mark.parametrize("room", ["trace", "mix", "verify"])
@pytest.mark.parametrize("name", ["llama", "constructed", "few-of-many"])
def test_whether_the_model_sinks(name, room):
    """One head is enough; of more than a hundred it is said to be one of a few."""
    case = case_of(name)
    bos = case.prompts.bos
    scan = case.scan.summary.scan[bos]
    sinks = scan.p0_sink
    assert sinks == (name != "llama")
    if name == "few-of-many":
        assert len(heads_of(case, "scan")) == 1
        assert scan.sink["words"] == ["few heads"]
    summary = getattr(case, room).summary
    if room == "trace":
        assert summary.trace[bos].p0_sink == sinks
    elif room == "mix":
        assert (summary.mix[bos].verdict != "no sink") == sinks
    else:
        assert bool(summary.verify[bos].tests) == sinks


# --- 4: norm of P0 over the median of the others ---


@pytest.mark.parametrize("room", ["scan", "trace", "verify", "timeline"])
@pytest.mark.parametrize("name", LONG)
def test_norm_ratio(name, room):
    case = case_of(name)
    expected = plain_norm_ratio(case)
    if room == "timeline":
        found = np.exp(case.timeline.log_ratio)
    else:
        names = {"scan": "norm_ratio", "trace": "norm_ratio_by_prompt", "verify": "p0_norm"}
        found = case.data(room)[names[room]].values
    np.testing.assert_allclose(found[:, :-1], expected, rtol=2e-5)
    if room == "scan":  # what the report draws is the curve that a trace goes by
        drawn = norm_ratio(case.data("scan"))
        np.testing.assert_allclose(drawn, case.data("trace")["norm_ratio"].values, rtol=1e-5)
    last = case.data("scan")["norm_ratio"].values[:, -1]
    np.testing.assert_allclose(found[:, -1], last, rtol=2e-5)


# --- 5: sink direction ---


@pytest.mark.parametrize("room", ["scan", "trace", "timeline"])
@pytest.mark.parametrize("name", ["llama", "learned-sink", "constructed", "right-padded"])
def test_sink_direction(name, room):
    """Of every other position of every prompt; where there is no circuit, at one read point."""
    case, point = case_of(name), POINT
    if room == "trace":
        if name in ("llama", "learned-sink"):
            pytest.skip("nothing sets P0 apart there, so trace takes no direction")
        data = case.data("trace")
        point = int(data.attrs["read_point"].removeprefix("x"))
        found = data["direction"].values
    elif room == "scan":
        found = scan_direction(case.subject, case.prompts)[point]
    else:
        found = case.timeline.direction
    expected = plain_direction(case, point, trace_tokens(case.subject, case.prompts))
    assert float(found @ expected) == pytest.approx(1, abs=1e-6)


# --- 6: what is put at P0 ---


def with_bos(rows: list[list[int]]) -> list[list[int]]:
    return [[0, *row[:-1]] for row in rows]  # 0 is <s> of the constructed models


@pytest.mark.parametrize("room", [scan_tokens, trace_tokens])
@pytest.mark.parametrize("kind", ["ids", "text", "random"])
@pytest.mark.parametrize("bos", ["with", "without"])
def test_first_tokens(bos, kind, room):
    """Where every row begins with BOS, P0 is BOS; else it is drawn from the vocabulary."""
    subject = case_of("constructed").subject
    rows = with_bos(PLAIN) if bos == "with" else PLAIN
    options = {"ids": rows} if kind == "ids" else {"bos": bos}
    prompts = build_prompts(subject, kind=kind, n=4, length=24, **options)
    assert prompts.bos == bos
    found = room(subject, prompts)
    if bos == "with":
        assert found == [0]
    else:
        assert len(set(found)) == 256
        assert found == trace_tokens(subject, prompts)


@pytest.mark.parametrize("bos", ["with", "without"])
def test_first_tokens_of_a_timeline(bos):
    subject = case_of("constructed").subject
    prompts = build_prompts(subject, kind="random", n=4, length=24, bos=bos)
    found = timeline_tokens(subject, kind="random", n=4, length=24, bos=bos)
    assert found == ([0] if bos == "with" else trace_tokens(subject, prompts)[: len(found)])


def test_the_cosine_over_first_tokens_has_no_value_under_bos():
    """One vector in every prompt: in `scan` as in `trace`, and for ids as for text."""
    subject = case_of("constructed").subject
    for options in ({"kind": "ids", "ids": with_bos(PLAIN)}, {"kind": "text", "bos": "with"}):
        prompts = build_prompts(subject, n=4, length=24, **options)
        found = sinkscope.scan(subject, prompts=prompts, untrained=False)
        assert np.isnan(found.data["scan/with"]["p0_cosine"].values).all(), options["kind"]


# --- 7: loss ---


@pytest.mark.parametrize("room", ["verify", "mix", "timeline"])
@pytest.mark.parametrize("name", LONG)
def test_loss(name, room):
    """Mean over the predictions at positions 1 and later: P0's own knows one token only."""
    case = case_of(name)
    if room == "timeline":
        found = case.timeline.loss
    else:
        found = (verify_loss if room == "verify" else mix_loss)(case.subject, case.prompts)
    np.testing.assert_allclose(found, plain_loss(case), rtol=2e-5)


# --- left-padded rows: the same numbers, or a refusal ---


@functools.cache
def both_sides(family: str) -> tuple[Case, Case]:
    """The same rows with the padding on the right, and on the left."""
    right = Case(tiny(family), ids_of(RAGGED)(tiny(family)))
    rows, lengths = right.prompts.input_ids, right.prompts.lengths
    ids, mask = torch.zeros_like(rows), torch.zeros_like(rows)
    for row, length in enumerate(lengths.tolist()):
        ids[row, LENGTH - length :] = rows[row, :length]
        mask[row, LENGTH - length :] = 1
    left = Prompts(ids, lengths, "ids", "without", attention_mask=mask)
    return right, Case(right.subject, left)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("room", ["scan", "trace", "timeline"])
def test_left_padding_changes_nothing(room, family):
    right, left = both_sides(family)
    try:
        found = late_of(left, room)
    except InputError:
        return  # refused in words
    np.testing.assert_allclose(found, late_of(right, room), **TOLERANCE)
    if room == "timeline":
        for name in ("log_ratio", "direction", "others_along", "loss"):
            pair = (getattr(case.timeline, name) for case in (left, right))
            np.testing.assert_allclose(*pair, err_msg=name, **TOLERANCE)
    else:
        name = "norm_ratio" if room == "scan" else "norm_ratio_by_prompt"
        pair = (case.data(room)[name].values for case in (left, right))
        np.testing.assert_allclose(*pair, rtol=2e-5)
        if room == "scan":
            pair = (scan_direction(case.subject, case.prompts) for case in (left, right))
            np.testing.assert_allclose(*pair, **TOLERANCE)


@pytest.mark.parametrize("room", ["verify", "mix"])
def test_left_padding_is_refused(room):
    _, left = both_sides("llama")
    with pytest.raises(InputError, match="right-padded"):
        getattr(left, room)
