"""Variants of the small Llama: their mathematics, what the readers see of them, training."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

import sinkscope
from sinkscope.circuit.observed import Observed
from sinkscope.cli.app import main
from sinkscope.errors import InputError, Unsupported
from sinkscope.lab import train
from sinkscope.lab.data import Data
from sinkscope.lab.metrics import quick_figures
from sinkscope.lab.model import build_model
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.lab.state import save_model
from sinkscope.lab.tokens import bundled_tokenizer, draw_windows
from sinkscope.mixing.conditions import REDISTRIBUTED
from sinkscope.mixing.conditions import run as run_under
from sinkscope.observe.attention import observe
from sinkscope.observe.parity import exact_difference, lean_difference, packed, token_prompts
from sinkscope.observe.reads import Want
from sinkscope.observe.registry import hooks
from sinkscope.observe.sites import find_sites
from sinkscope.observe.tap import SIGMOID
from sinkscope.subject.load import Subject
from sinkscope.subject.variants.configuration import FUSED, KINDS, SinkscopeLabConfig
from sinkscope.subject.variants.modeling import SinkscopeLabForCausalLM

SHAPE = TrainingRecipe(
    vocabulary=100, blocks=2, width=24, heads=3, hidden=24, context=32, init=0.3, tokenizer="own",
    steps=8, warmup=2, tokens_per_step=64, lengths=(16,), learning_rate=1e-2,
)  # fmt: skip
CHANGED = tuple(kind for kind in KINDS if kind != "softmax")
SWITCHES = [*({"attention": kind} for kind in CHANGED), {"force_sink": 5}]
SLOTS = ("softmax-plus-one", "learned-sink", "key-value-bias")
STREAM = torch.randint(2, 100, (2000,), generator=torch.Generator().manual_seed(0))


def model_of(**changes):
    """A variant whose own parameters are not at their start, where some of them do nothing."""
    model = build_model(replace(SHAPE, **changes)).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sink" in name or "head_norm" in name:
                parameter.copy_(torch.randn_like(parameter))
    return model


def subject_of(**changes):
    return Subject.from_model(model_of(**changes))


def data():
    def draw(count, length, generator):
        return draw_windows(STREAM, count, length, generator)

    return Data(bundled_tokenizer(), draw, draw, "of the test")


def name_of(switch):
    return next(iter(switch.values())) if "attention" in switch else "force-sink"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


# mathematics


def rotated(x, position):
    """RoPE of one head's vector: channels i and i + D/2 turned by position / 10000^(2i/D)."""
    half = len(x) // 2
    turned = x.clone()
    for i in range(half):
        angle = torch.tensor(position / 10000 ** (2 * i / len(x)))
        turned[i] = x[i] * angle.cos() - x[i + half] * angle.sin()
        turned[i + half] = x[i + half] * angle.cos() + x[i] * angle.sin()
    return turned


def slow_weights(kind, scores, sink, context):
    """Weights of the visible keys of one query, and of the one more key, from their formulas."""
    e = [math.exp(s) for s in scores]
    if kind == "sigmoid":
        return [1 / (1 + context * math.exp(-s)) for s in scores], 0.0
    more = {"softmax-plus-one": 1.0, "learned-sink": math.exp(sink), "key-value-bias": None}
    extra = more.get(kind, 0.0)
    extra = math.exp(sink) if extra is None else extra
    return [x / (extra + sum(e)) for x in e], extra / (extra + sum(e))


