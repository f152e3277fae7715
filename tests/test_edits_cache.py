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


def streamed(subject: Subject, ids: torch.Tensor, window: int, keep: int) -> torch.Tensor:
    """Logits [T, V] of one row as a server gives them, token by token, for any family.

    What a block gives a token follows from the inputs of the block at the tokens that are still
    there: so these inputs are the cache, and the block is run on them at positions 0, 1, ..
    """
    blocks = subject.anatomy.modules(subject.model)
    given: list[tuple[torch.Tensor, dict]] = []

    def enter(module, args, kwargs):
        given.append((args[0] if args else kwargs.pop("hidden_states"), kwargs))

    def leave(module, args, output):
        return (out, *output[1:]) if isinstance(output, tuple) else out

    handle = blocks[0].register_forward_pre_hook(enter, with_kwargs=True)
    subject.model(ids.unsqueeze(0), use_cache=False)
    handle.remove()
    [(x0, kwargs)] = given
    kwargs = {k: v for k, v in kwargs.items() if k not in ("attention_mask", "past_key_values")}
    held: list[list[torch.Tensor]] = [[] for _ in blocks]
    found = []
    for t in range(len(ids)):
        x = x0[:, t : t + 1]
        for block, inputs in zip(blocks, held, strict=True):
            inputs.append(x)
            if len(inputs) > window:
                del inputs[keep]
            n = len(inputs)
            cos, sin = kwargs["position_embeddings"]
            mask = torch.full((1, 1, n, n), -1e30).triu(1)
            now = kwargs | {"position_embeddings": (cos[:, :n], sin[:, :n])}
            y = block(torch.cat(inputs, 1), attention_mask=mask, **now)
            x = (y[0] if isinstance(y, tuple) else y)[:, -1:]
        found.append(x)
    out = torch.cat(found, 1)
    handle = blocks[-1].register_forward_hook(leave)
    logits = subject.model(ids.unsqueeze(0), use_cache=False).logits[0]
    handle.remove()
    return logits


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
