"""`trace` and `find_circuit` on models whose circuit is known, and what they refuse."""

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

import sinkscope
from sinkscope.circuit.components import main_components
from sinkscope.circuit.find import find
from sinkscope.circuit.unit import EXPERT, NEURON
from sinkscope.errors import InputError, Unsupported
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.known.measure import plain_rows
from sinkscope.observe.parity import packed, token_prompts
from sinkscope.result import load_result
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model

ROWS, LENGTH = 16, 64


def constructed(mechanism, seed=3, **fields):
    model, tokenizer, truth = build_in_memory(draw_spec(mechanism, seed, **fields))
    rows = plain_rows(truth, seed, rows=ROWS, length=LENGTH)
    if mechanism == "bos-token":
        rows[:, 0] = 0
    bos = "with" if mechanism == "bos-token" else "without"
    prompts = Prompts(rows, torch.full((ROWS,), LENGTH), "ids", bos)
    return Subject.from_model(model, tokenizer, name=mechanism), prompts, truth


def pairs(rows):
    return {tuple(row[:2]) for row in rows}


KNOWN = [
    ("p0-two-block", {"family": "llama", "noise": 0.05}),
    ("p0-two-block", {"family": "gpt2", "noise": 0.0}),
    ("p0-deeper", {"family": "gpt_oss", "noise": 0.1}),
    ("p0-split", {"family": "llama", "noise": 0.02, "writers": 2}),
    ("p0-expert", {"family": "mixtral", "noise": 0.05}),
    ("secondary", {"family": "llama", "noise": 0.05}),
    ("sink-without-massive", {"family": "llama", "noise": 0.1}),
    ("query-bias", {"family": "gpt2", "noise": 0.05}),
]


@pytest.mark.parametrize(("mechanism", "fields"), KNOWN)
def test_a_known_circuit_is_found(mechanism, fields):
    subject, prompts, truth = constructed(mechanism, **fields)
    circuit = sinkscope.find_circuit(subject, prompts)
    with pytest.raises(FrozenInstanceError):
        circuit.read_point = 0
    assert circuit.emergence_block == truth.amplifying_blocks[0]
    assert circuit.amplification == truth.amplification
    assert {unit.place for unit in circuit.of(NEURON)} == pairs(truth.writing_neurons)
    assert set(circuit.reading_heads) == pairs(truth.reading_heads)
    assert circuit.reading_block == truth.from_block
    assert {unit.place for unit in circuit.of(EXPERT)} == pairs(truth.experts)
    assert circuit.sinks
    true = torch.zeros(truth.spec["width"])
    true[truth.channels] = torch.tensor(truth.direction)
    # u leads away from what the others share, too
    least = 0.5 if mechanism == "sink-without-massive" else 0.75
    assert float(circuit.direction @ true) > least


@pytest.mark.parametrize("mechanism", ["bos-token", "position-embedding"])
def test_the_embedding_is_block_minus_one(mechanism):
    subject, prompts, truth = constructed(mechanism)
    found = find(subject, prompts)
    assert found.circuit.emergence_block == -1
    assert found.circuit.of(NEURON) == []
    assert found.components.whole[0][0] == "embedding"
    assert set(found.circuit.reading_heads) == pairs(truth.reading_heads)


def test_a_norm_that_nobody_reads_is_still_described():
    subject, prompts, truth = constructed("norm-unread", noise=0.05)
    summary = sinkscope.trace(subject, prompts=prompts).summary.trace["without"]
    assert summary.emergence_block == truth.amplifying_blocks[0]
    assert pairs(summary.writing_neurons) == pairs(truth.writing_neurons)
    assert summary.reading_heads == []
    assert summary.margins == {"reason": "no head reads position zero"}
    assert any("nothing that reads it" in note for note in summary.notes)