def slow_attention(kind, attention, x, positions):
    """One row x [T, d] of attention by loops over heads, queries and keys."""
    heads, width = SHAPE.heads, SHAPE.width // SHAPE.heads
    out = torch.zeros_like(x)
    mass = torch.zeros(heads, len(x))
    for h in range(heads):
        rows = slice(h * width, (h + 1) * width)
        q, k, v = (p.weight[rows] for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        keys = [rotated(k @ x[j], positions[j]) for j in range(len(x))]
        for t in range(len(x)):
            query = rotated(q @ x[t], positions[t])
            visible = range(t - positions[t], t + 1)  # its own segment, nothing later
            scores = [float(query @ keys[j]) / math.sqrt(width) for j in visible]
            sink, value = 0.0, torch.zeros(width)
            if kind == "learned-sink":
                sink = float(attention.sinks[h])
            if kind == "key-value-bias":
                sink = float(query @ attention.sink_key[rows]) / math.sqrt(width)
                value = attention.sink_value[rows]
            weights, mass[h, t] = slow_weights(kind, scores, sink, SHAPE.context)
            o = sum(w * (v @ x[j]) for w, j in zip(weights, visible, strict=True))
            o = o + mass[h, t] * value
            if kind == "head-norm":
                o = o / (o.square().mean() + 1e-6).sqrt() * attention.head_norm.weight
            if kind == "gated":
                o = o / (1 + torch.exp(-attention.gate.weight[rows] @ x[t]))
            out[t, rows] = o
    return out @ attention.o_proj.weight.T, mass


def attended(model, ids, positions):
    """Inputs and outputs of the first attention in an ordinary pass."""
    kept = []
    module = model.model.layers[0].self_attn
    handle = module.register_forward_hook(
        lambda module, args, kwargs, output: kept.append((kwargs["hidden_states"], output[0])),
        with_kwargs=True,
    )
    with torch.no_grad(), hooks([handle]):
        model(input_ids=ids, position_ids=positions, use_cache=False)
    return module, *kept[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_computes_its_formula(kind, ids):
    model = model_of(attention=kind)
    positions = torch.tensor([*range(7), *range(17)]).expand(2, -1)  # two segments in a row
    module, x, out = attended(model, ids, positions)
    for row in range(2):
        with torch.no_grad():
            expected, _ = slow_attention(kind, module, x[row], positions[row].tolist())
        torch.testing.assert_close(out[row], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_without_a_switch_it_is_llama_to_the_bit(implementation, ids):
    plain = build_model(SHAPE)
    fields = {k: v for k, v in plain.config.to_dict().items() if k != "model_type"}
    model = SinkscopeLabForCausalLM(SinkscopeLabConfig(**fields))
    model.load_state_dict(plain.state_dict())
    assert type(plain) is LlamaForCausalLM
    for one in (plain, model):
        one.set_attn_implementation(implementation)
    positions = torch.tensor([*range(7), *range(17)]).expand(2, -1)
    for inputs in ({}, {"position_ids": positions}):
        assert torch.equal(model(ids, **inputs).logits, plain(ids, **inputs).logits)


def test_force_sink_shares_out_the_channels_before_every_norm_of_a_block(ids):
    model, seen = model_of(force_sink=5), {}
    positions = torch.tensor([*range(7), *range(17)]).expand(2, -1)

    def keep(name):
        return lambda module, args, kwargs, output: seen.update(
            {name: (args[0] if args else kwargs["hidden_states"], output)}
        )

    watched = [f"layers.{b}{part}" for b in range(2) for part in (
        "", ".input_layernorm", ".self_attn", ".post_attention_layernorm", ".mlp")]  # fmt: skip
    handles = [
        model.model.get_submodule(name).register_forward_hook(keep(name), with_kwargs=True)
        for name in [*watched, "norm"]
    ]
    with hooks(handles), torch.no_grad():
        model(ids, position_ids=positions, use_cache=False)

    def masked(x):
        x = x.clone()
        for t, position in enumerate(positions[0].tolist()):
            x[:, t, slice(5, None) if position == 0 else slice(5)] = 0
        return x

    for block in ("layers.0", "layers.1"):
        x, out = seen[block]
        middle = x + seen[f"{block}.self_attn"][1][0]
        assert torch.equal(seen[f"{block}.input_layernorm"][0], masked(x))
        assert torch.equal(seen[f"{block}.post_attention_layernorm"][0], masked(middle))
        assert torch.equal(out, middle + seen[f"{block}.mlp"][1])
    assert torch.equal(seen["norm"][0], seen["layers.1"][1]), "the final norm sees all channels"


@pytest.mark.parametrize("switch", SWITCHES, ids=name_of)
def test_a_cache_gives_the_logits_of_a_whole_pass(switch, ids):
    model = model_of(**switch)
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :9], use_cache=True)
        rest = model(ids[:, 9:], past_key_values=first.past_key_values, use_cache=True).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], 1), whole, atol=1e-4, rtol=1e-4)


def test_fused_attention_is_refused_where_it_would_drop_the_change():
    for kind in CHANGED:
        model = model_of(attention=kind)
        assert model.config._attn_implementation == ("sdpa" if kind in FUSED else "eager")
        if kind not in FUSED:
            with pytest.raises(ValueError, match="does not support"):
                model.set_attn_implementation("sdpa")


