"""Detection on models whose answer is known."""

import weakref

import numpy as np
import pytest
import torch

from sinkscope.detect import nulls
from sinkscope.detect.attention import AttentionStats
from sinkscope.detect.heads import BROADCAST, NO_OP, NOT_A_SINK, UNDECIDED, classify, stable_rank
from sinkscope.detect.residual import ResidualStats
from sinkscope.detect.scan import ScanSettings, scan
from sinkscope.errors import InputError
from sinkscope.observe.attention import observe
from sinkscope.observe.late import uniform_late_share
from sinkscope.observe.layout import layout_of
from sinkscope.observe.parity import left_padded, packed, token_prompts
from sinkscope.observe.reads import Want
from sinkscope.observe.residual import residual_hooks
from sinkscope.stats import bootstrap
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model

LENGTH = 64


@pytest.fixture
def rows():
    return torch.randint(3, 100, (6, LENGTH), generator=torch.Generator().manual_seed(2))


def uniform_alpha(length):
    return float((1.0 / np.arange(1, length + 1)).mean())


def uniform_model():
    """A Llama whose queries are zero: every row attends uniformly."""
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
    return Subject.from_model(model, name="uniform")


def gather(subject, prompts, reader="lean"):
    stats = AttentionStats(128)
    reads, layout, _ = observe(subject, prompts, Want(entropy=True), reader)
    stats.add(reads, layout, prompts.input_ids)
    return stats


def test_published_nulls():
    assert uniform_alpha(64) == pytest.approx(0.0741, abs=5e-5)
    assert uniform_late_share(40) == pytest.approx(0.0340, abs=5e-5)


def test_uniform_attention_is_its_own_null(rows):
    stats = gather(uniform_model(), token_prompts(rows))
    received, late = stats.uniform
    assert stats.alpha0 == pytest.approx(uniform_alpha(LENGTH), abs=1e-5)
    assert stats.late == pytest.approx(uniform_late_share(LENGTH), abs=1e-5)
    assert received == pytest.approx(uniform_alpha(LENGTH), abs=1e-6)
    assert late == pytest.approx(uniform_late_share(LENGTH), abs=1e-6)
    entropy = np.log(np.arange(1, LENGTH + 1)).mean()
    assert stats.mean("entropy") == pytest.approx(entropy, abs=1e-4)
    assert stats.mean("elsewhere") == pytest.approx(0.0)


