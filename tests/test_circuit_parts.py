"""The exact sums of `trace` over families, and its parts beside slow references."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import xarray

from sinkscope.circuit.amplification import crossing, longest_run, norm_amplification
from sinkscope.circuit.concentration import by_number, concentration, log_norm_share, step_down
from sinkscope.circuit.frozen import FrozenNorms, affine_form
from sinkscope.circuit.induction import queries_of
from sinkscope.circuit.keys import sink_logits
from sinkscope.circuit.observed import Observed
from sinkscope.circuit.recognition import first_that_stays, recognition
from sinkscope.circuit.separation import Rows, auroc, separability
from sinkscope.circuit.streams import p0_points
from sinkscope.circuit.unit import EXPERT, HEAD, NEURON, Unit, by_block, of_kind
from sinkscope.circuit.unmixed import cones
from sinkscope.circuit.vocabulary import affordable, scan_vocabulary
from sinkscope.circuit.weights import input_maps
from sinkscope.circuit.writes import written_along
from sinkscope.detect.scan import scan
from sinkscope.errors import Unsupported
from sinkscope.observe.attention import observe, run_model
from sinkscope.observe.layout import layout_of
from sinkscope.observe.p0_stream import one_token_pass
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.reads import Want
from sinkscope.observe.registry import hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import find_sites
from sinkscope.observe.stream import OthersMean, mean_cosine
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model

FAMILIES = [
    "llama", "gemma2", "qwen3", "gpt2", "deepseek_v3", "mixtral", "gpt_neox", "gpt_oss", "olmo2",
    "granite", "qwen3_next", "opt", "starcoder2",
]  # fmt: skip


def observed(family, rows=4, length=40):
    subject = Subject.from_model(tiny_model(family))
    ids = torch.randint(3, 100, (rows, length), generator=torch.Generator().manual_seed(1))
    prompts = token_prompts(ids)
    sites = find_sites(subject, prompts)
    return subject, sites, Observed(subject, sites, prompts, 0, stats=True).run()


def some_direction(subject, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(subject.anatomy.hidden_size, generator=generator)
    return u / u.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sink_logit_is_the_sum_of_its_parts(family):
    subject, sites, seen = observed(family)
    queries, scales = queries_of(seen)
    heads = [(block, head) for block in queries for head in range(queries[block].shape[1])]
    first = seen.prompts.input_ids[:, 0]
    logits = sink_logits(subject, sites, first, heads, queries, scales)
    assert logits.error < 1e-4
    # and the logit itself is the one of the pass over the prompts, where late queries see P0
    measured = torch.stack([torch.cat(seen.heads[b].logit)[:, h] for b, h in heads], 1)
    capped = [seen.heads[b].softcap is not None for b, _ in heads]
    known = measured.isfinite() & ~torch.tensor(capped)
    torch.testing.assert_close(logits.value[known], measured[known], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", [*FAMILIES, "bloom", "falcon", "nemotron_h"])
def test_writes_add_up_to_the_stream_and_units_to_the_writes(family):
    subject, sites, seen = observed(family)
    first, u = seen.prompts.input_ids[:, 0], some_direction(subject)
    writes = written_along(subject, sites, first, lambda block: u, len(sites.blocks))
    stream = float((p0_points(subject, sites, first)[:, -1] @ u).mean())
    assert writes.embedding + sum(writes.total.values()) == pytest.approx(stream, abs=1e-4)
    assert set(writes.units) == set(writes.total)
    assert writes.error < 1e-4


def test_units_are_sorted_by_kind_and_block():
    units = [Unit(2, NEURON, 7), Unit(0, HEAD, 3), Unit(1, NEURON, 5), Unit(1, NEURON, 4)]
    assert of_kind(units, NEURON) == [units[0], *units[2:]]
    assert list(by_block(units, NEURON).items()) == [(1, [5, 4]), (2, [7])]
    assert by_block(units, EXPERT) == {}
    assert sorted(units) == [units[1], units[3], units[2], units[0]]
    assert units[0].place == (2, 7)


def test_neuron_and_head_writes_against_hand_computed_ones():
    """Llama, no norm behind a sublayer: a neuron writes its activation times its column."""
    subject, sites, seen = observed("llama")
    first, u = seen.prompts.input_ids[:, 0], some_direction(subject)
    writes = written_along(subject, sites, first, lambda block: u, 4)
    block = subject.model.model.layers[1]
    inputs = {}
    handles = [
        module.register_forward_pre_hook(lambda m, a, name=name: inputs.update({name: a[0]}))
        for name, module in (("mlp", block.mlp.down_proj), ("attn", block.self_attn.o_proj))
    ]
    with torch.no_grad():
        subject.model(input_ids=first.unsqueeze(1))
    for handle in handles:
        handle.remove()
    neurons = inputs["mlp"][:, 0].mean(0) * (u @ block.mlp.down_proj.weight)
    torch.testing.assert_close(writes.units["1.mlp"], neurons.detach(), atol=1e-6, rtol=1e-4)
    channels = inputs["attn"][:, 0].mean(0) * (u @ block.self_attn.o_proj.weight)
    expected = channels.detach().reshape(4, -1).sum(1)
    heads = writes.units["1.attention"].reshape(4, -1).sum(1)
    torch.testing.assert_close(heads, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_expert_neurons_against_switching_them_off(family):
    subject, sites, seen = observed(family)
    first, u = seen.prompts.input_ids[:, 0], some_direction(subject)
    writes = written_along(subject, sites, first, lambda block: u, 4)
    projection = sites.mlp(2).projection
    weight = projection.weight(subject.anatomy.modules(subject.model)[2])
    expert, neuron = divmod(int(writes.units["2.mlp"].abs().argmax()), 96)
    with torch.no_grad():
        saved = weight.clone()
        if projection.layout == "expert_out_in":
            weight[expert, :, neuron] = 0
        else:
            weight[expert, neuron] = 0
        without = written_along(subject, sites, first, lambda block: u, 4)
        weight.copy_(saved)
    missing = writes.total["2.mlp"] - without.total["2.mlp"]
    assert float(writes.units["2.mlp"][expert, neuron]) == pytest.approx(missing, abs=1e-5)


def test_a_direction_for_each_token():
    subject, sites, seen = observed("llama")
    first = seen.prompts.input_ids[:, 0]
    rows = torch.stack([some_direction(subject, seed) for seed in range(len(first))])
    writes = written_along(subject, sites, first, lambda block: rows, 4)
    states = p0_points(subject, sites, first)[:, -1]
    total = writes.embedding + sum(writes.total.values())
    assert total == pytest.approx(float((states * rows).sum(-1).mean()), abs=1e-4)


def test_margins_and_unmixedness_against_whole_maps():
    subject, _, seen = observed("llama")
    scores = []

    def inspect(call, read):
        k = call.scores.expand(call.scores.k)
        chunk, _ = call.scores.chunk(0, 40, k)
        scores.append(chunk)

    reads, _, _ = observe(subject, seen.prompts, Want(maps=True, inspect=(inspect,)))
    maps = [read.map for read in reads]
    for block, head in seen.heads.items():
        late = scores[block][:, :, 20:]
        logit = late[..., 0].mean(-1)
        others = torch.logsumexp(late[..., 1:], -1).mean(-1)
        torch.testing.assert_close(torch.cat(head.logit), logit, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.cat(head.others), others, atol=1e-5, rtol=1e-5)
        unmixed = maps[block].square().sum(-1).mean(0).T
        torch.testing.assert_close(head.unmixed / head.counted, unmixed, atol=1e-5, rtol=1e-4)


def test_a_cone_of_values_is_recognised():
    """Values drawn from the cone itself, mixed evenly: the formula must fit."""
    _, _, seen = observed("llama")
    head = seen.heads[0]
    length, size, count = 64, 256, 400
    axis = torch.zeros(size)
    axis[0] = 1.0
    around = torch.randn(count, length, size, generator=torch.Generator().manual_seed(0))
    around[..., 0] = 0
    values = 0.6 * axis + 0.8 * around / around.norm(dim=-1, keepdim=True)
    steps = torch.arange(1, length + 1)
    mixed = values.cumsum(1) / steps[:, None]
    head.unmixed = (count / steps)[:, None].expand(-1, 1).clone()
    head.mixed_norm = mixed.square().sum(-1).sum(0)[:, None]
    head.unit_value = values.sum((0, 1))[None]
    head.unit_square = torch.einsum("btd,bte->de", values, values)[None]
    head.unit_values, head.counted = count * length, count
    cone = cones(seen)[0]
    assert cone.axis[0] == pytest.approx(0.6, abs=0.01)
    assert cone.r2[0] > 0.99
    assert cone.isotropy[0] > 0.9


@pytest.mark.parametrize("eps", [1e-5, 1e-197])  # so small that zeros give no number
def test_norms_are_frozen_as_what_they_are(eps):
    rms = torch.nn.RMSNorm(8, eps=eps)
    layer = torch.nn.LayerNorm(8, eps=eps)
    with torch.no_grad():
        for norm in (rms, layer):
            norm.weight.copy_(torch.linspace(0.5, 2, 8))
        layer.bias.copy_(torch.linspace(-1, 1, 8))
    x = torch.randn(3, 8)
    assert not affine_form(rms, x).centred
    form = affine_form(layer, x)
    assert form.centred
    torch.testing.assert_close(form.gain[0], layer.weight.detach(), atol=1e-4, rtol=1e-4)
    for norm in (rms, layer):
        root = torch.nn.Sequential(norm)
        frozen = FrozenNorms([root])
        plain = norm(x).detach()
        with frozen.recording():
            leaf = x.clone().requires_grad_()
            out = root(leaf)
            (gradient,) = torch.autograd.grad(out[:, 3].sum(), leaf)
        torch.testing.assert_close(out.detach(), plain)
        with frozen.replaying():
            at_zero = root(torch.zeros_like(x)).detach()
        linear = (gradient * x).sum(-1) + at_zero[:, 3]
        torch.testing.assert_close(linear, plain[:, 3], atol=1e-5, rtol=1e-5)
        assert not norm._forward_hooks


def test_an_odd_width_layer_norm_is_frozen():
    layer = torch.nn.LayerNorm(7)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, 7))
    form = affine_form(layer, torch.randn(2, 7))
    ratio = form.gain[0] / layer.weight.detach()
    torch.testing.assert_close(ratio / ratio[0], torch.ones(7), atol=1e-3, rtol=1e-3)


def test_what_is_no_norm_is_refused():
    class OddNorm(torch.nn.Module):
        def forward(self, x):
            return torch.tanh(x)

    frozen = FrozenNorms([torch.nn.Sequential(OddNorm())])
    with frozen.recording(), pytest.raises(Unsupported, match="OddNorm"):
        frozen.norms[0](torch.randn(2, 8))


def test_crossings_and_plateaus():
    assert crossing(np.array([0.0, 0.1, 3.0, 3.0]), 3) == 1
    assert crossing(np.array([2.0, 3.0, 3.0]), 2) == -1
    assert crossing(np.array([0.0, 2.0, 0.0, 3.0]), 3) == 2  # it did not stay
    assert longest_run(np.array([1, 0, 1, 1, 0, 1, 1], dtype=bool)) == (2, 3)
    curve = np.log([1.0, 1.1, 40.0, 50.0, 45.0, 2.0])
    found = norm_amplification(curve)
    assert found.plateau == (2, 4)
    assert found.block == 1
    assert norm_amplification(np.log([1.0, 1.4])).block is None
    assert norm_amplification(curve, null=40.0).block is None
    assert norm_amplification(curve, null=2.0).block == 1


def test_concentration_and_step_down():
    writes = np.array([1.0, 7.0, 0.0, 2.0, -9.0])
    assert by_number(concentration(writes)) == {"1": 0.1, "2": 0.8, "3": 0.8, "4": 1.0}
    curve = np.log([1.0, 2.0, 16.0, 16.0, 20.0, 1.5])
    share = by_number(log_norm_share(curve))
    assert share["2"] == pytest.approx(math.log(16) / math.log(20))
    assert step_down(curve, writes, (2, 4))["block"] == 4
    assert step_down(curve, writes, (2, 5)) is None
    assert by_number(concentration(-writes[1:2])) == {}
    assert by_number(log_norm_share(curve[:3])) == {"1": pytest.approx(1 / 4), "2": 1.0}


def states(seed=0, tokens=60, texts=12, each=40, width=24):
    """P0 and other positions that differ in nothing: a vector a token, and noise."""
    generator = torch.Generator().manual_seed(seed)
    code = 3 * torch.randn(tokens, width, generator=generator)
    code[:, 0] = 0
    token = torch.randint(tokens, (texts * each,), generator=generator)
    token[:tokens] = torch.arange(tokens)
    text = torch.arange(texts).repeat_interleave(each)
    others = code[token] + torch.randn(len(token), width, generator=generator)
    p0 = code + torch.randn(tokens, width, generator=generator)
    return p0, others, Rows.grouped(token, text)


def test_each_measure_sees_what_it_is_for_and_nothing_where_nothing_is():
    p0, others, rows = states()
    assert max(separability(p0, others, rows).values()) < 0.7
    longer = separability(10 * p0, others, rows)
    assert longer["norm"] == 1.0
    assert longer["normalised"] < 0.7
    # a shift of one channel, small beside what a token is
    shifted = separability(p0 + 6 * torch.eye(24)[0], others, rows)
    assert min(shifted["raw"], shifted["normalised"]) > 0.99
    assert max(shifted["norm"], shifted["cosine"]) < 0.95
    assert separability(p0, 8 + others, rows)["cosine"] > 0.99
    only = separability(p0, others, rows, probes=False)
    assert np.isnan([only["raw"], only["normalised"]]).all()
    assert only["norm"] == separability(p0, others, rows)["norm"]


def test_rows_are_scored_by_what_shares_no_token_and_no_text_with_them():
    generator = torch.Generator().manual_seed(0)
    token, text = torch.randint(9, (2, 300), generator=generator)
    rows = Rows.grouped(token, text)
    assert rows.folds
    for fit, held in rows.folds:
        assert not set(token[fit].tolist()) & set(token[held].tolist())
        assert not set(text[fit].tolist()) & set(text[held].tolist())
        assert rows.weights(held).tolist() == token[held].bincount(minlength=9).tolist()


def test_auroc_against_all_pairs():
    generator = torch.Generator().manual_seed(0)
    p = torch.randint(6, (40,), generator=generator).float()
    n = torch.randint(5, (70,), generator=generator).float()
    weight = torch.rand(40, generator=generator)
    pairs = (p[:, None] > n).double() + 0.5 * (p[:, None] == n).double()
    expected = (pairs.mean(1) * weight).sum() / weight.sum()
    assert auroc(p, n, weight) == pytest.approx(float(expected), abs=1e-6)


def test_the_recognition_point_is_one_that_stays():
    _, sites, _ = observed("llama")  # x0, 0.attention, x1, .. x4
    apart = np.array([1, 0, 0, 1, 1, 1, 1, 1, 0], dtype=bool)
    assert first_that_stays(apart, sites) == 3
    assert first_that_stays(np.arange(9) > 7, sites) == 8
    assert first_that_stays(np.arange(9) == 4, sites) is None


def test_states_of_both_kinds_are_those_of_the_model_whatever_fits_in_memory(monkeypatch):
    subject, sites, seen = observed("llama", rows=8)
    whole = recognition(subject, sites, seen.prompts, 0)
    assert (whole.positions, whole.texts) == (8 * 39, 8)
    monkeypatch.setattr("sinkscope.circuit.recognition.STATE_BYTES", 1)
    parts = recognition(subject, sites, seen.prompts, 0)
    assert parts.point == whole.point
    for name, curve in whole.curves.items():
        np.testing.assert_allclose(parts.curves[name], curve, atol=1e-6)


def test_mean_cosine_against_all_pairs():
    states = torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(0))
    unit = states / states.norm(dim=-1, keepdim=True)
    for point in range(3):
        gram = unit[:, point] @ unit[:, point].T
        pairs = (gram.sum() - gram.trace()) / 42
        assert mean_cosine(states)[point] == pytest.approx(float(pairs), abs=1e-6)


def test_vocabulary_in_batches_equals_one_by_one(llama, monkeypatch):
    monkeypatch.setattr("sinkscope.circuit.vocabulary.BATCH", 50)
    sites = find_sites(llama, token_prompts(torch.arange(3, 51).reshape(2, 24)))
    u = some_direction(llama)
    scanned = scan_vocabulary(llama, torch.arange(128), 128, u, 2, 0.0, 0.0)
    states = p0_points(llama, sites, torch.arange(128))[:, sites.points.index("x2")]
    np.testing.assert_allclose(scanned.norm, states.norm(dim=-1), rtol=1e-5)
    cosine = (states / states.norm(dim=-1, keepdim=True)) @ u
    np.testing.assert_allclose(scanned.along, cosine, atol=1e-5)
    assert scanned.ratio.value == pytest.approx(float((cosine > 0).float().mean()))
    assert scanned.ratio.low is None  # all of them: nothing was drawn
    ten = torch.arange(10)
    last = scan_vocabulary(llama, ten, 10, u, 4, 0.0, 0.0)  # behind the last block
    states = p0_points(llama, sites, torch.arange(10))[:, -1]
    np.testing.assert_allclose(last.norm, states.norm(dim=-1), rtol=1e-5)


def test_a_large_vocabulary_is_sampled_and_its_share_has_an_interval(llama, monkeypatch):
    monkeypatch.setattr("sinkscope.circuit.vocabulary.LEAST", 40)
    assert len(affordable(128, 100, 4, 2, 0)) == 100  # half a pass of 100 × 4, two blocks an item
    assert affordable(128, 1000, 4, 2, 0).tolist() == list(range(128))
    items = affordable(128, 8, 4, 2, 0)
    assert len(items) == len(items.unique()) == 40
    assert affordable(128, 8, 4, 2, 1).tolist() != items.tolist()
    u = some_direction(llama)
    whole = scan_vocabulary(llama, torch.arange(128), 128, u, 2, 0.0, 0.0)
    drawn = scan_vocabulary(llama, items, 128, u, 2, 0.0, 0.0)
    np.testing.assert_array_equal(drawn.items, items)
    np.testing.assert_allclose(drawn.along, whole.along[items], atol=1e-6)
    assert drawn.of == 128
    assert drawn.ratio.low < drawn.ratio.value < drawn.ratio.high
    assert drawn.ratio.low < whole.ratio.value < drawn.ratio.high


def test_a_pass_stops_where_it_is_told(llama):
    ran = []
    blocks = llama.anatomy.modules(llama.model)

    def taps():
        return [
            b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(blocks)
        ]

    one_token_pass(llama, torch.tensor([3, 4]), taps, stop=2)
    assert ran == [0, 1]
    assert not any(block._forward_pre_hooks for block in blocks)


@pytest.mark.parametrize(
    ("family", "names"), [("llama", {"gate", "up"}), ("gpt2", {"in"}), ("phi3", {"gate", "up"})]
)
def test_input_rows_of_neurons(family, names):
    subject = Subject.from_model(tiny_model(family))
    sites = find_sites(subject, token_prompts(torch.arange(3, 51).reshape(2, 24)))
    block = subject.anatomy.modules(subject.model)[0]
    projection = sites.mlp(0).projection
    maps = input_maps(block, projection)
    assert set(maps) == names
    shape = projection.columns(block).shape
    assert all(rows.shape == shape for _, rows in maps.values())
    if family == "llama":
        assert maps["gate"][0] == "mlp.gate_proj"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_scan_finds_the_same_with_the_mean_that_a_trace_has_read(family):
    """`run` lets the scan take it from the trace's pass, which saves a plain pass."""
    _, _, seen = observed(family)
    alone = scan(seen.subject, prompts=seen.prompts, untrained=False)
    given = scan(seen.subject, prompts=seen.prompts, untrained=False, other_mean=seen.input_mean)
    assert given.to_json() == alone.to_json()
    name = f"scan/{seen.prompts.bos}"
    one, other = (each.data[name].to_dataset() for each in (given, alone))
    xarray.testing.assert_allclose(one, other)
    plain = OthersMean()
    layout = layout_of(seen.prompts, torch.device("cpu"))
    with torch.no_grad(), hooks(residual_hooks(seen.subject, partial(plain.add, layout=layout))()):
        run_model(seen.subject, seen.prompts, logits=False)
    torch.testing.assert_close(seen.input_mean, plain.mean, atol=1e-5, rtol=0)