# what the readers see


@pytest.mark.parametrize("shape", [token_prompts, packed])
@pytest.mark.parametrize("switch", SWITCHES, ids=name_of)
def test_lean_is_exact_or_hands_over(switch, shape, ids):
    subject = subject_of(**switch)
    parity = lean_difference(subject, shape(ids))
    assert parity.difference < 1e-5
    assert exact_difference(subject, shape(ids)) == 0.0
    handed_over = switch.get("attention") in ("key-value-bias", "sigmoid")
    assert parity.lean_blocks == (0 if handed_over else 2), parity.readers


@pytest.mark.parametrize("reader", ["auto", "exact"])
@pytest.mark.parametrize("kind", SLOTS)
def test_mass_on_a_learned_key_is_read_as_such(kind, reader, ids):
    subject = subject_of(attention=kind)
    module, x, _ = attended(subject.model, ids, None)
    reads, _, _ = observe(subject, token_prompts(ids), Want(maps=True), reader)
    with torch.no_grad():
        _, mass = slow_attention(kind, module, x[0], list(range(24)))
    torch.testing.assert_close(reads[0].learned[0], mass, atol=1e-5, rtol=0)
    torch.testing.assert_close(reads[0].map.sum(-1), 1 - reads[0].learned, atol=1e-5, rtol=0)


@pytest.mark.parametrize("reader", ["auto", "exact"])
def test_sigmoid_rows_are_divided_by_their_sums_and_every_result_says_so(reader, ids):
    subject = subject_of(attention="sigmoid")
    with torch.no_grad():
        raw = subject.model(ids, output_attentions=True).attentions
    assert (raw[0].sum(-1) - 1).abs().min() > 1e-3
    reads, _, _ = observe(subject, token_prompts(ids), Want(maps=True), reader)
    for read, weights in zip(reads, raw, strict=True):
        shares = weights / weights.sum(-1, keepdim=True)
        torch.testing.assert_close(read.map, shares, atol=1e-6, rtol=0)
        torch.testing.assert_close(read.p0, shares[..., 0], atol=1e-6, rtol=0)
        assert (read.reader, read.reason) == ("exact", SIGMOID)
    assert "do not add up to one" in subject.identity["note"]
    assert "note" not in subject_of(attention="gated").identity


def test_trace_counts_the_learned_key_in_unmixedness(ids):
    subject = subject_of(attention="key-value-bias")
    prompts = token_prompts(ids)
    seen = Observed(subject, find_sites(subject, prompts), prompts, 0, stats=False).run()
    with torch.no_grad():
        maps = subject.model(ids, output_attentions=True).attentions
    for block, weights in enumerate(maps):
        expected = weights.square().sum(-1).sum(0).T
        torch.testing.assert_close(seen.heads[block].unmixed, expected, atol=1e-5, rtol=1e-4)


def test_mix_refuses_attention_that_shares_nothing_out(ids):
    subject, prompts = subject_of(attention="sigmoid"), token_prompts(ids)
    with pytest.raises(Unsupported, match="shares nothing out"):
        run_under(subject, prompts, REDISTRIBUTED)


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_training_are_those_of_the_reader(kind):
    subject = subject_of(attention=kind)
    windows = draw_windows(STREAM, 6, 16, torch.Generator().manual_seed(0))
    figures = quick_figures(subject.model, windows, [(1, 2)])
    reads, _, _ = observe(subject, token_prompts(windows[:, :-1]), Want(), "exact")
    late = torch.stack([read.p0[:, :, 8:].mean((0, 2)) for read in reads])
    assert figures["late_share_best_head"] == pytest.approx(late.max().item(), abs=1e-5)
    assert figures["late_share_watched"] == pytest.approx(late[1, 2].item(), abs=1e-5)


# folders


def saved(folder, **changes):
    recipe = replace(SHAPE, vocabulary=2048, **changes)
    model = build_model(recipe)
    with torch.no_grad():
        for parameter in model.parameters():  # folders hold bfloat16
            parameter.copy_(parameter.bfloat16())
    save_model(folder, model, bundled_tokenizer(), recipe)
    return model.eval()


