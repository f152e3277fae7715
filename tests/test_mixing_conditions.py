"""The circuit cut, its control, what it costs, and how much goes through the sink."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sinkscope.causal.power import prompts_to_settle
from sinkscope.circuit.unit import HEAD, NEURON, Unit
from sinkscope.errors import InputError
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.mixing.conditions import (
    INTACT,
    REDISTRIBUTED,
    VALUE_ZEROED,
    Condition,
    earlier_keys,
    in_heads,
    other_key,
    run,
)
from sinkscope.mixing.cuts import cut_conditions, cut_edits
from sinkscope.mixing.dose import costs, doses
from sinkscope.mixing.mediation import Mediation, mediate
from sinkscope.mixing.pairs import swapped
from sinkscope.mixing.perturbation import perturb
from sinkscope.mixing.sweeps import lengths_up_to, sweep_depth, sweep_length
from sinkscope.mixing.thresholds import USED
from sinkscope.mixing.use import DECIDING, use_of, what_is_open
from sinkscope.observe.parity import plain_logits, token_prompts
from sinkscope.observe.sites import find_sites
from sinkscope.result import Measured
from sinkscope.schema import MixRow
from sinkscope.stats import Draw, paired_change
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import build_prompts


@pytest.fixture(scope="module")
def known():
    """A constructed model whose sink is P0's, its circuit as the truth says, prompts, pairs."""
    from sinkscope.circuit.find import find_circuit

    spec = draw_spec("p0-two-block", seed=3, family="llama", noise=0.1)
    model, tokenizer, truth = build_in_memory(spec)
    subject = Subject.from_model(model, tokenizer)
    prompts = build_prompts(subject, n=24, length=64)
    circuit = find_circuit(subject, prompts, untrained=False)
    heads = tuple(map(tuple, truth.reading_heads))
    return subject, truth, prompts, circuit, heads


def writers(circuit):
    """Its writing neurons, (block, neuron)."""
    return {unit.place for unit in circuit.of(NEURON)}


def test_the_cut_circuit_has_no_sink_and_mixes_more_and_its_control_does_not(known):
    subject, truth, prompts, circuit, heads = known
    assert {tuple(n) for n in truth.writing_neurons} == writers(circuit)
    pairs = swapped(subject, prompts)
    intact = perturb(subject, pairs)
    share = {"intact": np.mean([intact.shares[:, b, h] for b, h in heads])}
    more = {}
    for condition in cut_conditions(subject, circuit):
        found = perturb(subject, pairs, condition, sites=circuit.sites)
        share[condition.name] = np.mean([found.shares[:, b, h] for b, h in heads])
        more[condition.name] = paired_change(found.final, intact.final)
    assert share["intact"] > 0.8
    assert share["circuit-cut"] < 0.1
    assert share["circuit-cut-norm-kept"] < 0.5 * share["intact"]
    assert share["circuit-cut-control"] > 0.95 * share["intact"]
    assert more["circuit-cut"].low > 0
    assert abs(more["circuit-cut-control"].value) < 0.1 * more["circuit-cut"].value


def test_the_control_of_a_cut_is_drawn_several_times(known):
    subject, _, _, circuit, _ = known
    control = cut_conditions(subject, circuit)[2]
    draws = control.each()
    assert len(draws) == 4
    drawn = [{(e.block, n) for e in draw.edits for n in e.neurons} for draw in draws]
    assert len(set(map(frozenset, drawn))) == 4
    for neurons in drawn:
        assert len(neurons) == len(writers(circuit))
        assert neurons.isdisjoint(writers(circuit))


