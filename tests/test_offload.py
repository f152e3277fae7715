"""Blocks on disk: every command gives the numbers of the model in memory."""

from __future__ import annotations

import numpy as np
import pytest

import sinkscope
from sinkscope.subject.load import load
from tests.rooms_fixture import constructed

FEW = {"n": 4, "length": 32, "kind": "random"}
COMMANDS = {"trace": {"untrained": False}, "verify": {"rows": 4, "draws": 2}, "mix": {}}
STREAMED = {"scan": {}} | {name: COMMANDS[name] for name in ("trace", "verify")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model with a sink."""
    monkeypatch.chdir(tmp_path)  # accelerate puts its files where it runs
    subject = constructed()
    subject.model.save_pretrained(tmp_path / "model")
    subject.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def spread_over(folder):
    """The later half of its blocks on disk, put there by accelerate."""
    pytest.importorskip("accelerate")
    blocks = len(load(folder).anatomy.blocks)
    places = {f"model.layers.{i}": "cpu" if i < blocks // 2 else "disk" for i in range(blocks)}
    rest = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    spread = load(folder, device_map=places | dict.fromkeys(rest, "cpu"))
    assert any(p.device.type == "meta" for p in spread.model.parameters())
    return spread


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS)
def test_edits_act_on_blocks_that_lie_on_disk(folder, command):
    same(load(folder), spread_over(folder), command, COMMANDS[command])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", STREAMED)
def test_a_streamed_model_gives_the_same(folder, command):
    same(load(folder), load(folder, stream=True), command, STREAMED[command])


def same(whole, spread, command, settings):
    """Every number of a command on the one as on the other."""
    one, other = (getattr(sinkscope, command)(each, **FEW, **settings) for each in (whole, spread))
    compared = 0
    for path in one.data.groups:
        for name, values in one.data[path].data_vars.items():
            if values.dtype.kind == "f":
                found = other.data[path][name].values
                np.testing.assert_allclose(values.values, found, atol=1e-4, rtol=1e-3)
                compared += values.size
    assert compared
    if command == "verify":
        (first,), (second,) = (r.summary.verify.values() for r in (one, other))
        assert first.verdict == second.verdict
        assert [t.id for t in first.tests] == [t.id for t in second.tests]
