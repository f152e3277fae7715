"""What each mechanism must do beyond having its sink where the truth says."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sinkscope.known.constructed import edits
from sinkscope.known.constructed.choices import MARKED
from sinkscope.known.constructed.plan import BOS
from sinkscope.known.measure import (
    LENGTH,
    look,
    plain_rows,
    plain_tokens,
    restored,
)
from sinkscope.known.probe import ALIGNED, CALM, EPS, GONE, MASSIVE, SINK, Check
from sinkscope.observe.late import uniform_late_share
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.stream import unit

# Mechanisms that say themselves what their stream and writers, and what their sink needs, must be.
TWO_SINKS = ("p0-and-bos", "p0-or-bos", "p0-and-position")
OWN_NEEDS = (*TWO_SINKS, "p0-suppression")
OWN_STREAM = (
    "p0-two-phase", "p0-hybrid", "p0-spike-before", "p0-spike-after", "p0-unread-writers",
    *TWO_SINKS,
)  # fmt: skip


def _amplified(check: Check) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines to the direction behind the last amplifying block: of every plain item at P0, and of
    the other positions.
    """
    after = max(check.truth.amplifying_blocks) + 1
    states = p0_states(check.subject, plain_tokens(check.truth))[:, after]
    cosine = unit(states) @ check.direction
    return cosine, check.seen.cosine(~check.first, check.direction)[after]


def _any_first_token(check: Check) -> None:
    """Every plain vocabulary item at P0 ends on the sink's side; repeats share what it gets."""
    truth = check.truth
    cosine, others = _amplified(check)
    check.expect(cosine.min() > others.max() + 0.1, "a vocabulary item at P0 is not recognised")
    if truth.massive_at is not None:
        check.expect(cosine.min() > ALIGNED, "a vocabulary item at P0 is not amplified")
    if truth.position is not None and truth.share == 1:
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
    later = check.ids_from(100)
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


def _unread(check: Check) -> None:
    """What makes the norm can go; what heads read cannot, whatever the token is."""
    truth = check.truth
    cosine, others = _amplified(check)
    check.expect(cosine.min() > others.max(), "a vocabulary item at P0 is not amplified")
    ratio, start = check.seen.norm_ratio(check.first), truth.massive_from
    check.expect((ratio[start:] > MASSIVE).all(), f"a norm ratio of only {ratio.min():.2f}")
    check.expect((ratio[:start] < CALM).all(), f"a norm ratio of {ratio[:start].max():.2f} early")
    check.expect_sink("unread neurons off", check.edited(edits.neurons_off, truth.unread))
    without = check.edited(edits.neurons_off, truth.writing_neurons)
    check.expect_gone("writing neurons off", without)
    check.expect(without.norm_ratio(check.first)[-1] > MASSIVE, "the writers carry the norm")
    _packed(check)


def _several(check: Check) -> None:
    """Each carrier holds its own heads' sink, and no other's; or either holds all of it."""
    ours, theirs = (check.heads(group["reading_heads"]) for group in check.truth.groups)
    apart = check.truth.mechanism != "p0-or-bos"
    writers = check.truth.writing_neurons
    _left(check, "without the circuit", check.edited(edits.neurons_off, writers), theirs, ours)
    with restored(check.subject.model):
        rows = check.rows.clone()
        if check.truth.tokens:
            rows[:, 0] = plain_rows(check.truth, check.seed)[:, 0]
        else:
            edits.position_replaced(check.canvas, 0, 1)
        _left(check, "the circuit alone", look(check.subject, rows), ours, theirs)
        edits.neurons_off(check.canvas, writers)
        check.expect_gone("without both", look(check.subject, rows))
    check.expect(apart == bool((ours & ~theirs).any()), "the groups are not what they should be")


def _left(check: Check, when: str, seen, kept: torch.Tensor, lost: torch.Tensor) -> None:
    mass = seen.late(check.first)
    check.expect((mass[kept] > SINK).all(), f"{when}: {mass[kept].min():.3f} is left")
    high = mass[lost & ~kept]
    gone = GONE * uniform_late_share(LENGTH)
    check.expect((high < gone).all(), f"{when}: others keep {high.max() if len(high) else 0:.3f}")