def test_the_control_of_a_large_circuit_has_none_of_its_units(llama, ids):
    neurons, heads = [(0, n) for n in range(30)], [(1, 0), (1, 2)]
    sites = find_sites(llama, token_prompts(ids))
    units = [Unit(b, NEURON, n) for b, n in neurons] + [Unit(b, HEAD, h) for b, h in heads]
    circuit = SimpleNamespace(sites=sites, writers=units)
    for draw in cut_conditions(llama, circuit)[2].each():
        drawn = {(e.block, u) for e in draw.edits for u in getattr(e, "neurons", ())}
        other = {(e.block, u) for e in draw.edits for u in getattr(e, "heads", ())}
        assert drawn
        assert other
        assert drawn.isdisjoint(neurons)
        assert other.isdisjoint(heads)


def test_draws_are_run_one_by_one_and_averaged(llama, ids):
    prompts = token_prompts(ids)
    sites = find_sites(llama, prompts)
    drawn = [
        tuple(cut_edits(sites, [Unit(0, NEURON, n), Unit(1, NEURON, n + 1)])) for n in (0, 8, 16)
    ]
    control = Condition("control", draws=tuple(drawn))
    pairs = swapped(llama, prompts)
    spread, *parts = [perturb(llama, pairs, one, sites=sites) for one in (control, *control.each())]
    np.testing.assert_allclose(spread.final, np.mean([p.final for p in parts], 0), rtol=1e-5)
    assert abs(spread.final - parts[0].final).max() > 1e-4
    cost, *alone = costs(llama, prompts, [control, *control.each()], sites=sites)
    for name in ("ce", "kl", "left"):
        each = [getattr(one, name) for one in alone]
        np.testing.assert_allclose(getattr(cost, name), np.mean(each, 0), rtol=1e-4, atol=1e-8)
    assert abs(cost.kl - alone[0].kl).max() > 1e-5
    with pytest.raises(InputError, match="one by one"):
        run(llama, prompts, control, sites=sites)
    with pytest.raises(InputError, match="one by one"):
        mediate(llama, pairs, control, sites)


def test_the_norm_is_kept_where_it_is_said_to_be(known):
    subject, _, prompts, circuit, _ = known
    norms = {}

    def norm_of(condition):
        kept = []
        run(
            subject,
            prompts.take(slice(0, 4)),
            condition,
            sites=circuit.sites,
            consume=lambda point, hidden: kept.append(hidden[:, 0].norm(dim=-1)),
        )
        norms[condition.name] = torch.stack(kept)

    cut, kept, _ = cut_conditions(subject, circuit)
    for condition in (INTACT, cut, kept):
        norm_of(condition)
    first = cut.edits[0].first_block() + 1
    torch.testing.assert_close(norms[kept.name][first:], norms["intact"][first:], rtol=1e-4, atol=0)
    assert (norms[cut.name][first:] < 0.5 * norms["intact"][first:]).all()


def test_costs_against_logits_by_hand(llama, ids):
    prompts = token_prompts(ids)
    conditions = [Condition("none"), REDISTRIBUTED, other_key([3, 5])]
    found = costs(llama, prompts, conditions)
    assert np.abs(found[0].ce).max() < 1e-6
    assert np.abs(found[0].kl).max() < 1e-6
    intact = plain_logits(llama, prompts).log_softmax(-1)
    logits = run(llama, prompts, REDISTRIBUTED, logits=True).logits.log_softmax(-1)
    for row in range(2):
        loss = [-x[row, range(1, 23), ids[row, 2:]].mean().item() for x in (intact, logits)]
        assert found[1].ce[row] == pytest.approx(loss[1] - loss[0], abs=1e-4)
        kl = (intact[row].exp() * (intact[row] - logits[row])).sum(-1)[1:-1].mean()
        assert found[1].kl[row] == pytest.approx(float(kl), abs=1e-4)
    assert found[1].left.max() == 0
    assert found[2].removed.min() > 0


