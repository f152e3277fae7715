"""A long text in pieces over a cache of keys and values: every number is that of the whole pass."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from sinkscope.detect import residual
from sinkscope.detect.scan import scan
from sinkscope.errors import NotFinite, OutOfResources
from sinkscope.observe import attention, prefill
from sinkscope.observe.attention import observe
from sinkscope.observe.columns import chunked_key_sums, key_sums, row_entropy
from sinkscope.observe.parity import left_padded, packed, token_prompts
from sinkscope.observe.pieces import as_before, piece_inputs, spans
from sinkscope.observe.prefill import prefill_of
from sinkscope.observe.reads import Want
from sinkscope.observe.scores import Scores
from sinkscope.observe.softmax import attend
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model

# sliding windows of 8 with and without soft-capped scores, learned sinks, groups of heads, experts
FAMILIES = ["llama", "gemma2", "gemma3_text", "gpt_oss", "gpt_neox", "qwen3_moe"]
LENGTH, PIECE = 43, 7  # the last piece is a single token


def right_padded(ids):
    lengths = torch.full((len(ids),), ids.shape[1])
    lengths[1:] -= 9
    return Prompts(ids, lengths, "ids", "without")


@pytest.fixture
def rows():
    return torch.randint(3, 90, (3, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def in_pieces(monkeypatch):
    monkeypatch.setattr(prefill, "WHOLE", 20)
    monkeypatch.setattr(prefill, "PIECE", PIECE)


def whole_and_in_pieces(subject, prompts, monkeypatch, **settings):
    whole = scan(subject, prompts=prompts, **settings)
    monkeypatch.setattr(prefill, "WHOLE", 20)
    monkeypatch.setattr(prefill, "PIECE", PIECE)
    return whole, scan(subject, prompts=prompts, **settings)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [token_prompts, left_padded, right_padded])
def test_a_scan_in_pieces_is_the_scan_of_the_whole(family, shape, rows, monkeypatch):
    monkeypatch.setattr(residual, "MEDIAN_SAMPLE", 100)  # a sample, as of long texts
    subject = Subject.from_model(tiny_model(family))
    whole, pieces = whole_and_in_pieces(subject, shape(rows), monkeypatch, untrained=False)
    said = pieces.summary.scan["without"].notes
    assert any(f"in pieces of {PIECE}" in note for note in said)
    ours, theirs = pieces.data["scan/without"], whole.data["scan/without"]
    assert set(ours.data_vars) == set(theirs.data_vars)
    for name in ours.data_vars:
        a, b = ours[name].values, theirs[name].values
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=str(name))
        else:
            np.testing.assert_array_equal(a, b, err_msg=str(name))
    one, other = pieces.summary.scan["without"], whole.summary.scan["without"]
    assert one.late_share.value == pytest.approx(other.late_share.value, abs=1e-6)
    assert one.reader == other.reader
    assert one.massive["ratio"] == pytest.approx(other.massive["ratio"], rel=1e-5)
    assert one.secondary == other.secondary


def test_the_exact_reader_and_the_null_go_in_pieces_too(rows, monkeypatch, llama):
    prompts = token_prompts(rows)
    whole, pieces = whole_and_in_pieces(llama, prompts, monkeypatch, reader="exact")
    assert any(f"in pieces of {PIECE}" in note for note in pieces.summary.scan["without"].notes)
    for name in ("received", "p0_late", "entropy", "untrained_late", "untrained_received"):
        a, b = (x.data["scan/without"][name].values for x in (pieces, whole))
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_queries_on_more_keys_are_rows_of_the_whole(softcap, dtype):
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, n, 33, 16, generator=generator).to(dtype) for n in (4, 2, 2))
    start, scale = 20, 0.25
    whole = Scores(q.float(), k.float(), None, True, scale, softcap)
    part = Scores(q[:, :, start:], k, None, True, scale, softcap)
    right_out, right_lse = attend(whole, v.float())
    out, lse = attend(part, v)
    near = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.float(), right_out[:, :, start:], atol=near, rtol=near)
    torch.testing.assert_close(lse, right_lse[:, :, start:], atol=near, rtol=near)
    valid = torch.ones(2, 33, dtype=torch.bool)
    valid[1, -3:] = False
    later = valid.clone()
    later[:, :start] = False
    right = chunked_key_sums(whole, right_lse, later)
    sums = key_sums(part, right_lse[:, :, start:], valid[:, start:])
    torch.testing.assert_close(sums, right, atol=near, rtol=near)
    entropy = row_entropy(part, right_lse[:, :, start:])
    torch.testing.assert_close(
        entropy, row_entropy(whole, right_lse)[:, :, start:], atol=near, rtol=near
    )


class Largest(TorchDispatchMode):
    """The most entries that any tensor of a pass has."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        held = [x for x in tree_flatten(out)[0] if isinstance(x, torch.Tensor)]
        self.most = max(self.most, *(x.untyped_storage().nbytes() for x in held), 0)
        return out


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_memory_is_linear_in_the_length(family):
    subject = Subject.from_model(tiny_model(family))
    most = []
    for length in (512, 1024):
        ids = torch.randint(3, 90, (1, length), generator=torch.Generator().manual_seed(1))
        with Largest() as largest:
            observe(subject, token_prompts(ids), Want(entropy=True), "auto", size=16)
        most.append(largest.most)
    assert most[1] < 2.5 * most[0]


def test_windows_keep_no_more_keys_than_they_need(rows):
    subject = Subject.from_model(tiny_model("gemma2"))
    keys = {}

    def inspect(call, read):
        keys[read.block] = max(keys.get(read.block, 0), call.scores.k.shape[2])

    observe(subject, token_prompts(rows), Want(received=False, inspect=(inspect,)), size=PIECE)
    types = [block.layer_type for block in subject.anatomy.blocks]
    assert {types[block]: most for block, most in keys.items()} == {
        "sliding": 8 - 1 + PIECE,
        "full": LENGTH,
    }