@pytest.mark.parametrize(
    "mechanism", ["uniform", "recognised-unamplified", "learned-sink", "delimiter"]
)
def test_where_nothing_sets_p0_apart_there_is_no_circuit(mechanism):
    subject, prompts, _ = constructed(mechanism, noise=0.05)
    result = sinkscope.trace(subject, prompts=prompts)
    summary = result.summary.trace["without"]
    assert summary.emergence_block is None
    assert summary.amplification is None
    assert summary.writing_neurons == []
    assert summary.spike_ratio is None
    assert any("no sink direction" in note for note in summary.notes)
    told_apart = summary.recognition_point is not None
    assert told_apart == (mechanism == "recognised-unamplified")


def test_position_zero_is_recognised_beside_a_delimiter_that_the_same_heads_sink_at():
    """What pushes marked tokens along the sink direction moves to the block that amplifies P0."""
    subject, prompts, truth = constructed("secondary", family="llama", noise=0.0, blocks=(1, 2))
    first, middle = (subject.model.model.layers[block].mlp for block in (1, 2))
    neurons, (token, other) = pairs(truth.secondary["neurons"]), truth.secondary["tokens"]
    with torch.no_grad():
        for index in (index for _, index in neurons):
            first.gate_proj.weight[index] = middle.gate_proj.weight[index]
            first.up_proj.weight[index] = middle.up_proj.weight[index]
            first.down_proj.weight[:, index] = middle.down_proj.weight[:, index]
            middle.down_proj.weight[:, index] = 0
    ids = torch.where(
        torch.isin(prompts.input_ids, torch.tensor([token, other])), 3, prompts.input_ids
    )
    ids[:, 5::12] = token
    summary = sinkscope.trace(
        subject, prompts=token_prompts(ids), untrained=False, vocabulary=False
    ).summary.trace["without"]
    assert summary.recognition_point == truth.recognition_point
    # of the 5 in each prompt the last is seen by too few late queries
    assert summary.recognition["sinks"] == 4 * ROWS
    assert any("64 other positions that hold the sink" in note for note in summary.notes)


