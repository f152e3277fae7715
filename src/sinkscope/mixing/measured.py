"""Everything that `mix` measures under one BOS policy, in order."""

from __future__ import annotations

from sinkscope.circuit.find import find_circuit
from sinkscope.circuit.reading import sinks_on
from sinkscope.errors import NOT_ASKED, Missing, SinkscopeError, Unsupported
from sinkscope.frame import Progress
from sinkscope.intervene.edits.base import check_right_padded
from sinkscope.mixing.collapse import collapse
from sinkscope.mixing.conditions import (
    INTACT,
    OTHER_KEY,
    REDISTRIBUTED,
    VALUE_ZEROED,
    Condition,
    at_keys,
    check_subject,
    earlier_keys,
    in_heads,
    other_key,
    other_value,
)
from sinkscope.mixing.cuts import CUT, cut_conditions
from sinkscope.mixing.dose import Cost, costs, doses
from sinkscope.mixing.dropped import dropped_bos
from sinkscope.mixing.entropy import map_curves
from sinkscope.mixing.influence import Influence, influences
from sinkscope.mixing.jacobian import jacobian_norms
from sinkscope.mixing.mediation import Mediation, mediate
from sinkscope.mixing.pairs import Pairs, read_paraphrases, swapped
from sinkscope.mixing.paths import path_bound
from sinkscope.mixing.perturbation import Spread, perturb
from sinkscope.mixing.record import Bound, Mixed
from sinkscope.mixing.sweeps import (
    LONGEST,
    LengthSweep,
    lengths_up_to,
    sweep_depth,
    sweep_length,
)
from sinkscope.observe.sites import Sites
from sinkscope.settings import MixSettings
from sinkscope.subject.at_hand import no_gradients
from sinkscope.subject.fitting import check_length
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, build_prompts

PILOT = 8  # prompts for collapse, maps, sweeps
COLLAPSE_TOKENS = 256
BOUND_TOKENS, BOUND_WIDTH = 16, 256  # the path-sum bound is for small models
DOSED = (REDISTRIBUTED.name, VALUE_ZEROED.name, CUT)  # at rising doses; the others in full


def measure(subject: Subject, prompts: Prompts, settings: MixSettings, progress: Progress) -> Mixed:
    """Measure everything under one BOS policy."""
    check_subject(subject)
    check_right_padded(prompts)
    step = _labelled(progress, prompts.bos)
    rewritten = None  # read first, so that a bad file costs no measuring
    if settings.paraphrases:
        file = settings.paraphrases
        rewritten = read_paraphrases(subject, file, prompts.bos, prompts.length)
    check_length(subject, settings.longest or 0, "longest")
    prompts, notes = _first(prompts, settings.pairs)
    step("conditions", 0, 1)
    pairs = swapped(subject, prompts, settings.swaps, settings.seed)
    keys = earlier_keys(prompts, pairs.first, settings.seed)
    heads = sinks_on(subject, prompts).heads
    if not heads:
        notes.append("No head sinks at P0, so the conditions act on every head.")
    conditions, sites = _conditions(subject, prompts, heads, keys, settings, notes)
    pilot = prompts.take(slice(0, PILOT))
    found = Mixed(
        subject=subject,
        prompts=prompts,
        settings=settings,
        heads=heads,
        pairs=pairs,
        conditions=conditions,
        spreads=_spreads(subject, pairs, conditions, sites, step),
        costs=_costs(subject, prompts, conditions, heads, sites, step),
        collapses={
            name: collapse(
                subject, pilot.first_tokens(COLLAPSE_TOKENS),
                at_keys(conditions[name], keys.clamp_max(COLLAPSE_TOKENS - 1).tolist()),
                sites=sites,
            )
            for name in _few(conditions)
        },
        maps=map_curves(subject, pilot),
        influence=_influence(subject, prompts, conditions, sites, settings, step),
        bound=_bound(subject, prompts, settings),
        mediation=_mediation(subject, pairs, conditions, sites),
        notes=notes,
    )  # fmt: skip
    _extras(found, rewritten, step)
    return found


def _first(prompts: Prompts, count: int) -> tuple[Prompts, list[str]]:
    """The first of the prompts, and what is to be said where that is not all of them."""
    if len(prompts) <= count:
        return prompts, []
    note = f"What is measured here is of the first {count} of {len(prompts)} prompts (pairs)."
    return prompts.take(slice(0, count)), [note]


def _labelled(progress: Progress, bos: str):
    return lambda what, done, total: progress(f"{what} ({bos} BOS)", done, total)


def _conditions(
    subject: Subject, prompts: Prompts, heads, keys, settings: MixSettings, notes: list[str]
) -> tuple[dict[str, Condition], Sites | None]:
    """All conditions by name, and the sites that the circuit's edits need."""
    at_heads = [
        in_heads(each, heads)
        for each in (REDISTRIBUTED, VALUE_ZEROED, other_key(keys), other_value(keys))
    ]
    found = [INTACT, *at_heads]
    sites = None
    if settings.circuit and heads:
        try:
            circuit = find_circuit(subject, prompts, seed=settings.seed, untrained=False)
        except Unsupported as error:
            notes.append(f"The circuit could not be cut: {error}")
        else:
            cuts = cut_conditions(subject, circuit, settings.seed)
            sites = circuit.sites
            found += cuts
            if not cuts:
                notes.append("No neuron or head was found to write the sink, so none was cut.")
    return {condition.name: condition for condition in found}, sites