def test_a_short_text_goes_through_whole(llama, rows):
    assert prefill_of(llama, token_prompts(rows)) == prefill.Prefill()
    assert spans(10, None) == [(0, 10)]
    assert spans(10, 4) == [(0, 4), (4, 8), (8, 10)]


def test_pieces_are_smaller_where_maps_are_formed(llama, rows, in_pieces, monkeypatch):
    monkeypatch.setattr(prefill, "LEAST", 1)
    monkeypatch.setattr(prefill, "HELD", 4 * LENGTH)
    assert prefill_of(llama, token_prompts(rows)).size == 3
    heads = llama.anatomy.query_heads
    assert heads == 4
    assert prefill_of(llama, token_prompts(rows), "exact").size == 1


@pytest.mark.parametrize(
    ("family", "shape", "why"),
    [
        ("llama", packed, "packed rows"),
        ("bloom", token_prompts, "from its own maps"),
        ("qwen3_next", token_prompts, "another state than keys and values"),
    ],
)
def test_what_cannot_go_in_pieces_goes_whole_and_says_so(family, shape, why, rows, in_pieces):
    found = prefill_of(Subject.from_model(tiny_model(family)), shape(rows))
    assert found.size is None
    assert why in found.note
    assert "whole" in found.note


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_is_wrong_in_pieces_goes_whole_and_says_so(dtype, rows, in_pieces):
    subject = Subject.from_model(tiny_model("llama").to(dtype))
    module = subject.model.model.layers[1].self_attn
    forward = module.forward

    def forgetful(*args, **kwargs):
        mask = kwargs["attention_mask"]
        if mask is not None:
            kwargs["attention_mask"] = mask[..., -mask.shape[-2] :]
        return forward(*args, **kwargs | {"past_key_values": None})

    module.forward = forgetful
    found = prefill_of(subject, token_prompts(rows))
    assert found.size is None
    assert "differed" in found.note


def test_windows_are_left_behind_by_the_few_tokens_that_are_compared(rows, in_pieces):
    """A family that is right before a window slides: a cache that forgets a key too many."""
    subject = Subject.from_model(tiny_model("mistral"))
    subject.model.config.sliding_window = 1000
    assert prefill_of(subject, token_prompts(rows)).size == PIECE
    for index, layer in enumerate(subject.model.model.layers):

        def forgetful(*args, own=layer.self_attn.forward, index=index, **kwargs):
            cache, mask = kwargs["past_key_values"], kwargs["attention_mask"]
            held = cache and cache.layers[index]
            if held and held.get_seq_length() > held.sliding_window:  # it has slid
                kwargs["attention_mask"] = mask.clone()
                kwargs["attention_mask"][..., 0] = False
            return own(*args, **kwargs)

        layer.self_attn.forward = forgetful
    assert "differed" in prefill_of(subject, token_prompts(rows)).note
    assert subject.model.config.sliding_window == 1000


def test_numbers_that_are_none_are_no_agreement(rows, in_pieces, monkeypatch):
    subject, observed = Subject.from_model(tiny_model("llama")), prefill.observe

    def broken(*args, size=None, **kwargs):
        reads, layout, out = observed(*args, size=size, **kwargs)
        if size:
            reads[2].p0[0, 1, 30] = torch.nan
        return reads, layout, out

    monkeypatch.setattr(prefill, "observe", broken)
    assert "differed by nan" in prefill_of(subject, token_prompts(rows)).note


def test_routing_that_turns_on_rounding_is_not_taken_for_wrong(rows, in_pieces):
    """A token of half precision may go to other experts in pieces."""
    subject = Subject.from_model(tiny_model("glm4_moe").to(torch.bfloat16))
    assert prefill_of(subject, token_prompts(rows)).size == PIECE


def test_masks_that_memory_has_no_room_for_are_refused(rows, monkeypatch):
    subject, prompts = Subject.from_model(tiny_model("gemma2")), token_prompts(rows)
    monkeypatch.setattr(attention, "available", lambda: LENGTH**2 * 5 - 1)
    with pytest.raises(OutOfResources, match="Only scan"):
        observe(subject, prompts, Want(received=False))
    observe(subject, prompts, Want(received=False), size=PIECE)
    plain = Subject.from_model(tiny_model("llama"))
    observe(plain, prompts, Want(received=False))
    with pytest.raises(OutOfResources, match="masks"):
        observe(plain, left_padded(rows), Want(received=False))


def test_a_call_can_be_made_again_on_the_cache_as_it_was(llama, rows):
    (_, first), (_, second), *_ = piece_inputs({"input_ids": rows}, PIECE, llama.model.config)
    with torch.no_grad():
        llama.model(**first)
        again = as_before(second)
        held = weakref.ref(second["past_key_values"].layers[0].keys)
        once = llama.model(**second).logits
        assert held() is None  # keys are not held twice
        twice = llama.model(**again()).logits
    torch.testing.assert_close(twice, once, atol=0, rtol=0)


def test_what_overflows_in_a_later_piece_is_said_with_its_block(rows):
    subject = Subject.from_model(tiny_model("llama"))
    subject.model.model.layers[1].mlp.down_proj.register_forward_hook(
        lambda module, args, out: out * torch.inf if out.shape[1] < PIECE else out  # the last one
    )
    with pytest.raises(NotFinite, match="block 1"):
        observe(subject, left_padded(rows), Want(received=False), size=PIECE)