@pytest.mark.parametrize("switch", SWITCHES, ids=name_of)
def test_a_saved_variant_is_loaded_and_scanned(switch, tmp_path, ids, capsys):
    model = saved(tmp_path / "model", **switch)
    subject = sinkscope.load(tmp_path / "model")
    assert type(subject.model) is SinkscopeLabForCausalLM
    assert subject.anatomy.model_type == "sinkscope_lab"
    assert torch.equal(subject.model(ids).logits, model(ids).logits)
    code, out, err = run(
        capsys, "scan", tmp_path / "model", "--length", 16, "--n", 2, "--bos", "without",
        "--no-untrained", "--json", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)["scan"]["without"]
    assert 0 < found["late_share"]["value"] < 1
    assert not any("induced" in note for note in found["notes"]), "nobody asked for a sink"
    assert any("sigmoid" in note for note in found["notes"]) == (
        switch.get("attention") == "sigmoid"
    )


def test_a_folder_is_loaded_where_the_lab_was_never_imported(tmp_path):
    saved(tmp_path / "model", attention="gated")
    code = (
        "import sys, sinkscope; subject = sinkscope.load(sys.argv[1]);"
        "print(type(subject.model).__name__, 'sinkscope.lab.model' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model"], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["SinkscopeLabForCausalLM", "False"]


def test_a_kind_there_is_not_is_refused(tmp_path):
    saved(tmp_path / "model", attention="gated")
    file = tmp_path / "model" / "config.json"
    file.write_text(file.read_text().replace('"gated"', '"magic"'))
    with pytest.raises(InputError, match="'magic' is not one of"):
        sinkscope.load(tmp_path / "model")


# training


def test_every_variant_begins_with_the_weights_of_the_plain_model():
    plain = build_model(SHAPE).state_dict()
    for switch in SWITCHES:
        variant = build_model(replace(SHAPE, **switch)).state_dict()
        assert all(torch.equal(variant[name], plain[name]) for name in plain), switch
    ids = STREAM[:48].view(2, 24)
    one, *others = (build_model(replace(SHAPE, attention=kind))(ids).logits for kind in SLOTS)
    for other in others:
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("packing", ["windows", "paragraphs"])
def test_tnlm_takes_no_loss_on_what_is_predicted_from_position_zero(packing):
    recipe = replace(SHAPE, first_loss=False, packing=packing, steps=1)
    training = train.begin(recipe, data())
    batch = training.data.batch(recipe, torch.Generator().manual_seed(recipe.seed))
    if packing == "paragraphs":
        batch[:, [4, 9]] = eos = training.data.tokenizer.eos_token_id
        training.data.draw = lambda *args: batch
    inputs = train.model_inputs(batch[:, :-1], training)
    with torch.no_grad():
        logits = training.model(**inputs, use_cache=False).logits.double()
    losses = []
    for row in range(len(batch)):
        for t in range(batch.shape[1] - 1):
            first = t == 0 or (packing == "paragraphs" and batch[row, t - 1] == eos)
            if not first:
                losses.append(-logits[row, t].log_softmax(-1)[batch[row, t + 1]].item())
    rows = []
    train.fit(training, rows.append)
    assert len(losses) == 4 * (15 if packing == "windows" else 13)
    assert rows[1]["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)


@pytest.mark.parametrize("kind", CHANGED)
def test_what_a_variant_adds_is_trained_and_biases_are_not_decayed(kind):
    training = train.begin(replace(SHAPE, attention=kind), data())
    plain = build_model(SHAPE).state_dict()
    added = {n: p for n, p in training.model.named_parameters() if n not in plain}
    before = {n: p.detach().clone() for n, p in added.items()}
    train.fit(training)
    assert bool(added) == (kind not in ("softmax-plus-one", "sigmoid"))
    assert all(not torch.equal(p, before[n]) for n, p in added.items())
    decayed = {id(p) for p in training.optimizer.param_groups[0]["params"]}
    assert all((id(p) in decayed) == ("gate" in n) for n, p in added.items())


@pytest.mark.parametrize("switch", [{"attention": "key-value-bias"}, {"force_sink": 5}])
def test_a_variant_cut_short_ends_with_the_weights_of_a_whole_run(switch, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY", 3)
    recipe = replace(SHAPE, first_loss=False, **switch)
    whole = train.train(recipe, data(), tmp_path / "whole")

    def stop(row):
        if row["step"] == 5:
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="power"):
        train.train(recipe, data(), tmp_path / "cut", log=stop)
    resumed = train.train(recipe, data(), tmp_path / "cut", resume=True)
    pairs = zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
