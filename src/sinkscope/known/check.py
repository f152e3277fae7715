"""Does a constructed model do what its truth says? By direct measurement only.

A check returns the sentences that do not hold; none means that the truth does. Bounds: a sink has
more than 0.9 of the late mass, an absent one at most three times what uniform attention gives, and
every head that is not said to read stays below uniform attention in its mean late share.
"""

from __future__ import annotations

from sinkscope.known.constructed import edits
from sinkscope.known.constructed.truth import Truth
from sinkscope.known.measure import LENGTH
from sinkscope.known.probe import ALIGNED, CALM, EPS, MASSIVE, SINK, Check
from sinkscope.known.rules import OWN_NEEDS, OWN_STREAM, RULES
from sinkscope.observe.late import uniform_late_share
from sinkscope.subject.load import Subject


def check_truth(subject: Subject, truth: Truth, seed: int = 0) -> list[str]:
    """Sentences of the truth that direct measurement contradicts; empty if it holds.

    subject  the constructed model, loaded or in memory; its weights are edited and put back
    seed     of the random rows it is measured on
    """
    return run_checks(subject, truth, seed).failures


def run_checks(subject: Subject, truth: Truth, seed: int = 0) -> Check:
    """The same, with what was measured on the way."""
    check = Check(subject, truth, seed)
    _attention(check)
    if truth.mechanism not in OWN_STREAM:
        _stream(check)
        _writers(check)
    if truth.mechanism not in OWN_NEEDS:
        _necessity(check)
    special = RULES.get(truth.mechanism)
    if special is not None:
        special(check)
    return check


def figures(check: Check) -> dict[str, float | None]:
    """The figures that floors are set on, each the worst over heads.

    reader_mass  least late mass on the sink, over reading heads
    sink_rate    least sink rate at eps 0.3, over reading heads of a sink at position zero
    other_share  most late share of P0 over that of uniform attention, over heads that neither read
                 nor average
    """
    truth, readers = check.truth, check.readers
    others = ~readers & ~check.heads(truth.recognising_heads)
    share = check.share[others] / uniform_late_share(LENGTH)
    rate = (check.seen.received()[..., 0] > EPS).float().mean(1)[readers]
    at_zero = truth.position in ("p0", "bos", "position-id-0")
    return {
        "reader_mass": float(check.sink().min()) if truth.position else None,
        "sink_rate": float(rate.min()) if at_zero else None,
        "other_share": float(share.max()) if truth.mechanism != "uniform" else None,
    }


def _attention(check: Check) -> None:
    """Reading heads have the sink, no other head has one anywhere."""
    seen, truth, readers = check.seen, check.truth, check.readers
    if truth.position is not None:
        check.expect_sink("the sink", seen)
    received = seen.received()
    if truth.position in ("p0", "bos", "position-id-0") and truth.share == 1:
        rate = (received[..., 0] > EPS).float().mean(1)[readers].min()
        check.expect(rate > SINK, f"sink rate of a reading head is {float(rate):.3f}")
    others = received[..., : LENGTH // 2].transpose(1, 2)[~readers]
    check.expect(others.max() < EPS if others.numel() else True, "another head has a sink")
    even = check.heads(truth.recognising_heads) if truth.mechanism != "uniform" else ~readers
    level = uniform_late_share(LENGTH)
    first = check.share
    check.expect((first[even] < 1.001 * level).all(), "an averaging head prefers P0")
    high = first[~readers & ~even]
    check.expect(
        (high < level).all(),
        f"another head has {float(high.max() if high.numel() else 0):.4f} on P0",
    )


def _stream(check: Check) -> None:
    """Norm ratio and direction by read point."""
    truth, seen = check.truth, check.seen
    ratio = seen.norm_ratio(check.target)
    cosine = seen.cosine(check.target, check.direction).abs().amin(1)
    start = len(ratio) if truth.massive_from is None else truth.massive_from
    check.expect((ratio[:start] < CALM).all(), f"a norm ratio of {ratio.max():.2f} too early")
    check.expect((ratio[start:] > MASSIVE).all(), f"a norm ratio of only {ratio.min():.2f}")
    finished = max(truth.amplifying_blocks, default=start - 1) + 1
    if truth.massive_at is not None:
        check.expect((cosine[finished:] > ALIGNED).all(), "the stream is not along the direction")
    if truth.recognising_neurons:
        b, neuron = truth.recognising_neurons[0]
        flag = seen.stream[b + 1] @ check.canvas.down(b)[:, neuron]
        apart = (flag[:, 0].min() - flag[:, 1:].max()) / flag[:, 1:].std()
        check.expect(apart > 1, f"P0 is apart by {float(apart):.2f} deviations only")


def _writers(check: Check) -> None:
    """Switching the writing neurons off ends sink and norm; as many others do nothing."""
    truth, canvas = check.truth, check.canvas
    if not truth.writing_neurons:
        return
    without = check.edited(edits.neurons_off, truth.writing_neurons)
    control = check.edited(edits.neurons_off, edits.other_neurons(canvas, truth, check.seed))
    if truth.position is not None:
        check.expect_gone("writing neurons off", without)
        check.expect_sink("other neurons off", control)
    if truth.massive_at is not None:
        check.expect(
            without.norm_ratio(check.target).max() < CALM, "the norm stays without writers"
        )
        check.expect(control.norm_ratio(check.target)[-1] > MASSIVE, "other neurons carry the norm")


def _necessity(check: Check) -> None:
    """Without recognition, or with its readers off, there is no sink."""
    truth = check.truth
    if not truth.writing_neurons:
        return
    if truth.recognising_neurons and truth.position is not None:
        check.expect_gone(
            "recognition off", check.edited(edits.neurons_off, truth.recognising_neurons)
        )
        check.expect_gone(
            "averaging heads off", check.edited(edits.heads_off, truth.recognising_heads)
        )
    if truth.position is not None:
        check.expect_gone("readers off", check.edited(edits.readers_off, truth.reading_heads))