def test_alpha_is_the_published_formula(llama, rows):
    """importance = (A / arange(T, 0, -1)).sum(queries), as in the code of Gu et al."""
    reads, _, _ = observe(llama, token_prompts(rows), Want(maps=True), "exact")
    maps = torch.stack([read.map for read in reads], 1)
    importance = (maps / torch.arange(LENGTH, 0, -1)).sum(-2)
    stats = gather(llama, token_prompts(rows))
    torch.testing.assert_close(torch.tensor(stats.alpha0), importance[..., 0], atol=1e-5, rtol=0)
    curve = importance.mean(0)
    torch.testing.assert_close(torch.tensor(stats.curve), curve, atol=1e-5, rtol=0)
    late = maps[..., LENGTH // 2 :, 0].mean(-1)
    torch.testing.assert_close(torch.tensor(stats.late), late, atol=1e-5, rtol=0)


def test_batches_and_padding_do_not_change_the_figures(llama, rows):
    whole = gather(llama, token_prompts(rows))
    parts = AttentionStats(128)
    for batch in token_prompts(rows).batches(2):
        reads, layout, _ = observe(llama, batch, Want(entropy=True), "lean")
        parts.add(reads, layout, batch.input_ids)
    np.testing.assert_allclose(whole.alpha0, parts.alpha0, atol=1e-6)
    np.testing.assert_allclose(whole.curve, parts.curve, atol=1e-6)
    np.testing.assert_allclose(whole.mean("entropy"), parts.mean("entropy"), rtol=1e-5)
    padded = gather(llama, left_padded(rows, 8))
    alone = gather(llama, token_prompts(rows[3:, 8:]))
    np.testing.assert_allclose(padded.alpha0[3:], alone.alpha0, atol=1e-5)
    np.testing.assert_allclose(padded.late[3:], alone.late, atol=1e-5)


def test_means_over_queries_leave_padding_out(rows):
    subject = Subject.from_model(tiny_model("gpt_oss"), name="learned")
    lengths = torch.tensor([LENGTH, LENGTH // 2])
    mixed = gather(subject, Prompts(rows[:2], lengths, "ids", "without"))
    long, short = (
        gather(subject, token_prompts(rows[row : row + 1, :n]))
        for row, n in enumerate(lengths.tolist())
    )
    for name in ("entropy", "learned"):
        whole = (2 * long.mean(name) + short.mean(name)) / 3
        np.testing.assert_allclose(mixed.mean(name), whole, rtol=1e-4)


def test_every_packed_segment_is_a_sample(llama, rows):
    stats = gather(llama, packed(rows))
    assert stats.alpha0.shape[0] == 12
    first = gather(llama, token_prompts(rows[:, : LENGTH // 2]))
    second = gather(llama, token_prompts(rows[:, LENGTH // 2 :]))
    np.testing.assert_allclose(stats.late[::2], first.late, atol=1e-5)
    np.testing.assert_allclose(stats.late[1::2], second.late, atol=1e-5)


def test_windowed_layers_have_no_late_share(rows):
    stats = gather(Subject.from_model(tiny_model("mistral")), token_prompts(rows))
    assert np.isnan(stats.late).all()
    assert np.isfinite(stats.alpha0).all()


def test_elsewhere_finds_a_sink_that_is_not_at_p0(llama, rows):
    """One token is made a sink by moving all attention to it through the mask."""
    reads, layout, _ = observe(llama, token_prompts(rows), Want(), "lean")
    for read in reads:
        read.received = torch.zeros_like(read.received)
        read.received[:, :, 5] = 0.9 * read.visible.seen_by[:, None, 5]
    stats = AttentionStats(128)
    stats.add(reads, layout, rows)
    assert set(np.flatnonzero(stats.token_hits)) == set(rows[:, 5].tolist())
    assert stats.token_hits.sum() == 6 * 4 * 4
    assert stats.mean("elsewhere") == pytest.approx(0.9 * (LENGTH - 5) / LENGTH, abs=1e-5)
    found = stats.delimiters(None)
    assert found[0]["received"] == pytest.approx(0.9, abs=1e-5)


def test_residual_figures_by_direct_measurement(llama, rows):
    prompts = token_prompts(rows)
    layout = layout_of(prompts, llama.device)
    stats = ResidualStats(5, 64)
    stats.begin(layout)
    states = {}

    def consume(point, hidden):
        states[point] = hidden.clone()
        if point == 3:  # a massive activation planted in channel 7 of P0
            hidden = hidden.clone()
            hidden[:, 0, 7] = 5000.0
        stats.consume(point, hidden)

    observe(llama, prompts, Want(received=False), "lean", residual_hooks(llama, consume))
    norms = states[1].norm(dim=-1)
    want = norms[:, 0] / norms[:, 1:].median(1).values
    np.testing.assert_allclose(stats.norm_ratio[:, 1], want.numpy(), rtol=0.02)
    ids, values = stats.channels
    assert ids[3, 0] == 7
    assert values[3, 0] == pytest.approx(5000)
    assert stats.rule["rule_met"]
    assert stats.rule["point"] == 3
    assert stats.massive[0][3] > 1000
    assert stats.massive[1][3] < 100


def test_lifetimes_of_aligned_tokens():
    direction = torch.zeros(4, 8)
    direction[:, 0] = 1.0
    stats = ResidualStats(4, 8, direction)
    prompts = token_prompts(torch.zeros(1, 6, dtype=torch.long))
    stats.begin(layout_of(prompts, torch.device("cpu")))
    for point in range(4):
        hidden = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(point))
        hidden[..., 0] = 0.0
        hidden[:, 0, 0] = 100.0
        if point in (1, 2):
            hidden[:, 4, 0] = -100.0
        stats.consume(point, hidden)
    assert stats.lifetimes == {(1, 2): 1}
    assert stats.aligned_share.tolist() == [0.0, 0.2, 0.2, 0.0]


def test_stable_rank():
    one = torch.outer(torch.randn(30), torch.randn(8))
    assert stable_rank(one).item() == pytest.approx(1.0)
    assert stable_rank(torch.eye(8)).item() == pytest.approx(8.0)
    assert torch.isnan(stable_rank(torch.zeros(4, 8)))


def test_head_classes():
    late = np.array([[0.9, 0.9, 0.9, 0.1]])
    value = np.array([[0.05, 1.0, 1.0, 0.05]])
    rank = np.array([[3.0, 1.1, 3.0, 1.0]])
    assert classify(late > 0.3, value, rank).tolist() == [[NO_OP, BROADCAST, UNDECIDED, NOT_A_SINK]]


def test_query_bias_part_of_the_sink_logit():
    """Where queries are nothing but their bias, the bias part is the whole logit."""
    model = tiny_model("gpt2")
    attention = model.transformer.h[1].attn.c_attn
    size = model.config.n_embd
    attention.weight.data[:, :size] = 0.0
    from sinkscope.detect.qk import qk_split

    subject = Subject.from_model(model)
    prompts = token_prompts(torch.randint(3, 100, (4, 32)))
    before = attention.bias.clone()
    split = qk_split(subject, prompts)
    np.testing.assert_allclose(split["qk_bias_part"][1], split["qk_logit_p0"][1], rtol=1e-4)
    assert np.isnan(split["qk_rope_part"]).all()
    assert torch.equal(before, attention.bias)
    assert not np.allclose(split["qk_bias_part"][0], split["qk_logit_p0"][0], rtol=1e-2)


def test_rotation_part_of_the_sink_logit(llama):
    from sinkscope.detect.qk import qk_split

    prompts = token_prompts(torch.randint(3, 100, (4, 32)))
    assert np.isnan(qk_split(llama, prompts)["qk_bias_part"]).all()
    assert np.abs(qk_split(llama, prompts)["qk_rope_part"]).max() > 0.01
    still = Subject.from_model(tiny_model("llama"))
    still.model.model.rotary_emb.inv_freq.zero_()
    split = qk_split(still, prompts)
    np.testing.assert_allclose(split["qk_rope_part"], 0.0, atol=1e-5)


@pytest.mark.parametrize(
    "family",
    ["llama", "gpt2", "gpt_oss", "bloom", "qwen3_next", "mistral", "falcon", "gemma3n_text"],
)
def test_scan_runs_on_every_kind_of_family(family):
    subject = Subject.from_model(tiny_model(family), name=family)
    result = scan(subject, n=3, length=24, kind="random", untrained=family == "llama")
    summary = result.summary.scan["without"]
    data = result.data["scan/without"]
    layers = data.sizes["layer"]
    assert data["p0_late"].shape == (3, layers, data.sizes["head"])
    assert ("learned_mass" in data) == (family == "gpt_oss")
    assert ("value_norm_ratio" in data) == (family not in ("bloom", "falcon"))
    assert sum(summary.reader.values()) == layers
    assert summary.sink_rate["0.3"].value is not None
    assert ("untrained_late_share" in summary.null) == (family == "llama")
    if family == "gemma3n_text":
        assert not summary.residual_identity["verified"]
        assert any("Attribution is refused" in note for note in summary.notes)
    assert result.to_json()


def test_one_untrained_copy_is_in_memory_at_a_time(monkeypatch, rows):
    made, alive = [], []

    def watched(subject, seed):
        alive.append(sum(copy() is not None for copy in made))
        fresh = build(subject, seed)
        made.append(weakref.ref(fresh.model.lm_head.weight))
        return fresh

    build = nulls.untrained_copy
    monkeypatch.setattr(nulls, "untrained_copy", watched)
    nulls.untrained(Subject.from_model(tiny_model("llama")), token_prompts(rows), "auto")
    assert alive == [0, 0, 0]


def test_blocks_that_do_not_attend_are_named():
    """mllama's last block is cross-attention to an image, which there is none of."""
    subject = Subject.from_model(tiny_model("mllama"), name="mllama")
    result = scan(subject, n=2, length=24, kind="random", untrained=False)
    assert result.data["scan/without"]["block"].values.tolist() == [0, 1, 2]
    assert any("Blocks [3] made no" in note for note in result.summary.scan["without"].notes)


def test_scan_is_deterministic(llama):
    a, b = (scan(llama, n=3, length=24, kind="random").to_json() for _ in range(2))
    assert a == b


def test_a_model_that_is_spread_out_gives_the_same(folder):
    """Blocks kept on disk and brought in one at a time, as accelerate does for large models."""
    from sinkscope.subject.load import load

    spread = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "disk",
        "model.layers.3": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    settings = ScanSettings(kind="random", n=3, length=24, untrained=False)
    whole = scan(load(folder), settings).data["scan/without"]
    parts = scan(load(folder, device_map=spread), settings).data["scan/without"]
    for name in ("p0_late", "received", "norm_ratio", "qk_logit_p0", "stable_rank"):
        np.testing.assert_allclose(whole[name], parts[name], atol=1e-5, rtol=1e-5)


def test_one_prompt_gives_no_interval(llama):
    result = scan(llama, n=1, length=24, kind="random", untrained=False)
    summary = result.summary.scan["without"]
    assert summary.late_share.low is None
    assert any("One prompt only" in note for note in summary.notes)


def test_a_kind_of_prompts_is_no_prompts(llama):
    with pytest.raises(InputError, match='kind="text"'):
        scan(llama, prompts="random")


def test_settings_are_checked(llama):
    for change in ({"reader": "fast"}, {"bos": "perhaps"}):
        with pytest.raises(InputError):
            scan(llama, ScanSettings(kind="random"), **change)


def test_the_reference_model_sinks_where_it_was_asked_to():
    import json

    import sinkscope
    from sinkscope.subject.folder import bundled_model

    subject = sinkscope.load()
    result = scan(subject, n=12, length=128, untrained=False)
    summary = result.summary.scan["without"]
    assert summary.p0_sink
    assert any("was induced" in note for note in summary.notes)
    asked = json.loads((bundled_model() / "sink_heads.json").read_text())
    found = {(block, head) for block, head, _ in summary.sink_heads}
    assert {tuple(pair) for pair in asked["supervised_heads"]} <= found


def test_bootstrap_interval_covers():
    """95 % intervals of a mean of 40 draws hold the truth in about 95 % of trials."""
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        found = bootstrap(generator.exponential(size=40), seed=trial)
        hits += found.low <= 1.0 <= found.high
    assert 0.87 <= hits / 200 <= 0.99
    assert bootstrap(np.array([np.nan])).value is None
    assert bootstrap(np.array([2.0])).high is None
