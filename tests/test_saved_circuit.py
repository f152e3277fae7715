"""circuit.json: written with a run, read back, refused where a stranger's file is wrong."""

from __future__ import annotations

import json

import pytest
import torch

import sinkscope
from sinkscope.causal.areas import PARTS, areas
from sinkscope.circuit.unit import EMBEDDING, HEAD, NEURON, SHARED, Unit, name_of, unit_named
from sinkscope.errors import InputError
from sinkscope.known.constructed.build import build_in_memory
from sinkscope.known.constructed.spec import draw_spec
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import build_prompts


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    model, tokenizer, truth = build_in_memory(draw_spec("p0-two-block", 7, noise=0.05))
    subject = Subject.from_model(model, tokenizer, "two blocks")
    prompts = build_prompts(subject, n=6, length=48)
    result = sinkscope.verify(subject, prompts=prompts, rows=6, draws=2)
    return subject, prompts, truth, result, result.save(tmp_path_factory.mktemp("c") / "run")


def test_a_saved_circuit_is_the_one_that_was_tested(tested):
    subject, prompts, truth, result, folder = tested
    saved = sinkscope.load_circuit(folder)
    assert {unit.place for unit in saved.units} == set(map(tuple, truth.writing_neurons))
    assert all(saved.scores[unit] > 0 for unit in saved.units)
    assert float(saved.direction.norm()) == pytest.approx(1)
    assert saved.file.prompts.sha256 == prompts.sha256
    summary = result.summary.verify["without"]
    assert saved.file.size == summary.circuit_size
    assert saved.file.curve["cpr"] == summary.circuit_curve["cpr"]
    circuit = saved.on(subject, prompts)
    assert circuit.writers == saved.units
    torch.testing.assert_close(circuit.direction, saved.direction)
    assert list(circuit.reading_heads) == saved.reading_heads


def test_a_loaded_run_writes_the_same_circuit(tested, tmp_path):
    again = sinkscope.load_result(tested[-1]).save(tmp_path / "again")
    assert (again / "circuit.json").read_text() == (tested[-1] / "circuit.json").read_text()


def test_nodes_are_named_as_mib_names_them(tested):
    """What its loader asks for: cfg, all nodes of the model with in_graph and score, edges."""
    truth, folder = tested[2], tested[-1]
    content = json.loads((folder / "circuit.json").read_text())
    cfg, nodes = content["cfg"], content["nodes"]
    assert len(nodes) == 2 + cfg["n_layers"] * (cfg["n_heads"] + 1)
    assert nodes["input"]["in_graph"]
    assert not nodes["logits"]["in_graph"]
    block = truth.writing_neurons[0][0]
    own = [u for name, u in content["units"].items() if name.startswith(f"m{block}.")]
    assert nodes[f"m{block}"]["in_graph"]
    assert nodes[f"m{block}"]["score"] == pytest.approx(sum(u["score"] or 0 for u in own))
    assert all(nodes[f"a{b}.h{h}"]["in_graph"] for b, h in content["reading_heads"])
    assert content["edges"] == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "format"),
        ({"units": {"m1.n3": {"in_graph": "yes"}}}, "in_graph"),
        ({"units": {"m1.n3": {"in_graph": True, "score": "high"}}}, "score"),
        ({"units": {"neuron": {"in_graph": True}}}, "names no unit"),
        ({"units": {"m99.n3": {"in_graph": True}}}, "beyond"),
        ({"reading_heads": [[1, 99]]}, "beyond"),
        ({"direction": [1.0, 2.0]}, "2 channels"),
        ({"direction": "up"}, "direction"),
        ({"nodes": []}, "nodes"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tested, tmp_path, change, words):
    content = json.loads((tested[-1] / "circuit.json").read_text())
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=words) as caught:
        sinkscope.load_circuit(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_json_and_what_is_not_there_is_refused(tmp_path):
    (tmp_path / "circuit.json").write_text("{")
    with pytest.raises(InputError, match="no circuit file"):
        sinkscope.load_circuit(tmp_path)
    with pytest.raises(InputError, match="Cannot read"):
        sinkscope.load_circuit(tmp_path / "none.json")


def test_another_model_is_refused(tested):
    model, tokenizer, _ = build_in_memory(draw_spec("p0-two-block", 8, noise=0.05))
    other = Subject.from_model(model, tokenizer, "other")
    with pytest.raises(InputError, match="other weights"):
        sinkscope.load_circuit(tested[-1]).on(other, tested[1])


def test_names_lead_back():
    for unit in (
        Unit(0, HEAD, 3),
        Unit(11, NEURON, 1229),
        Unit(3, SHARED, 5),
        Unit(-1, EMBEDDING, 0),
    ):
        assert unit_named(name_of(unit)) == unit
    assert name_of(Unit(11, NEURON, 1229)) == "m11.n1229"
    for name in ("m1", "a0xh3", "a-1.h2", "logits"):
        with pytest.raises(InputError):
            unit_named(name)


def test_areas_of_curves_that_are_known():
    """A perfect circuit; one that always keeps half; one that keeps 1.2 of it."""
    assert areas([1.0] * len(PARTS)) == pytest.approx((0.999, 0.0))
    last = (1 - PARTS[-1]) / 2  # the last step ends at all units, which keep all
    for value in (0.5, 1.2):
        wanted = 0.999 * value + last * (1 - value), (0.999 - last) * abs(1 - value)
        assert areas([value] * len(PARTS)) == pytest.approx(wanted)