def _spreads(subject, pairs: Pairs, conditions, sites, step) -> dict[str, Spread]:
    found = {}
    for done, (name, condition) in enumerate(conditions.items()):
        step("spread", done, len(conditions))
        found[name] = perturb(subject, pairs, condition, sites=sites)
    step("spread", 1, 1)
    return found


def _few(conditions: dict[str, Condition]) -> list[str]:
    """The conditions that dearer measures are taken under."""
    return [n for n in (INTACT.name, REDISTRIBUTED.name, OTHER_KEY, CUT) if n in conditions]


def _costs(subject, prompts, conditions, heads, sites, step) -> dict[str, list[Cost]]:
    asked = {
        name: doses(one) if name in DOSED else [one]
        for name, one in conditions.items()
        if name != INTACT.name
    }
    flat = [one for each in asked.values() for one in each]
    found = iter(
        costs(
            subject, prompts, flat, heads, sites=sites,
            progress=lambda done, total: step("loss", done, total),
        )
    )  # fmt: skip
    return {name: [next(found) for _ in each] for name, each in asked.items()}


def _influence(
    subject, prompts, conditions, sites, settings: MixSettings, step
) -> Influence | Missing:
    if not settings.jacobian:
        return NOT_ASKED
    if reason := no_gradients(subject.model):
        return Missing(reason)
    chosen = [conditions[name] for name in _few(conditions)]
    try:
        return influences(
            subject, prompts, chosen, sites=sites, seed=settings.seed,
            progress=lambda done, total: step("Jacobian", done, total),
        )  # fmt: skip
    except (Unsupported, RuntimeError) as error:  # an operator without a derivative
        return Missing(str(error).splitlines()[0])


def _bound(subject: Subject, prompts: Prompts, settings: MixSettings) -> Bound | Missing:
    if not settings.jacobian:
        return NOT_ASKED
    if reason := no_gradients(subject.model):
        return Missing(reason)
    if subject.anatomy.hidden_size > BOUND_WIDTH:
        return Missing(f"for models of at most {BOUND_WIDTH} channels")
    ids = prompts.input_ids[0, : min(BOUND_TOKENS, int(prompts.lengths[0]))]
    try:
        found = path_bound(subject, ids).bound
        return Bound(found, jacobian_norms(subject, ids, frozen=True).norm)
    except (SinkscopeError, RuntimeError) as error:
        return Missing(str(error).splitlines()[0])


def _mediation(subject, pairs, conditions, sites) -> Mediation | Missing:
    if CUT not in conditions:
        return Missing("the circuit was not cut")
    return mediate(subject, pairs, conditions[CUT], sites)


def _extras(found: Mixed, rewritten: Pairs | None, step) -> None:
    """Sweeps, BOS dropped, paraphrases."""
    settings, subject = found.settings, found.subject
    if settings.sweeps:
        found.lengths = _lengths(found, step)
        few = found.pairs.take(slice(0, PILOT))
        found.depth = sweep_depth(
            subject, few, found.heads, lambda done, total: step("depth", done, total)
        )
    if found.prompts.bos == "with":
        found.dropped = dropped_bos(subject, found.pairs)
    if rewritten is not None:
        both = (INTACT.name, REDISTRIBUTED.name)
        spreads = {name: perturb(subject, rewritten, found.conditions[name]) for name in both}
        found.paraphrases = (rewritten, spreads)
        if rewritten.skipped:
            found.notes.append(f"{rewritten.skipped} paraphrase pairs of unequal length left out.")


def _lengths(found: Mixed, step) -> LengthSweep | None:
    """The same kind of prompts at rising lengths; None where the text is too short for two."""
    settings, subject = found.settings, found.subject
    limit = settings.longest or min(subject.max_length or LONGEST, LONGEST)
    prompts = found.prompts.take(slice(0, PILOT))
    if settings.longest or found.prompts.kind != "ids":
        prompts = build_prompts(
            subject, text=settings.text, kind=settings.kind, n=len(prompts), length=limit,
            bos=found.prompts.bos, seed=settings.seed, chat_template=settings.chat_template,
        )  # fmt: skip
        # whole windows come first; shorter documents would end the sweep early
        prompts = prompts.take(slice(0, int((prompts.lengths == prompts.length).sum())))
    lengths = lengths_up_to(int(prompts.lengths.min()))
    if len(lengths) < 2:
        found.notes.append(f"No length sweep: the prompts have {lengths[-1]} tokens at most.")
        return None
    if subject.max_length and limit < subject.max_length:
        found.notes.append(
            f"The length sweep ends at {lengths[-1]} tokens; the model reaches "
            f"{subject.max_length} (longest)."
        )
    return sweep_length(
        subject, prompts, lengths, found.heads, settings.seed,
        lambda done, total: step("lengths", done, total),
    )  # fmt: skip
