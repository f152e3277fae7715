"""Short and rounded caches against plain re-implementations, token by token."""

from __future__ import annotations

import pytest
import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import RoundCache, RoundInputs, RoundWeights, SlidingCache
from sinkscope.intervene.rounding import rounded
from sinkscope.mixing.conditions import Condition, run
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, from_rows
from sinkscope.subject.tiny import tiny_model
from tests.plain_reference import streamed

LENGTH = 40


def rows_of(subject: Subject, n: int = 2) -> Prompts:
    generator = torch.Generator().manual_seed(3)
    vocabulary = subject.model.get_input_embeddings().weight.shape[0]
    rows = torch.randint(vocabulary, (n, LENGTH), generator=generator).tolist()
    return from_rows(subject, rows, "ids", "without")


@pytest.fixture(scope="module")
def llama() -> Subject:
    return Subject.from_model(tiny_model("llama"))


def logits(subject: Subject, prompts: Prompts, *edits) -> torch.Tensor:
    found = run(subject, prompts, Condition("edited", tuple(edits)), logits=True).logits
    assert found is not None
    return found


FAMILIES = ("llama", "gpt_neox", "qwen3", "mixtral", "cohere", "phi3", "olmo2", "glm", "stablelm")


@pytest.mark.parametrize(
    ("family", "window", "keep"),
    [(family, 12, 3) for family in FAMILIES]
    + [("llama", *each) for each in ((12, 0), (12, 1), (5, 4), (40, 4))],
)
def test_one_pass_is_what_a_server_gives_token_by_token(family, window, keep):
    subject = Subject.from_model(tiny_model(family))
    prompts = rows_of(subject)
    edited = logits(subject, prompts, SlidingCache(window, keep))
    with torch.no_grad():
        for row, ids in zip(edited, prompts.input_ids, strict=True):
            torch.testing.assert_close(row, streamed(subject, ids, window, keep), atol=1e-4, rtol=0)


def test_tokens_in_the_middle_that_are_kept_are_as_a_server_keeps_them(llama):
    prompts = rows_of(llama, 3)
    extra = ((6,), (17, 20), ())
    edited = logits(llama, prompts, SlidingCache(12, 2, extra=extra))
    with torch.no_grad():
        for row, ids, kept in zip(edited, prompts.input_ids, extra, strict=True):
            torch.testing.assert_close(row, streamed(llama, ids, 12, 2, kept), atol=1e-4, rtol=0)


def test_only_the_named_heads_have_a_short_cache(llama):
    prompts = rows_of(llama)
    count = llama.model.config.num_key_value_heads
    every = tuple((b, h) for b in range(len(llama.anatomy.blocks)) for h in range(count))
    whole = logits(llama, prompts, SlidingCache(12, 2))
    torch.testing.assert_close(logits(llama, prompts, SlidingCache(12, 2, every)), whole)
    one = logits(llama, prompts, SlidingCache(12, 2, every[:1]))
    assert not torch.allclose(one, whole, atol=1e-3)
    assert not torch.allclose(one, logits(llama, prompts), atol=1e-6)


def test_positions_that_are_not_rotary_are_refused():
    gpt2 = Subject.from_model(tiny_model("gpt2"))
    with pytest.raises(Unsupported, match="no rotary positions"):
        logits(gpt2, rows_of(gpt2), SlidingCache(12, 2))
    with pytest.raises(InputError, match="cannot keep"):
        SlidingCache(4, 4)


def test_rounding_by_hand():
    x = torch.tensor([[[[1.0, 0.5], [100.0, 3.0], [2.0, -0.9]]]])
    assert rounded(x, 8, "token")[0, 0, 1].tolist() == pytest.approx([100.0, 3.149606])
    alone = rounded(x, 8, "tensor", exact=(1,))
    assert alone[0, 0, 1].tolist() == [100.0, 3.0]
    step = 2.0 / 127
    assert alone[0, 0, 2].tolist() == pytest.approx([2.0, round(-0.9 / step) * step])
    # with the outlier in, everything else is lost in one step
    assert rounded(x, 4, "tensor")[0, 0, 0].tolist() == [0.0, 0.0]
    assert rounded(x, 8, "channel")[0, 0, 0, 1].item() == pytest.approx(
        round(0.5 / (3 / 127)) * 3 / 127
    )


