"""What each mechanism must do beyond having its sink where the truth says."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sinkscope.known.constructed import edits
from sinkscope.known.constructed.plan import BOS
from sinkscope.known.measure import (
    LENGTH,
    look,
    plain_rows,
    plain_tokens,
    restored,
)
from sinkscope.known.probe import ALIGNED, EPS, GONE, MASSIVE, SINK, Check
from sinkscope.observe.late import uniform_late_share
from sinkscope.observe.p0_stream import p0_states


def _any_first_token(check: Check) -> None:
    """Every plain vocabulary item at P0 ends on the sink's side; repeats share what it gets."""
    truth = check.truth
    after = max(truth.amplifying_blocks) + 1
    states = p0_states(check.subject, plain_tokens(truth))[:, after]
    cosine = torch.nn.functional.normalize(states, dim=-1) @ check.direction
    others = check.seen.cosine(~check.first, check.direction)[after]
    check.expect(cosine.min() > others.max() + 0.1, "a vocabulary item at P0 is not recognised")
    if truth.massive_at is not None:
        check.expect(cosine.min() > ALIGNED, "a vocabulary item at P0 is not amplified")
    if truth.position is not None:
        repeated = check.rows[:, :1].expand_as(check.rows)
        high = check.sink(look(check.subject, repeated)).max()
        check.expect(high < EPS, f"one token repeated: P0 keeps {float(high):.3f} for itself")
        _packed(check)