def test_a_dose_takes_more_and_more(known):
    subject, _, prompts, circuit, heads = known
    steps = doses(in_heads(REDISTRIBUTED, heads))
    found = costs(subject, prompts.take(slice(0, 4)), steps, heads)
    left = [one.left.mean() for one in found]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    assert left[1] == pytest.approx(2 * left[2], rel=0.02)
    cut = cut_conditions(subject, circuit)[0]
    parts = [sum(len(edit.neurons) for edit in step.edits) for step in doses(cut)]
    assert parts == sorted(set(parts))
    assert parts[-1] == len(writers(circuit))


def test_padding_does_not_count(llama, ids):
    prompts = token_prompts(ids)
    prompts.lengths = torch.tensor([24, 12])
    padded = costs(llama, prompts, [REDISTRIBUTED])[0]
    alone = costs(llama, token_prompts(ids[1:, :12]), [REDISTRIBUTED])[0]
    assert padded.ce[1] == pytest.approx(alone.ce[0], abs=1e-5)
    assert padded.kl[1] == pytest.approx(alone.kl[0], abs=1e-5)


def at(value, low, high):
    return Measured(value=value, low=low, high=high)


def test_what_a_change_of_the_loss_says():
    def use(effect, kl=None, control=None):
        return use_of(effect, control or quiet, kl or quiet, quiet)

    quiet, far = at(0.0, -0.001, 0.001), at(0.7, 0.6, 0.8)
    assert use(at(0.3, 0.2, 0.4)) == "used"
    assert use(at(0.3, 0.2, 0.4), control=at(0.3, 0.2, 0.4)) == "undetermined"
    assert use(at(-8.5, -9, -8), far) == "harmful"
    assert use(at(-8.5, -9, -8), far, control=at(-8.5, -9, -8)) == "undetermined"
    assert use(at(0.001, -0.001, USED / 2)) == "present, not needed"
    assert use(at(-0.2, -0.5, USED / 2)) == "undetermined"  # it may well be harmful
    assert use(at(0.001, -0.001, USED / 2), far) == "changes predictions"
    assert use(at(0.001, -0.001, USED / 2), at(0.05, 0.01, 0.09)) == "undetermined"
    assert use(at(0.02, 0.0, 0.04)) == "undetermined"
    assert use(Measured(value=0.3)) == "undetermined"


def test_in_the_constructed_model_the_rise_goes_through_the_masses(known):
    """Its heads are blind to the sink's value, so the masses are all there is."""
    subject, _, prompts, circuit, _ = known
    pairs = swapped(subject, prompts)
    found = mediate(subject, pairs, cut_conditions(subject, circuit)[0], circuit.sites)
    assert found.defined
    assert found.share.value == pytest.approx(1, abs=0.05)
    assert found.share.low > 0.9


def test_a_cut_that_goes_around_the_masses_is_not_mediated(known):
    """The control cut leaves the masses alone, and what it does is too little to have shares."""
    subject, _, prompts, circuit, _ = known
    pairs = swapped(subject, prompts.take(slice(0, 6)))
    control = cut_conditions(subject, circuit)[2].each()[0]
    found = mediate(subject, pairs, control, circuit.sites)
    assert abs(found.through.value) <= 1e-7
    assert not found.defined
    assert found.share.value is None
    # a change that goes around the masses altogether
    y = np.array([0.1, 0.2, 0.3])
    around = Mediation(y, y + 0.05 + 0.01 * y, y, y + 0.05 + 0.01 * y)
    assert around.share.value == around.share_by_direct.value == 0


def test_sweeps(known):
    subject, _, _, _, heads = known
    assert lengths_up_to(300) == [64, 128, 256, 300]
    assert lengths_up_to(64) == [64]
    prompts = build_prompts(subject, n=8, length=96)
    found = sweep_length(subject, prompts, [64, 96], heads)
    assert found.intact.shape == (2, 8)
    assert (found.share > 0.8).all()
    pairs = swapped(subject, prompts)
    depth = sweep_depth(subject, pairs, heads)
    assert sorted(depth) == sorted({block for block, _ in heads})
    whole = perturb(subject, pairs, in_heads(REDISTRIBUTED, heads)).final
    if len(depth) == 1:
        np.testing.assert_allclose(depth[next(iter(depth))], whole)