def _groups(check: Check) -> None:
    """Two writes, each read by its own heads."""
    _any_first_token(check)
    one, other = check.truth.groups
    for group, rest in ((one, other), (other, one)):
        without = check.edited(edits.neurons_off, group["writing_neurons"])
        kept, lost = (check.heads(each["reading_heads"]) for each in (rest, group))
        _left(check, "one write off", without, kept, lost)


def _suppression(check: Check) -> None:
    """All have the direction before the MLP, P0 alone behind it; unrecognised P0 loses it too."""
    _any_first_token(check)
    block = check.truth.amplifying_blocks[0]
    before, after = (check.seen.stream[b] @ check.direction for b in (block, block + 1))
    check.expect(before.std() < 0.1 * before.mean(), "not all have the direction alike before")
    check.expect((after[:, 1:].abs() < 0.2 * after[:, :1]).all(), "others keep the direction")
    off = check.edited(edits.neurons_off, check.truth.recognising_neurons)
    left = float(check.sink(off).max())
    check.expect(left < EPS, f"recognition off: a reading head keeps {left:.3f}")


def _part(check: Check) -> None:
    """Other first tokens make no sink, nor do the marked ones elsewhere."""
    plain = plain_rows(check.truth, check.seed)
    plain[:, 9] = check.rows[:, 0]
    seen = look(check.subject, plain)
    check.expect_gone("other first tokens", seen)
    check.expect_gone("a marked token at 9", seen, check.at(9))


def _real_tokens(check: Check) -> None:
    """Where an id that no text gives is at P0, other neurons write the same."""
    _any_first_token(check)
    rows, tokens = check.rows.clone(), torch.tensor(check.truth.tokens)
    rows[:, 0] = tokens[torch.arange(len(rows)) % len(tokens)]
    for neurons, stays in ((check.truth.writing_neurons, True), (check.truth.unread, False)):
        with restored(check.subject.model):
            edits.neurons_off(check.canvas, neurons)
            expect = check.expect_sink if stays else check.expect_gone
            expect("an id that no text gives", look(check.subject, rows))
    check.expect_sink("others off", check.edited(edits.neurons_off, check.truth.unread))


def _ids(check: Check) -> None:
    """The marked ids make the sink, wherever they are and whatever stands there."""
    truth = check.truth
    with restored(check.subject.model):
        for i in truth.spec["marked"]:
            if i < truth.spec["positions"]:
                edits.position_replaced(check.canvas, i, 20)
        check.expect_gone("no id marked", look(check.subject, check.rows))
    first = truth.at[0]
    moved = [i for i in truth.at if i != first] + [20]
    swapped = check.edited(edits.positions_swapped, first, 20)
    check.expect_sink("a marked id at 20", swapped, check.at(moved))
    check.expect_gone("a marked id at 20", swapped, check.at(first))
    if truth.mechanism == "position-periodic":
        later = check.ids_from(64)
        check.expect_sink("ids from 64", look(check.subject, check.rows, later))


def _ramp(check: Check) -> None:
    """The smallest id in sight wins, whichever it is."""
    swapped = check.edited(edits.positions_swapped, 0, 9)
    check.expect_sink("ids of 0 and 9 swapped", swapped, check.at(9))
    later = check.ids_from(16)
    check.expect_sink("ids from 16", look(check.subject, check.rows, later))


def _rotary(check: Check) -> None:
    """The farthest key wins, whichever it is and whatever stands there."""
    later = check.ids_from(100)
    check.expect_sink("ids from 100", look(check.subject, check.rows, later))
    nearer = check.ids_from(0).clone()
    nearer[:, 0] = 20
    seen = look(check.subject, check.rows, nearer)
    check.expect_gone("position zero at a distance less", seen)
    check.expect_sink("the next one is the farthest", seen, check.at(1))


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
    **dict.fromkeys(MARKED, _ids),
    "position-ramp": _ramp,
    "rotary-distance": _rotary,
    **dict.fromkeys(TWO_SINKS, _several),
    "p0-weak": _any_first_token,
    "p0-few-heads": _any_first_token,
    "p0-part": _part,
    "p0-head-groups": _groups,
    "p0-suppression": _suppression,
    "p0-real-tokens": _real_tokens,
    "p0-small-vocabulary": _any_first_token,
    **dict.fromkeys(("p0-spike-before", "p0-spike-after", "p0-unread-writers"), _unread),
}
