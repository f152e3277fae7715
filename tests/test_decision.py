"""Where a model sinks: attention maps made by hand, each with its answer."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch

from sinkscope.causal.power import SEEN
from sinkscope.causal.verdict import without_p0_sink
from sinkscope.detect.attention import AttentionStats, read_attention
from sinkscope.detect.decision import beside_p0, sinks_of
from sinkscope.detect.nulls import random_target_p99
from sinkscope.detect.token_mass import TokenMass
from sinkscope.known.constructed.build import build_in_memory
from sinkscope.known.constructed.spec import draw_spec
from sinkscope.observe.layout import layout_of
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.reads import Want, read_map
from sinkscope.stats import nan_mean
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import build_prompts
from sinkscope.subject.tiny import tiny_model

N, LAYERS, HEADS, LENGTH = 12, 4, 6, 64


def uniform_maps(length=LENGTH, prompts=N, layers=LAYERS, heads=HEADS):
    """[prompt, layer, head, query, key]."""
    rows = torch.ones(length, length).tril() / torch.arange(1.0, length + 1).unsqueeze(1)
    return rows.expand(prompts, layers, heads, -1, -1).clone()


def put(maps, shares, where=...):
    """Give keys a share of every query behind them; the others keep the rest evenly."""
    total = sum(shares.values())
    after = max(shares) + 1
    chosen = maps[where]
    chosen[..., after:, :] *= 1 - total
    for key, share in shares.items():
        chosen[..., after:, key] += share
    maps[where] = chosen
    return maps


def random_ids(length=LENGTH, prompts=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 400, (prompts, length), generator=generator)


def stats_of(maps, ids=None, mask=None):
    ids = random_ids(maps.shape[-1], len(maps)) if ids is None else ids
    prompts = token_prompts(ids)
    layout = layout_of(prompts, torch.device("cpu"))
    visible = layout.visibility(mask)
    reads = [
        read_map(maps[:, layer], layout, visible, Want(), layer, "exact", "")
        for layer in range(maps.shape[1])
    ]
    stats = AttentionStats(400, prompts)
    stats.add(reads, layout, ids)
    return stats


def found(maps, **rest):
    return sinks_of(stats_of(maps, **rest))


def test_even_attention_is_no_sink():
    answer = found(uniform_maps())
    assert answer.kind == "none"
    assert answer.of == LAYERS * HEADS
    assert without_p0_sink(answer, 16).verdict == "none"


def test_a_sink_at_position_zero():
    answer = found(put(uniform_maps(), {0: 0.5}, np.s_[:, 2:]))
    assert answer.at_p0
    assert answer.words == ()
    assert answer.positions == (0,)
    assert answer.prompts.all()
    assert answer.heads.sum(1).tolist() == [0, 0, HEADS, HEADS]


def test_other_heads_sink_elsewhere_beside_position_zero():
    """Heads 0 and 1 sink at P0, 1 and 2 at position 3, 3 at a token, the others nowhere."""
    ids = random_ids()
    ids[:, 5::9] = 7
    maps = put(uniform_maps(), {0: 0.5}, np.s_[:, 2:, 0])
    maps = put(maps, {0: 0.4, 3: 0.4}, np.s_[:, 2:, 1])
    maps = put(maps, {3: 0.6}, np.s_[:, 2:, 2])
    maps = put(maps, {0: 0.2, 1: 0.2}, np.s_[:, 2:, 4])
    seen = (ids == 7)[:, None, None, :].float().expand(-1, LAYERS, LENGTH, -1).tril()
    count = seen.sum(-1, keepdim=True)
    maps[:, :, 3] = torch.where(count > 0, 0.8 * seen / count + 0.2 * maps[:, :, 3], maps[:, :, 3])
    stats = stats_of(maps, ids)
    sinks = sinks_of(stats)
    assert sinks.heads.sum() == 4
    positions, tokens = beside_p0(stats, sinks)
    assert (positions.kind, positions.places) == ("positions", (3,))
    assert np.argwhere(positions.heads).tolist() == [[2, 2], [3, 2]]
    assert (tokens.kind, tokens.places) == ("tokens", (7,))
    assert np.argwhere(tokens.heads).tolist() == [[layer, 3] for layer in range(LAYERS)]
    assert beside_p0(stats_of(uniform_maps()), found(uniform_maps())) == []


def test_all_mass_on_position_one():
    answer = found(put(uniform_maps(), {1: 0.95}))
    assert answer.kind == "positions"
    assert answer.positions == (1,)
    assert not answer.heads.any()
    assert answer.elsewhere.all()
    verdict = without_p0_sink(answer, 16)
    assert verdict.verdict == "other"
    assert verdict.detail["positions"] == [1]
    assert "attention at position 1, whatever" in verdict.because


@pytest.mark.parametrize("length", [64, 256])
@pytest.mark.parametrize(
    "shares", [dict.fromkeys(range(4), 0.24), {0: 0.47, 1: 0.53}, dict.fromkeys(range(8), 0.12)]
)
def test_position_zero_with_others(shares, length):
    answer = found(put(uniform_maps(length, 4, 2, 2), shares))
    assert answer.at_p0
    assert answer.positions == tuple(shares)


def test_mass_spread_over_positions_none_of_which_sinks_alone():
    shares = dict.fromkeys(range(2, 10), 0.08)
    answer = found(put(uniform_maps(128, 4, 2, 2), shares))
    assert answer.kind == "positions"
    assert answer.positions == tuple(shares)


def test_one_head_of_many():
    answer = found(put(uniform_maps(LENGTH, 4, 12, 16), {0: 0.99}, np.s_[:, 3, 7]))
    assert answer.at_p0
    assert answer.words == ("few heads",)
    assert np.argwhere(answer.heads).tolist() == [[3, 7]]


@pytest.mark.parametrize(("share", "length", "sinks"), [(0.25, 256, True), (0.06, 64, False)])
def test_a_weak_sink_in_most_heads(share, length, sinks):
    answer = found(put(uniform_maps(length, 4), {0: share}, np.s_[:, 1:]))
    assert answer.at_p0 == sinks
    assert answer.words == (("weak",) if sinks else ())


@pytest.mark.parametrize("every", [2, 4])
def test_a_sink_in_part_of_the_prompts(every):
    answer = found(put(uniform_maps(), {0: 0.9}, np.s_[::every, 1, 2]))
    assert answer.at_p0
    assert "part of the prompts" in answer.words
    assert np.flatnonzero(answer.prompts).tolist() == list(range(0, N, every))


@pytest.mark.parametrize("beside", [False, True])
def test_a_sink_in_one_prompt_of_sixteen(beside):
    """Several heads at P0, and no key else: one prompt is enough to say so, not to test it."""
    maps = put(uniform_maps(prompts=16), {0: 0.9}, np.s_[5, 1, 2:5])
    if beside:
        put(maps, {7: 0.9}, np.s_[9, 2, 2:4])
    answer = found(maps)
    assert answer.kind == ("none" if beside else "p0")
    if not beside:
        assert "part of the prompts" in answer.words
        assert np.flatnonzero(answer.prompts).tolist() == [5]
        assert np.argwhere(answer.heads).tolist() == [[1, 2], [1, 3], [1, 4]]


@pytest.mark.parametrize(("prompts", "verdict"), [(SEEN - 1, "undetermined"), (SEEN, "none")])
def test_a_few_prompts_do_not_show_that_there_is_no_sink(prompts, verdict):
    answer = without_p0_sink(found(uniform_maps(prompts=prompts)), prompts)
    assert answer.verdict == verdict
    assert ("take 45 prompts" in str(answer.missing)) == (verdict == "undetermined")


@pytest.mark.parametrize("share", [0.5, 0.08])
def test_a_late_position_that_shares_the_sink_is_named(share):
    maps = put(uniform_maps(), {0: 0.9})
    maps[..., 40:, :] *= 1 - share
    maps[..., 40:, 40] += share
    assert found(maps).positions == ((0, 40) if share == 0.5 else (0,))


def test_one_prompt_of_many_is_no_sink():
    """In each prompt each head has a key of its own, which now and then is position zero."""
    maps = uniform_maps()
    generator = np.random.default_rng(0)
    for row, layer, head in np.ndindex(N, LAYERS, HEADS):
        put(maps, {int(generator.integers(LENGTH // 2)): 0.9}, np.s_[row, layer, head])
    put(maps, {0: 0.9}, np.s_[0, 0, 0])
    assert found(maps).kind == "none"


def test_position_zero_out_of_sight():
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril().triu(-7)[None, None]
    rows = mask[0, 0].float()
    maps = (rows / rows.sum(1, keepdim=True)).expand(N, LAYERS, HEADS, -1, -1)
    answer = found(maps, mask=mask)
    assert answer.kind == "not visible"
    assert answer.of == 0
    assert without_p0_sink(answer, 16).verdict == "undetermined"


def token_maps(ids, token, share=0.9):
    """Every head puts a share on the last such token that a query sees."""
    maps = uniform_maps(ids.shape[1], len(ids), 1, 2)
    for row, query in np.ndindex(*ids.shape):
        seen = (ids[row, 1 : query + 1] == token).nonzero().flatten()
        if len(seen):
            maps[row, :, :, query] *= 1 - share
            maps[row, :, :, query, 1 + int(seen[-1])] += share
    return maps


def test_a_sink_at_tokens():
    ids = random_ids()
    ids[:, 5::7] = 1
    answer = found(token_maps(ids, 1), ids=ids)
    assert answer.kind in ("tokens", "positions")
    ids = random_ids()
    for row in range(N):  # at other places in every prompt
        ids[row, 2 + row :: 9] = 1
    answer = found(token_maps(ids, 1), ids=ids)
    assert answer.kind == "tokens"
    assert answer.tokens == (1,)
    assert without_p0_sink(answer, 16).detail["tokens"] == [1]


def test_tokens_are_judged_on_prompts_that_did_not_choose_them():
    """Each half of the prompts has its own token; neither is a sink in the other."""
    ids = random_ids()
    for row in range(N):
        ids[row, 2 + row :: 9], ids[row, 3 + row :: 9] = 1, 2
    maps = token_maps(ids, 1)
    maps[1::2] = token_maps(ids, 2)[1::2]
    assert found(maps, ids=ids).kind == "none"


def test_a_token_sink_is_held_against_the_queries_that_can_see_it():
    ids = torch.tensor([[7, 1, 2, 9, 1, 2], [7, 1, 2, 1, 1, 9], [7, 1, 2, 1, 2, 1]])
    mass = TokenMass(token_prompts(ids.repeat_interleave(2, 0)))
    nine, two = mass.tokens == 9, mass.tokens == 2
    for half in (0, 1):
        assert mass.seen(nine, half) == pytest.approx((3 + 1 + 0) / 9)  # late queries: 3, 4, 5
        assert mass.seen(two, half) == 1
        assert mass.seen(nine | two, half) == 1
        assert mass.seen(mass.tokens == 7, half) == 0  # it stands at P0 only


@functools.cache
def delimiter_model():
    model, tokenizer, _ = build_in_memory(draw_spec("delimiter", 7, noise=0.05))
    return Subject.from_model(model, tokenizer, "delimiter")


def test_delimiters_that_few_rows_hold_are_still_a_sink():
    """Half of the rows have no delimiter, so the heads put under a half on them over all rows."""
    prompts = build_prompts(delimiter_model(), n=16, length=64, bos="without")
    sinks = sinks_of(read_attention(delimiter_model(), prompts, tokens=True))
    assert sinks.kind == "tokens"
    rows = prompts.input_ids.clone()
    for token in sinks.tokens:
        rows[::4][rows[::4] == token] = int(rows[0, 1])
        rows[1::4][rows[1::4] == token] = int(rows[0, 1])
    thinned = dataclasses.replace(prompts, input_ids=rows)
    stats = read_attention(delimiter_model(), thinned, tokens=True)
    assert stats.tokens.shares()[0].max() < 0.9
    assert sinks_of(stats).kind == "tokens"


# --- the null of random keys ---


def exceedance(stats):
    return (nan_mean(stats.late) > random_target_p99(stats)).mean()


@pytest.mark.parametrize("length", [8, 16, 64, 128])
def test_no_head_exceeds_random_keys_under_even_attention(length):
    assert exceedance(stats_of(uniform_maps(length))) == 0


@pytest.mark.parametrize("length", [8, 16, 64])
def test_one_head_in_a_hundred_exceeds_random_keys_under_shuffled_attention(length):
    """Each row of a peaked map is shuffled among the keys that it sees."""
    generator = torch.Generator().manual_seed(length)
    scores = 2 * torch.randn(4, 20, 100, length, length, generator=generator)
    hidden = ~torch.ones(length, length, dtype=torch.bool).tril()
    maps = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    assert 0.003 < exceedance(stats_of(maps)) < 0.022


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_few_heads_exceed_random_keys_untrained(family):
    shares = [
        exceedance(read_attention(Subject.from_model(tiny_model(family, seed)), rows))
        for seed, rows in enumerate(token_prompts(random_ids(64, 8, s) % 90 + 3) for s in range(12))
    ]
    assert np.mean(shares) < 0.03