def test_the_untrained_null_is_not_an_amplification():
    """Fresh weights of the default size: P0's ratio exceeds 1.5 by unmixedness alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=256,
    )  # fmt: skip
    subject = Subject.from_model(LlamaForCausalLM(config).eval())
    prompts = token_prompts(torch.randint(3, 512, (8, 128)))
    found = find(subject, prompts)
    assert np.exp(found.observed.log_ratio.mean(0)).max() > 1.5
    assert isinstance(found.null, float)
    assert found.circuit.emergence_block is None
    assert found.circuit.amplification is None


def test_a_trace_is_saved_and_read_back(tmp_path):
    subject, prompts, truth = constructed("p0-expert", family="mixtral", noise=0.05)
    result = sinkscope.trace(subject, prompts=prompts)
    summary = result.summary.trace["without"]
    assert summary.spike_ratio > 0.98
    assert summary.spike_vocabulary == truth.spec["vocab"]
    raising = [share for share in summary.write_shares.values() if share > 0]
    assert sum(raising) == pytest.approx(1.0)
    assert summary.attribution["error"] < 1e-4
    assert summary.direction_stability["text"] > 1 - 1e-5
    assert summary.margins["mean"].value > 3
    assert summary.concentration[str(truth.amplifying_blocks[0] + 1)] > 0.95
    block, expert = truth.experts[0]
    assert summary.routing[str(block)]["p0"]["share"][expert] > 0.95
    assert summary.routing[str(block)]["others"]["share"][expert] < 0.2
    assert summary.routing[str(block)]["p0"]["margin"] > 0
    back = load_result(result.save(tmp_path / "run"))
    assert back.to_json() == result.to_json()
    data = back.data["trace/without"]
    assert data["late"].shape == (truth.spec["depth"], truth.spec["heads"])
    assert float(data["unmixedness"][0, 0]) == pytest.approx(1.0)
    assert data["direction"].shape == (truth.spec["width"],)
    json.loads(back.to_json())


def test_equal_seeds_give_equal_bytes():
    subject, prompts, _ = constructed("p0-two-block", family="llama", noise=0.05)
    one, two = (sinkscope.trace(subject, prompts=prompts) for _ in range(2))
    assert one.to_json() == two.to_json()


def test_a_scan_of_the_same_prompts_spares_the_reading():
    subject, prompts, truth = constructed("p0-two-block", family="llama", noise=0.05)
    scan = sinkscope.scan(subject, prompts=prompts, untrained=False)
    alone, beside = (
        sinkscope.trace(subject, prompts=prompts),
        sinkscope.trace(subject, prompts=prompts, scan=scan),
    )
    assert alone.summary.trace["without"].reading_heads == [list(h) for h in truth.reading_heads]
    assert alone.to_json() == beside.to_json()
    merged = scan.merge(beside)
    assert merged.summary.trace["without"].emergence_block == 1


def test_both_bos_policies_are_compared():
    subject, _, _ = constructed("p0-two-block", family="llama", noise=0.02)
    result = sinkscope.trace(subject, n=8, length=48, bos="both", kind="random", vocabulary=False)
    assert set(result.summary.trace) == {"without", "with"}
    for summary in result.summary.trace.values():
        assert summary.direction_stability["cosine_between_policies"] > 0.95
        assert summary.spike_ratio is None
    assert any("same token" in note for note in result.summary.trace["with"].notes)


def test_split_writes_are_secondary_amplification():
    subject, prompts, truth = constructed("p0-split", family="llama", noise=0.02)
    summary = sinkscope.trace(subject, prompts=prompts).summary.trace["without"]
    later = truth.amplifying_blocks[1]
    assert [row["block"] for row in summary.secondary] == [later]
    assert 0.3 < summary.secondary[0]["share"] < 0.7


def test_one_short_prompt_says_what_cannot_be_given():
    subject, prompts, _ = constructed("p0-two-block", family="llama", noise=0.05)
    one = prompts.take(slice(0, 1)).first_tokens(20)
    summary = sinkscope.trace(subject, prompts=one).summary.trace["without"]
    assert any("One prompt only" in note for note in summary.notes)
    assert any("20 tokens" in note for note in summary.notes)
    assert any("Separability was not measured" in note for note in summary.notes)
    assert summary.margins["mean"].low is None


def test_packed_rows_are_traced_without_margins():
    subject, prompts, truth = constructed("p0-two-block", family="llama", noise=0.05)
    summary = sinkscope.trace(subject, prompts=packed(prompts.input_ids)).summary.trace["without"]
    assert summary.emergence_block == 1
    assert pairs(summary.writing_neurons) == pairs(truth.writing_neurons)
    assert "packed" in summary.margins["reason"]


def test_the_bundled_model():
    subject = sinkscope.load()
    found = find(subject, sinkscope.build_prompts(subject, n=16, length=128))
    assert found.circuit.amplification is not None
    assert found.circuit.reading_heads
    assert found.logits.error < 1e-4
    assert found.writes.error < 1e-4


def test_what_is_refused(ids):
    with pytest.raises(Unsupported, match="several residual streams"):
        sinkscope.trace(Subject.from_model(tiny_model("gemma3n_text")), prompts=token_prompts(ids))
    subject = Subject.from_model(tiny_model("llama"))
    with pytest.raises(InputError, match="reader"):
        sinkscope.trace(subject, prompts=token_prompts(ids), reader="fast")
    with pytest.raises(InputError, match="BOS policy"):
        sinkscope.trace(subject, bos="never")


def test_the_model_is_left_as_it_was(llama, ids):
    def state():
        modules = list(llama.model.modules())
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
        parameters = list(llama.model.parameters())
        return hooks, [p.requires_grad for p in parameters], [p.clone() for p in parameters]

    before = state()
    sinkscope.trace(llama, prompts=token_prompts(ids))
    after = state()
    assert before[:2] == after[:2]
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2]))
    assert all(p.grad is None for p in llama.model.parameters())
    assert torch.is_grad_enabled()


def test_components_are_the_fewest_that_make_ninety_percent():
    subject, prompts, _ = constructed("p0-two-block", family="llama", noise=0.05, writers=4)
    writes = find(subject, prompts).writes
    few = main_components(writes, 0.5)
    assert 1 <= len(few.rows(NEURON)) < 4
    assert main_components(writes).k90 == 4
    shares = [share for _, _, share in main_components(writes).rows(NEURON)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) >= 0.9