def test_the_value_of_the_sink_can_be_asked_for_apart(known):
    subject, _, prompts, _, heads = known
    some = prompts.take(slice(0, 6))
    mass, value = costs(
        subject, some, [in_heads(REDISTRIBUTED, heads), in_heads(VALUE_ZEROED, heads)], heads
    )
    assert value.left.min() > 0.8
    assert mass.left.max() == 0


def test_a_cut_of_nothing_is_no_condition(known):
    subject, _, prompts, _, _ = known
    sites = find_sites(subject, prompts)
    assert cut_edits(sites, []) == ()
    assert earlier_keys(prompts, torch.full((24,), 9)).max() < 9


def test_what_is_open_says_what_is_known_and_how_many_prompts_would_settle_it():
    ce = np.array([0.3, -0.1, 0.1, 0.0, 0.2, -0.2])
    names = ("redistributed", "value-zeroed", "other-key")
    mass, value, other = (
        SimpleNamespace(ce=ce if name in names[:2] else 0 * ce, kl=0 * ce) for name in names
    )
    found = SimpleNamespace(
        heads=((1, 0),),
        costs={"redistributed": [mass], "value-zeroed": [value], "other-key": [other]},
        controls=dict.fromkeys(names[:2], "other-key"),
        draw=Draw(None, 0),
    )
    row = {"use": "undetermined", "ce_change": at(0.05, -0.1, 0.2)}
    rows = {
        name: MixRow(name=name, what=f"the {name} sink", kl=at(kl, kl, kl), **row)
        for name, kl in zip(names[:2], (0.2, 0.0))
    }
    needs = prompts_to_settle(ce, USED)
    assert needs > 100
    assert what_is_open(found, rows) == (
        "The redistributed sink: the loss changes by -0.100 to +0.200 nats a token (6 prompts "
        f"cannot tell that from 0.01: take {needs} prompts and as many pairs). The predictions do "
        "change, by 0.200 to 0.200 nats of KL."
    )
    rows["redistributed"].use = "present, not needed"
    assert "KL" not in what_is_open(found, rows)
    rows["value-zeroed"].use = "used"
    assert what_is_open(found, rows) == ""


def test_where_intervals_count_documents_so_does_what_would_settle_it():
    generator = np.random.default_rng(0)
    units = np.repeat(np.arange(8), 6)
    ce = 0.01 + 0.1 * generator.normal(size=8)[units] + 0.01 * generator.normal(size=48)
    draw = Draw(units)
    low_high = draw.mean(ce)
    each = draw.of_units(ce)
    assert each.mean() == pytest.approx(ce.mean())
    assert len(each) == 8
    resamples = (low_high.high - low_high.low) / 2 / 1.96
    assert each.std(ddof=1) / 8**0.5 == pytest.approx(resamples, rel=0.35)
    cost = SimpleNamespace(ce=ce, kl=0 * ce)
    found = SimpleNamespace(
        heads=((1, 0),),
        costs={name: [cost] for name in (*DECIDING, "other-key")},
        controls=dict.fromkeys(DECIDING, "other-key"),
        draw=draw,
    )
    row = {"use": "undetermined", "ce_change": low_high, "kl": at(0.0, 0.0, 0.0)}
    rows = {name: MixRow(name=name, what="it", **row) for name in DECIDING}
    needs, alone = prompts_to_settle(each, USED), prompts_to_settle(ce, USED)
    assert 6 * needs > alone  # alike windows of a document are worth less than apart ones
    said = f"48 prompts of 8 documents cannot tell that from {USED}: take {needs} documents by "
    assert f"{said}--text, {6 * needs} prompts and as many pairs)." in what_is_open(found, rows)