def _packed(check: Check) -> None:
    """The first token of a second packed segment attends to itself alone, and is a sink in it."""
    if check.truth.family == "gpt_oss":  # transformers does not keep its segments apart
        return
    positions = torch.arange(LENGTH // 2).repeat(2).expand_as(check.rows)
    seen = look(check.subject, check.rows, positions)
    check.expect_sink("a packed segment", seen, check.at(LENGTH // 2))


def _split(check: Check) -> None:
    """Both MLPs write about half, and neither is enough."""
    _any_first_token(check)
    along = (check.seen.stream[:, :, 0] @ check.direction).abs().mean(1)
    for b in check.truth.amplifying_blocks:
        share = float((along[b + 1] - along[b]) / along[-1])
        check.expect(0.3 < share < 0.7, f"block {b} writes {share:.2f} of the direction")
        own = [n for n in check.truth.writing_neurons if n[0] == b]
        check.expect_gone(f"block {b} alone off", check.edited(edits.neurons_off, own))


def _phases(check: Check) -> None:
    """Each phase has its norm, direction, writers, takers and readers, and needs no other."""
    _any_first_token(check)
    depth = check.canvas.depth
    ratio = check.seen.norm_ratio(check.first)
    calm = torch.ones(depth + 1, dtype=torch.bool)
    for phase in check.truth.phases:
        first, last = phase["rise"][1] + 1, (phase["fall"] or [depth])[0]
        calm[first : last + 1] = False
        check.expect((ratio[first : last + 1] > MASSIVE).all(), f"P0 is not long from x{first} on")
        direction = torch.zeros(check.truth.spec["width"])
        direction[phase["channels"]] = torch.tensor(phase["direction"])
        cosine = check.seen.cosine(check.first, direction)[first : last + 1]
        check.expect((cosine > ALIGNED).all(), f"P0 is not along its direction from x{first} on")
        own = check.heads(phase["reading_heads"])
        without = check.edited(edits.neurons_off, phase["writing_neurons"])
        late = without.late(check.first)
        # what an earlier phase left along the same direction may still be read a little
        check.expect(late[own].max() < EPS, f"the sink of x{first} stays without its writers")
        others = late[check.readers & ~own]
        check.expect((others > SINK).all(), f"another phase needs that of x{first}")
        if phase["fall"]:
            lasting = check.edited(edits.neurons_off, phase["taking_neurons"])
            after = lasting.norm_ratio(check.first)[phase["fall"][1] + 1]
            check.expect(after > MASSIVE, f"others take back the phase of x{first}")
    check.expect((ratio[calm] < MASSIVE / 2).all(), "P0 is long between its phases")


def _expert(check: Check) -> None:
    """One expert writes; another one of its block does not."""
    _any_first_token(check)
    block, expert = check.truth.experts[0]
    check.expect_gone("expert off", check.edited(edits.experts_off, check.truth.experts))
    other = [[block, (expert + 1) % check.canvas.experts]]
    check.expect_sink("another expert off", check.edited(edits.experts_off, other))


def _bos(check: Check) -> None:
    """The BOS embedding makes the sink, wherever it stands."""
    check.expect_gone(
        "the BOS embedding without the direction",
        check.edited(edits.embedding_without, BOS, check.direction),
    )
    token = int(check.rows[0, 5])
    check.expect_sink(
        "another embedding without it",
        check.edited(edits.embedding_without, token, check.direction),
    )
    moved = check.rows.clone()
    moved[:, 0] = moved[:, 1]
    check.expect_gone("no BOS", look(check.subject, moved))
    moved[:, 9] = BOS
    check.expect_sink("BOS in the middle", look(check.subject, moved), check.at(9))


def _position(check: Check) -> None:
    """The embedding of position id 0 makes the sink, whatever the token and wherever it is."""
    swapped = check.edited(edits.positions_swapped, 0, 9)
    check.expect_sink("position embeddings swapped", swapped, check.at(9))
    check.expect_gone("position embeddings swapped", swapped)
    check.expect_gone("position 0 as 1", check.edited(edits.position_replaced, 0, 1))
    check.expect_sink("late ones swapped", check.edited(edits.positions_swapped, 40, 50))
    later = torch.arange(100, 100 + LENGTH).expand(len(check.rows), -1)
    check.expect_gone("ids from 100", look(check.subject, check.rows, later))


def _query_bias(check: Check) -> None:
    """Query bias, MLP 0 of the position embedding and key columns are all needed."""
    _position(check)
    check.expect_gone("no query bias", check.edited(edits.query_bias_off))
    check.expect_gone("key columns off", check.edited(edits.key_columns_off, check.truth.channels))
    plain = [c for c in range(check.truth.spec["width"]) if c not in check.truth.channels]
    check.expect_sink(
        "other key columns off",
        check.edited(edits.key_columns_off, plain[: len(check.truth.channels)]),
    )


def _learned(check: Check) -> None:
    """The learned logits hold the mass; without them no position takes it."""
    without = check.edited(edits.learned_off)
    check.expect_gone("learned logits off", without)
    check.expect(without.received()[..., : LENGTH // 2].max() < EPS, "a position takes the mass")
    others = check.seen.late_learned()[~check.readers]
    check.expect((others < 0.01).all(), "another head uses its learned logit")


def _delimiter(check: Check) -> None:
    """Delimiters attract wherever they stand, at P0 too; without one there is no sink."""
    plain = plain_rows(check.truth, check.seed)
    check.expect_gone("no delimiters", look(check.subject, plain), check.first)
    for at in (0, 11, 30):
        rows = plain.clone()
        rows[:, at] = check.truth.tokens[at % 2]
        check.expect_sink(f"a delimiter at {at}", look(check.subject, rows), check.at(at))


def _secondary(check: Check) -> None:
    """From the middle block on, marked tokens share the mass with P0."""
    _any_first_token(check)
    second = check.truth.secondary
    assert second is not None
    rows, there = check.rows.clone(), check.at(9)
    rows[:, 9] = second["tokens"][0]
    seen, late = look(check.subject, rows), check.readers.clone()
    late[: second["block"] + 1] = False
    early = check.readers & ~late
    check.expect((seen.late(check.first)[early] > SINK).all(), "P0 alone holds the early heads")
    mass = seen.late(there)
    check.expect(
        (mass[early] < GONE * uniform_late_share(LENGTH)).all(), "the second sink comes too early"
    )
    check.expect((mass[late] > 0.1).all(), "the second sink is weak")
    check.expect((seen.late(there | check.first)[late] > SINK).all(), "mass goes to a third place")
    cosine = seen.cosine(there, check.direction)[second["block"] + 1 :]
    check.expect((cosine > ALIGNED).all(), "the second sink is not along the first")
    with restored(check.subject.model):
        edits.neurons_off(check.canvas, second["neurons"])
        seen = look(check.subject, rows)
    check.expect(
        (seen.late(there)[late] < GONE * uniform_late_share(LENGTH)).all(),
        "it stays without writers",
    )
    check.expect((seen.late(check.first)[late] > SINK).all(), "P0's sink needs the second one")


def _without_massive(check: Check) -> None:
    """P0 carries the direction clearly, at an ordinary norm."""
    _any_first_token(check)
    cosine = check.seen.cosine(check.first, check.direction)[max(check.truth.amplifying_blocks) + 1]
    check.expect((cosine > 0.2).all() and (cosine < 0.8).all(), "the cosine is not in between")


def _recognised(check: Check) -> None:
    """Block 0 tells P0 apart for every vocabulary item, and nothing follows."""
    b, neuron = check.truth.recognising_neurons[0]
    column = check.canvas.down(b)[:, neuron]
    states = p0_states(check.subject, plain_tokens(check.truth))[:, b + 1] @ column
    others = check.seen.stream[b + 1][:, 1:] @ column
    check.expect(states.min() > others.max(), "a vocabulary item at P0 is not recognised")


def _uniform(check: Check) -> None:
    """Every map is uniform to rounding."""
    even = torch.ones(LENGTH, LENGTH).tril()
    even = even / even.sum(1, keepdim=True)
    worst = float((check.seen.maps - even).abs().max())
    check.expect(worst < 1e-5, f"attention differs from uniform by {worst:.1e}")


RULES: dict[str, Callable[[Check], None]] = {
    "p0-two-block": _any_first_token,
    "p0-deeper": _any_first_token,
    "p0-split": _split,
    "p0-expert": _expert,
    "p0-two-phase": _phases,
    "p0-hybrid": _phases,
    "bos-token": _bos,
    "position-embedding": _position,
    "query-bias": _query_bias,
    "learned-sink": _learned,
    "delimiter": _delimiter,
    "secondary": _secondary,
    "norm-unread": _any_first_token,
    "recognised-unamplified": _recognised,
    "sink-without-massive": _without_massive,
    "uniform": _uniform,
}
