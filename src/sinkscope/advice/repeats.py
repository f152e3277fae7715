"""Does a long repeat of one token take over the sink (Yona et al., arXiv 2503.08908)?

Under a causal mask a token that has seen only itself looks like a first token, wherever it stands.
In rows of one token over and over, the norm of the stream at each repeat is held against that of
position zero, at the read point where position zero stands out most. Where repeats come close, the
patch of the paper is tried: the MLP neurons that write P0's norm are switched off at every position
but the first, on repeats and on clean text, beside as many other neurons of the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.advice.bench import Bench, on_enough_text, three
from sinkscope.advice.writers import STANDS_OUT, norm_writers, run_norms, where_p0_stands_out
from sinkscope.errors import Unsupported
from sinkscope.intervene.cost import logit_batches, losses
from sinkscope.intervene.edits import Edit
from sinkscope.observe.sites import Sites, find_sites
from sinkscope.replications.edits import NeuronsOff
from sinkscope.schema import Measured
from sinkscope.schema.advise import Advice, AdviceRow
from sinkscope.stats import RESAMPLES, bootstrap, widened_tail
from sinkscope.subject.prompts import Prompts, build_prompts

QUESTION = "Does a repeated token take over the sink?"
ALIKE = 0.5  # part of P0's norm from which a repeat counts as like it
ROWS = 8


@dataclass(frozen=True)
class Seen:
    """Rows of one token each, and what the model makes of them.

    curve  [B, T] norm at each repeat over that of position zero
    loss   [B] nats a token, of the predictions made in the second half
    same   [B] share of these in which the repeated token is the most likely one
    """

    curve: np.ndarray
    loss: np.ndarray
    same: np.ndarray


@on_enough_text(QUESTION)
def advise_repeats(bench: Bench) -> Advice:
    """From which length on repeats look like position zero, and whether the patch undoes it."""
    point, ratio = where_p0_stands_out(bench)
    if ratio < STANDS_OUT:
        return Advice(
            question=QUESTION,
            answer="does not apply",
            sentence=f"The norm of position zero is at most {ratio:.1f} times that of text: there "
            "is no large norm for a repeat to take over.",
            facts={"repeats": "none"},
        )
    repeats = build_prompts(
        bench.subject, kind="repeat", n=ROWS, length=bench.prompts.length, seed=bench.settings.seed
    )
    seen = _seen(bench, repeats, point)
    bench.arrays["repeat_norm"] = seen.curve.mean(0)
    start, last = onset_of(seen.curve), bootstrap(seen.curve[:, -1])
    share = (
        f"Over {len(repeats)} tokens, each repeated {repeats.length} times, the last repeat has, "
        f"on average, {last.value:.0%} of the norm of position zero at read point {point}"
    )
    if start.value is None:
        return Advice(
            question=QUESTION,
            answer="no" if start.low is None else "undetermined",
            sentence=f"{share}; {ALIKE:.0%} would be like it.",
            value=last,
            facts={"repeats": "none" if start.low is None else None},
        )
    sure = start.high is not None
    span = f"{start.low:.0f} to {start.high:.0f}" if sure else f"{start.low:.0f} to never"
    advice = Advice(
        question=QUESTION,
        answer=f"from {start.value:.0f} on" if sure else "undetermined",
        sentence=f"From {start.value:.0f} repeats on ({span} with other tokens) a token is like "
        f"position zero. {share}",
        value=last,
        facts={"repeats": start.value if sure else None},
        limits="Intervals of repeats are over the tokens that were repeated, those of clean text "
        "over its documents. Rows of one token alone; what an attacker would mix in was not tried.",
    )
    _try_patch(bench, advice, repeats, point, seen)
    return advice


def onsets(curves: np.ndarray) -> np.ndarray:
    """[n] the number of repeats from which all later ones are like position zero; inf for never.

    curves [n, T] norm of each repeat over that of position zero.
    """
    length = curves.shape[1]
    unlike = np.where(curves >= ALIKE, -1, np.arange(length)).max(1)
    return np.where(unlike == length - 1, np.inf, np.maximum(unlike + 2, 2))


def onset_of(curve: np.ndarray) -> Measured:
    """Onset in the mean over tokens of curve [B, T], and its interval over tokens; None for never.

    2,000 resamples of the tokens, as `stats.bootstrap` draws them.
    """
    count = len(curve)
    picks = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    tail = widened_tail(count)
    drawn = np.sort(onsets(curve[picks].mean(1)))
    ends = (drawn[int(tail * RESAMPLES)], drawn[int((1 - tail) * RESAMPLES)])
    told = [x if np.isfinite(x) else None for x in (onsets(curve.mean(0)[None])[0], *ends)]
    return Measured(value=told[0], low=told[1], high=told[2])


def _seen(
    bench: Bench, repeats: Prompts, point: int, *edits: Edit, sites: Sites | None = None
) -> Seen:
    late = repeats.length // 2
    parts = []
    for batch in logit_batches(bench.subject, repeats):
        norms, logits = run_norms(bench, batch, tuple(edits), sites, logits=True)
        assert logits is not None
        same = logits[:, late:-1].argmax(-1).cpu() == batch.input_ids[:, late + 1 :]
        curve = norms[point] / norms[point][:, :1]
        parts.append((curve, losses(logits, batch, late), same.double().mean(1)))
    return Seen(*(torch.cat(column).numpy() for column in zip(*parts)))


def _try_patch(bench: Bench, advice: Advice, repeats: Prompts, point: int, before: Seen) -> None:
    """Add what the patch does to repeats and to clean text; without one, why there is none."""
    try:
        sites = find_sites(bench.subject, bench.prompts)
        writers = norm_writers(bench, sites, point)
    except Unsupported as error:
        advice.sentence += f". No patch was tried: {error}"
        return
    patch, other = (
        NeuronsOff(writers.block, neurons, but_first=True)
        for neurons in (writers.neurons, writers.others(bench.settings.seed))
    )
    after = _seen(bench, repeats, point, patch, sites=sites)
    control = _seen(bench, repeats, point, other, sites=sites)
    clean = bench.cost({f"clean text, {patch}": patch}, sites=sites)
    advice.rows = [
        _row(f"repeats, {patch}", before, after),
        _row("repeats, as many other neurons off", before, control, control=True),
        *(bench.row(name, cost) for name, cost in clean.items()),
    ]
    cost = bench.mean(next(iter(clean.values())).ce)
    advice.facts["patch"] = patch_word(after.curve)
    change = advice.rows[0]["ce_change"]
    goes_on = ""
    if abs(after.same.mean() - before.same.mean()) >= 0.005:
        goes_on = (
            f", the repeat goes on in {after.same.mean():.0%} of the predictions of its second "
            f"half instead of {before.same.mean():.0%}"
        )
    advice.sentence += (
        f". With {patch} the last repeat has {after.curve[:, -1].mean():.0%} (with as many others "
        f"off {control.curve[:, -1].mean():.0%}), the loss of the repeated token changes by "
        f"{three(change.value, '+')} nats{goes_on}, and that of clean text by "
        f"{three(cost.value, '+')}."
    )


def patch_word(curve: np.ndarray) -> str | None:
    """Whether no repeat is like position zero under the patch; None where intervals leave it open.

    curve  [B, T] norm at each repeat over that of position zero
    """
    onset = onset_of(curve)
    if onset.low is None:
        return "works"
    return None if onset.high is None else "fails"


def _row(what: str, before: Seen, after: Seen, control: bool = False) -> AdviceRow:
    return {"what": what, "ce_change": bootstrap(after.loss - before.loss), "control": control}
