"""Half of the blocks on disk: every command gives the numbers of the model in memory."""

from __future__ import annotations

import numpy as np
import pytest

import sinkscope
from sinkscope.subject.load import load
from tests.rooms_fixture import constructed

FEW = {"n": 4, "length": 32, "kind": "random"}
COMMANDS = {"trace": {"untrained": False}, "verify": {"rows": 4, "draws": 2}, "mix": {}}


@pytest.fixture
def both(tmp_path, monkeypatch):
    """A model with a sink, whole and with its later blocks on disk."""
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)  # accelerate puts its files where it runs
    subject = constructed()
    subject.model.save_pretrained(tmp_path / "model")
    subject.tokenizer.save_pretrained(tmp_path / "model")
    blocks = len(subject.anatomy.blocks)
    places = {f"model.layers.{i}": "cpu" if i < blocks // 2 else "disk" for i in range(blocks)}
    rest = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    spread = load(tmp_path / "model", device_map=places | dict.fromkeys(rest, "cpu"))
    assert any(p.device.type == "meta" for p in spread.model.parameters())
    return load(tmp_path / "model"), spread


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS)
def test_edits_act_on_blocks_that_lie_on_disk(both, command):
    whole, spread = (getattr(sinkscope, command)(each, **FEW, **COMMANDS[command]) for each in both)
    compared = 0
    for path in whole.data.groups:
        for name, values in whole.data[path].data_vars.items():
            if values.dtype.kind == "f":
                other = spread.data[path][name].values
                np.testing.assert_allclose(values.values, other, atol=1e-4, rtol=1e-3)
                compared += values.size
    assert compared
    if command == "verify":
        (one,), (other,) = (r.summary.verify.values() for r in (whole, spread))
        assert one.verdict == other.verdict
