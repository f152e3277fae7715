"""Does a long repeat of one token take over the sink (Yona et al., arXiv 2503.08908)?

Under a causal mask a token that has seen only itself looks like a first token, wherever it stands.
In rows of one token over and over, the norm of the stream at each repeat is held against that of
position zero, at the read point where position zero stands out most. Where repeats come close, the
patch of the paper is tried: the MLP neurons that write P0's norm are switched off at every position
but the first, on repeats and on clean text.
"""

from __future__ import annotations

import numpy as np

from sinkscope.advice.bench import Bench
from sinkscope.advice.writers import STANDS_OUT, norm_writers, run_norms, where_p0_stands_out
from sinkscope.errors import Unsupported
from sinkscope.intervene.cost import losses
from sinkscope.intervene.edits import Edit
from sinkscope.observe.sites import Sites, find_sites
from sinkscope.replications.edits import NeuronsOff
from sinkscope.schema.advise import Advice, AdviceRow
from sinkscope.stats import bootstrap
from sinkscope.subject.prompts import Prompts, build_prompts

QUESTION = "Does a repeated token take over the sink?"
ALIKE = 0.5  # part of P0's norm from which a repeat counts as like it
ROWS = 8


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
    curve, logits = _norms(bench, repeats, point)
    bench.arrays["repeat_norm"] = curve.mean(0)
    from_length = onset(curve.mean(0))
    if from_length is None:
        return Advice(
            question=QUESTION,
            answer="no",
            sentence=f"In {repeats.length} repeats of a token none comes to {ALIKE:.0%} of the "
            f"norm of position zero (the largest: {curve.mean(0)[1:].max():.0%}).",
            facts={"repeats": "none"},
        )
    return _taken_over(bench, repeats, point, curve, logits, from_length)


def onset(curve: np.ndarray) -> int | None:
    """The number of repeats from which all later ones are like position zero; None for never.

    curve [T] norm of each repeat over that of position zero.
    """
    alike = curve >= ALIKE
    if not alike[-1]:
        return None
    return int(len(alike) - np.argmin(alike[::-1])) + 1 if not alike.all() else 2


def _norms(bench: Bench, repeats: Prompts, point: int, *edits: Edit, sites: Sites | None = None):
    """[B, T] norm of each repeat over P0's, and the logits."""
    norms, logits = run_norms(bench, repeats, tuple(edits), sites)
    return (norms[point] / norms[point][:, :1]).numpy(), logits


def _taken_over(bench: Bench, repeats: Prompts, point, curve, logits, start: int) -> Advice:
    said = (
        f"From {start} repeats on a token has {curve.mean(0)[-1]:.0%} of the norm of position "
        f"zero at read point {point}"
    )
    rows: list[AdviceRow] = []
    facts: dict[str, str | float | None] = {"repeats": float(start)}
    limits = "Rows of one token alone; what an attacker would mix in was not tried."
    try:
        sites = find_sites(bench.subject, bench.prompts)
        writers = norm_writers(bench, sites, point)
    except Unsupported as error:
        said += f". No patch was tried: {error}"
    else:
        patch = NeuronsOff(writers.block, writers.neurons, but_first=True)
        after, patched = _norms(bench, repeats, point, patch, sites=sites)
        before_loss, after_loss = (losses(x, repeats).numpy() for x in (logits, patched))
        change = bootstrap(after_loss - before_loss)
        clean = bench.cost({f"clean text, {patch}": patch}, sites=sites)
        rows.append({"what": f"repeats, {patch}", "ce_change": change, "control": False})
        rows += [bench.row(name, cost, control=True) for name, cost in clean.items()]
        cost = bench.mean(next(iter(clean.values())).ce)
        undone = onset(after.mean(0)) is None
        facts["patch"] = "works" if undone else "fails"
        said += (
            f"; with {patch} it has {after.mean(0)[-1]:.0%}, and clean text loses "
            f"{cost.value:.3f} nats a token."
        )
    return Advice(
        question=QUESTION,
        answer=f"from {start} on",
        sentence=said,
        facts=facts,
        rows=rows,
        limits=limits,
    )
