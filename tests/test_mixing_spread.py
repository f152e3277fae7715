"""Perturbation spread: pairs, what is measured, and the constructed pair with its sink cut."""

import json

import numpy as np
import pytest
import torch

from sinkscope.circuit.reading import sinks_on
from sinkscope.errors import InputError
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.mixing.conditions import (
    REDISTRIBUTED,
    earlier_keys,
    in_heads,
    other_key,
)
from sinkscope.mixing.pairs import read_paraphrases, swapped
from sinkscope.mixing.perturbation import perturb
from sinkscope.observe.parity import token_prompts
from sinkscope.stats import bootstrap
from sinkscope.subject.load import Subject, load
from sinkscope.subject.prompts import build_prompts


def test_swaps_keep_length_and_differ_at_one_place(llama, ids):
    prompts = token_prompts(ids)
    pairs = swapped(llama, prompts, seed=3)
    assert pairs.variants.shape == (2, 2, 24)
    for row in range(2):
        i = int(pairs.last[row])
        assert 3 <= i < 12
        for kind in range(2):
            differ = (pairs.variants[row, kind] != prompts.input_ids[row]).nonzero().flatten()
            assert differ.tolist() == [i]
    weight = torch.nn.functional.normalize(llama.model.get_input_embeddings().weight, dim=1)
    tokens = prompts.input_ids[torch.arange(2), pairs.last]
    cosines = weight[tokens] @ weight.T
    cosines[torch.arange(2), tokens] = -1
    assert pairs.variants[torch.arange(2), 0, pairs.last].tolist() == cosines.argmax(1).tolist()


def test_spread_is_the_change_of_hidden_states(llama, ids):
    prompts = token_prompts(ids)
    pairs = swapped(llama, prompts)
    found = perturb(llama, pairs)
    with torch.no_grad():
        a, b = (
            llama.model(input_ids=x, output_hidden_states=True, use_cache=False).hidden_states
            for x in (ids, pairs.variants[:, 1])
        )
    for point in range(4):  # the last hidden state of transformers lies behind the final norm
        wanted = (a[point] - b[point]).norm(dim=-1) / a[point].norm(dim=-1)
        for row in range(2):
            i = int(pairs.last[row])
            got = found.change[row, 1, point]
            assert np.isnan(got[: i + 1]).all()
            np.testing.assert_allclose(got[i + 1 :], wanted[row, i + 1 :], rtol=1e-4, atol=1e-6)
            assert found.at_edit[row, 1, point] == pytest.approx(float(wanted[row, i]), rel=1e-4)
    assert found.curves[:, :, 0].max() == 0  # embeddings of later tokens are the same
    assert (found.final > 0).all()


def test_offsets_line_up_edits_at_different_places(llama, ids):
    found = perturb(llama, swapped(llama, token_prompts(ids)))
    first = np.mean([found.change[row, :, :, found.last[row] + 1] for row in range(2)], axis=0)
    np.testing.assert_allclose(found.by_offset()[:, :, 0], first, rtol=1e-5)


def test_paraphrases_from_a_file(folder, tmp_path):
    subject = load(folder)
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"text": "the sink of head zero", "paraphrase": "the token of head zero"},
        {"text": "the sink of head zero", "paraphrase": "the sink of head"},
        {"text": "a sink", "paraphrase": "a token"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pairs = read_paraphrases(subject, str(file), bos="without")
    assert (len(pairs), pairs.skipped, pairs.kinds) == (1, 2, ("paraphrase",))
    assert int(pairs.first[0]) == int(pairs.last[0]) == 1
    assert perturb(subject, pairs).final[0] > 0
    file.write_text(json.dumps({"text": 3}), encoding="utf-8")
    with pytest.raises(InputError, match='line 1, has no "text" and "paraphrase"'):
        read_paraphrases(subject, str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_paraphrases(subject, str(file))
    file.write_text(json.dumps({"text": "a \ud800", "paraphrase": "b"}), encoding="utf-8")
    with pytest.raises(InputError, match="half a character"):
        read_paraphrases(subject, str(file))


def constructed(seed: int, **overrides):
    spec = draw_spec("p0-two-block", seed=seed, **overrides)
    model, tokenizer, truth = build_in_memory(spec)
    return Subject.from_model(model, tokenizer, name="p0-two-block"), truth


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_heads_that_carry_tokens_mix_once_their_sink_is_gone_and_others_do_not(family):
    """The constructed pair: readers that pass on what they read, and readers that carry nothing."""
    for carry in (1.0, 0.0):
        subject, truth = constructed(7, family=family, carry=carry, noise=0.0)
        prompts = build_prompts(subject, n=16, length=64, kind="random")
        pairs = swapped(subject, prompts)
        keys = earlier_keys(prompts, pairs.first)
        intact = perturb(subject, pairs)
        heads = tuple(sinks_on(subject, prompts).heads)
        assert {tuple(head) for head in truth.reading_heads} == set(heads)
        cut = perturb(subject, pairs, in_heads(REDISTRIBUTED, heads))
        control = perturb(subject, pairs, in_heads(other_key(keys), heads))
        more = bootstrap(cut.final - intact.final)
        same = bootstrap(control.final - intact.final)
        if carry:
            assert more.low > 0.05 * intact.final.mean()
            assert abs(same.value) < 1e-2 * more.value
        else:
            assert more.value == same.value == 0
        assert cut.removed.max() > 0.9 > 0.1 > control.removed.max()