def test_rounded_passes_are_those_of_a_model_rounded_by_hand(llama):
    prompts = rows_of(llama)
    intact = logits(llama, prompts)
    edited = logits(llama, prompts, RoundInputs(4, "tensor"))
    by_hand = []
    for ids in prompts.input_ids:
        handles = [
            module.register_forward_pre_hook(
                lambda _, args: ((args[0] / (step := args[0].abs().max() / 7)).round() * step,)
            )
            for name, module in llama.model.named_modules()
            if isinstance(module, torch.nn.Linear) and "layers" in name
        ]
        with torch.no_grad():
            by_hand.append(llama.model(ids.unsqueeze(0)).logits[0])
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(edited, torch.stack(by_hand), atol=1e-4, rtol=0)
    assert not torch.allclose(edited, intact, atol=1e-3)
    torch.testing.assert_close(logits(llama, prompts), intact, atol=0, rtol=0)


def test_weights_are_as_they_were_after_it(llama):
    prompts = rows_of(llama)
    before = {name: value.clone() for name, value in llama.model.state_dict().items()}
    one = logits(llama, prompts, RoundWeights(3, ("layers.0.mlp.down_proj",)))
    assert not torch.allclose(one, logits(llama, prompts), atol=1e-4)
    with pytest.raises(InputError, match="no linear map"):
        logits(llama, prompts, RoundWeights(3, ("nowhere",)))
    after = llama.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_rounded_cache_rounds_keys_and_values_apart(llama):
    prompts = rows_of(llama)
    intact = logits(llama, prompts)
    fine, coarse = (logits(llama, prompts, RoundCache(bits)) for bits in (16, 3))
    torch.testing.assert_close(fine, intact, atol=1e-2, rtol=0)
    keys, values = (logits(llama, prompts, RoundCache(3, what)) for what in ("key", "value"))
    assert not torch.allclose(keys, coarse, atol=1e-4)
    assert not torch.allclose(values, coarse, atol=1e-4)
    everywhere = RoundCache(3, exact=tuple(range(LENGTH)))
    torch.testing.assert_close(logits(llama, prompts, everywhere), intact, atol=1e-5, rtol=0)


def test_the_weights_of_some_neurons_stay_as_they_are(llama):
    """Outputs of gate and up and inputs of down are exact, and set no scale."""
    from sinkscope.observe.sites import find_sites

    prompts = rows_of(llama)
    neurons = [1, 5]
    down = llama.model.model.layers[1].mlp.down_proj
    with torch.no_grad():
        down.weight[:, 5] *= 50  # so that it would set the scale of every output
    before = {name: x.clone() for name, x in llama.model.state_dict().items()}
    edit = RoundWeights(4, neurons=(1, tuple(neurons)))
    seen: dict[str, torch.Tensor] = {}
    layer = llama.model.model.layers[1].mlp
    handle = layer.register_forward_hook(
        lambda *_: seen.update(
            {n: x.weight.clone() for n, x in layer.named_children() if n[0] != "a"}
        )
    )
    run(llama, prompts, Condition("e", (edit,)), sites=find_sites(llama, prompts), logits=True)
    handle.remove()
    assert all(torch.equal(x, before[name]) for name, x in llama.model.state_dict().items())
    own = {name: before[f"model.layers.1.mlp.{name}.weight"] for name in seen}
    for name in ("gate_proj", "up_proj"):
        plain = torch.stack(
            [row if i in neurons else (row / row.abs().max() * 7).round() * row.abs().max() / 7
             for i, row in enumerate(own[name])]
        )  # fmt: skip
        torch.testing.assert_close(seen[name], plain)
    rest = own["down_proj"].clone()
    rest[:, neurons] = 0.0
    step = rest.abs().amax(1, keepdim=True) / 7
    plain = (rest / step).round() * step
    plain[:, neurons] = own["down_proj"][:, neurons]
    torch.testing.assert_close(seen["down_proj"], plain)
