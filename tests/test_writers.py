"""Writers are those of what sink heads read: beside unread spikes, in groups, over real tokens."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import sinkscope
from sinkscope.circuit import phase_parts, writers
from sinkscope.circuit.ablated import ablated
from sinkscope.circuit.components import Components, main_components
from sinkscope.circuit.find import find
from sinkscope.circuit.head_reads import HeadReads
from sinkscope.circuit.naming import what_is_read
from sinkscope.circuit.notes import notes_on_writers
from sinkscope.circuit.phase_parts import PhaseParts, PhaseWrites
from sinkscope.circuit.phases import Phase
from sinkscope.circuit.ranking import usual_inputs
from sinkscope.circuit.streams import p0_points
from sinkscope.circuit.unit import EXPERT, NEURON, SHARED, Unit, of_kind
from sinkscope.circuit.writes import Writes
from sinkscope.observe.p0_stream import p0_states, prompt_tokens
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import find_sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import build_prompts
from sinkscope.subject.tiny import tiny_model
from tests.test_circuit import constructed, pairs

TIMES = 10.0  # an unread write over the one that is read


def unread_direction(subject, truth, seed=1):
    """A unit vector that no key, query or writing neuron of this model reads."""
    layers = subject.model.model.layers
    block, neuron = truth.writing_neurons[0]
    mlp = layers[block].mlp
    rows = [
        mlp.gate_proj.weight[neuron],
        mlp.up_proj.weight[neuron],
        mlp.down_proj.weight[:, neuron],
    ]
    for b in {b for b, _ in truth.reading_heads}:
        attention = layers[b].self_attn
        rows += [*attention.k_proj.weight, *attention.q_proj.weight]
    basis = torch.linalg.svd(torch.stack(rows).detach(), full_matrices=True)
    rank = int(torch.linalg.matrix_rank(torch.stack(rows).detach(), rtol=1e-5))
    free = basis.Vh[rank:]
    draw = torch.randn(len(free), generator=torch.Generator().manual_seed(seed)) @ free
    return draw / draw.norm()


def copied_writer(subject, truth, block, column):
    """A further neuron of `block` that fires where the first writing one does; its index."""
    layers = subject.model.model.layers
    at, neuron = truth.writing_neurons[0]
    taken = {n for b, n in truth.writing_neurons if b == block}
    new = next(n for n in range(layers[block].mlp.gate_proj.weight.shape[0]) if n not in taken)
    with torch.no_grad():
        for name in ("gate_proj", "up_proj"):
            weight = getattr(layers[at].mlp, name).weight[neuron].clone()
            getattr(layers[block].mlp, name).weight[new] = weight
        layers[block].mlp.down_proj.weight[:, new] = column
    return new


def column_of(subject, truth):
    block, neuron = truth.writing_neurons[0]
    return subject.model.model.layers[block].mlp.down_proj.weight[:, neuron].detach().clone()


def lengths(subject, prompts, truth):
    """Norm of P0 at the input of the writing block, and of the first reading one."""
    points = p0_points(subject, find_sites(subject, prompts), prompts.input_ids[:, 0])
    norm = points.norm(dim=-1).mean(0)
    return norm[2 * truth.writing_neurons[0][0] + 1], norm[2 * truth.from_block]


def louder_keys(subject, truth, factor):
    """Let the heads read the written direction with so much more gain, and nothing else."""
    u = column_of(subject, truth)
    u = u / u.norm()
    with torch.no_grad():
        for b in {b for b, _ in truth.reading_heads}:
            keys = subject.model.model.layers[b].self_attn.k_proj.weight
            keys += (factor - 1) * torch.outer(keys @ u, u)


@pytest.mark.parametrize("where", ["same block", "earlier"])
def test_a_longer_write_that_no_head_reads_is_not_the_circuit(where):
    subject, prompts, truth = constructed(
        "p0-deeper", family="llama", noise=0.0, writers=2, spike=12.0
    )
    before = lengths(subject, prompts, truth)
    block = truth.writing_neurons[0][0]
    at = block if where == "same block" else 1
    column = column_of(subject, truth)
    spike = TIMES * column.norm() * unread_direction(subject, truth)
    copied_writer(subject, truth, at, spike)
    grown = lengths(subject, prompts, truth)[0] / before[0]
    with torch.no_grad():  # what reads P0 behind the spike sees it so much shorter
        for b, neuron in truth.writing_neurons:
            subject.model.model.layers[b].mlp.gate_proj.weight[neuron] *= grown
            subject.model.model.layers[b].mlp.up_proj.weight[neuron] *= grown
    louder_keys(subject, truth, lengths(subject, prompts, truth)[1] / before[1])
    found = find(subject, prompts)
    circuit = found.circuit
    assert set(circuit.reading_heads) == pairs(truth.reading_heads)
    assert circuit.emergence_block == block
    assert {unit.place for unit in circuit.of(NEURON)} == pairs(truth.writing_neurons)
    assert found.named.kept < 0.5
    if where == "earlier":
        unread = [part for part in circuit.phases if not part.sink_heads]
        assert [part.phase.block for part in unread] == [1]
        assert circuit.amplification == "direction"
        notes = sinkscope.trace(subject, prompts=prompts).summary.trace["without"].notes
        assert any("rises in block 1" in note and "no sink head reads" in note for note in notes)


def test_heads_that_read_different_writers_bring_each_their_own():
    subject, prompts, truth = constructed("p0-deeper", family="llama", noise=0.0, writers=1)
    before = lengths(subject, prompts, truth)[1]
    block = truth.writing_neurons[0][0]
    u = column_of(subject, truth)
    v = unread_direction(subject, truth)
    other = copied_writer(subject, truth, block, u.norm() * v)
    louder_keys(subject, truth, lengths(subject, prompts, truth)[1] / before)
    blocks = sorted({b for b, _ in truth.reading_heads})
    with torch.no_grad():
        for b in blocks[: len(blocks) // 2]:
            keys = subject.model.model.layers[b].self_attn.k_proj.weight
            keys += torch.outer(keys @ (u / u.norm()), v - u / u.norm())
    circuit = find(subject, prompts).circuit
    assert set(circuit.reading_heads) == pairs(truth.reading_heads)
    named = {unit.place for unit in circuit.of(NEURON)}
    assert named == {*pairs(truth.writing_neurons), (block, other)}


@pytest.mark.parametrize(("family", "seed"), [("llama", 7), ("gpt2", 7)])
def test_no_writer_that_one_group_of_heads_needs_is_left_out(family, seed):
    """Fewest for 90 % of both groups together are seven of eight; the eighth keeps one group."""
    subject, prompts, truth = constructed("p0-head-groups", seed, family=family, noise=0.05)
    found = find(subject, prompts)
    assert {unit.place for unit in found.circuit.of(NEURON)} == pairs(truth.writing_neurons)
    assert found.named.kept < 0.1
    assert found.circuit.emergence_block == truth.amplifying_blocks[0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_sink_in_part_of_the_prompts_is_traced_on_those(family):
    subject, prompts, truth = constructed("p0-part", family=family, noise=0.0)
    prompts.input_ids[::4, 0] = torch.tensor(truth.tokens[: len(prompts.input_ids[::4])])
    marked = torch.isin(prompts.input_ids[:, 0], torch.tensor(truth.tokens))
    summary = sinkscope.trace(subject, prompts=prompts, untrained=False).summary.trace["without"]
    assert summary.emergence_block == truth.amplifying_blocks[0]
    assert pairs(summary.writing_neurons) == pairs(truth.writing_neurons)
    assert pairs(summary.reading_heads) == pairs(truth.reading_heads)
    assert f"in {int(marked.sum())} of {len(marked)} prompts" in " ".join(summary.notes)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_where_the_others_are_suppressed_the_block_is_that_of_the_suppression(family):
    subject, prompts, truth = constructed("p0-suppression", family=family, noise=0.02)
    found = find(subject, prompts)
    assert found.circuit.emergence_block == truth.amplifying_blocks[0]
    (main,) = (part.phase.block for part in found.circuit.phases if part.most_read)
    assert main == truth.amplifying_blocks[0]


def test_where_the_others_are_made_long_the_writers_are_those_that_do_it():
    """No logit on P0 is linear in what others are given along a direction that no head reads."""
    subject, prompts, truth = constructed("p0-suppression", family="llama", noise=0.0)
    unread = unread_direction(subject, truth)
    with torch.no_grad():
        for block, neuron in truth.writing_neurons:
            column = subject.model.model.layers[block].mlp.down_proj.weight[:, neuron]
            column.copy_(TIMES * column.norm() * unread)
        for block in {block for block, _ in truth.reading_heads}:  # the others ask by their length
            queries = subject.model.model.layers[block].self_attn.q_proj.weight
            queries.copy_(queries.norm(dim=1, keepdim=True) * unread)
    found = find(subject, prompts)
    assert found.circuit.emergence_block == truth.amplifying_blocks[0]
    assert {unit.place for unit in found.circuit.writers} == pairs(truth.writing_neurons)
    assert found.named.kept < 0.5


def test_what_is_usual_leaves_out_positions_that_are_amplified_as_position_zero_is():
    """A token that repeats the first is as unmixed, and a few such would leave P0 long."""
    subject, prompts, truth = constructed("p0-two-block", family="llama", noise=0.0)
    prompts.input_ids[:, 1] = prompts.input_ids[:, 0]
    block, neuron = truth.writing_neurons[0]
    inputs = []
    down = subject.model.model.layers[block].mlp.down_proj
    handle = down.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        subject.model(prompts.input_ids)
    handle.remove()
    at_p0, at_first = inputs[0][:, :2, neuron].mean(0)
    assert at_first > 0.9 * at_p0
    usual = usual_inputs(subject, find_sites(subject, prompts), prompts)
    assert usual[block, "1"][neuron] < 0.001 * at_p0


@pytest.mark.parametrize(
    ("mark", "at_others", "named"), [(0.1, False, False), (0.5, False, True), (0.5, True, False)]
)
def test_a_mark_that_later_writes_need_is_no_writer(mark, at_others, named, monkeypatch):
    """Of what is not read only what is amplified at P0: half as much along u as what is read."""
    first, second = Unit(0, NEURON, 3), Unit(1, NEURON, 8)
    share = {first: mark, second: 0.5}
    monkeypatch.setattr(writers, "part_of", lambda writes, units: sum(share[u] for u in units))
    monkeypatch.setattr(writers, "together", lambda subject: nullcontext(lambda f, x: lambda: f(x)))
    naming = SimpleNamespace(at_others=at_others, stop=3, subject=None, lost=lambda units: 1.0)
    along_u = Components(tuple(share.items())), None
    assert writers._needed(naming, [second], along_u) == ([first] if named else [])


@pytest.mark.parametrize(("p0", "others", "at_others"), [(3.0, 0.5, False), (0.5, -3.0, True)])
def test_whether_what_is_read_is_written_at_the_others(p0, others, at_others):
    """Block 1 raises the logits along the second channel: at P0, or by what it does elsewhere."""
    here, there = torch.zeros(3, 2), torch.zeros(3, 2)
    here[2, 1], there[2, 1] = p0, others
    gradient, blocks = torch.tensor([[0.0, 1.0]]), torch.tensor([2])
    read = what_is_read(gradient, blocks, 1, here, there, [])
    assert read.at_others is at_others
    assert read.added.tolist() == [[0.0, 0.0, p0 - others]]


def test_heads_that_read_nothing_of_what_position_zero_is_given_have_no_phase():
    """They prefer the farthest key: no block gives them that, least of all one behind the last."""
    subject, prompts, truth = constructed("rotary-distance", noise=0.0)
    circuit = find(subject, prompts).circuit
    assert set(circuit.reading_heads) == pairs(truth.reading_heads)
    assert (circuit.phases, circuit.emergence_block, circuit.writers) == ((), None, ())


def test_the_read_curve_rises_with_the_write_that_is_read():
    subject, prompts, truth = constructed("p0-deeper", family="llama", noise=0.05)
    found = find(subject, prompts)
    reads = HeadReads(subject, found.circuit.sites, found.observed, truth.reading_heads, found.here)
    block = truth.writing_neurons[0][0]
    assert (reads.block == block).all()
    assert (reads.between(reads.curve[:, 0], reads.curve[:, block + 1]) < 0.2).all()
    assert torch.allclose(reads.intact, reads.margins(lambda b, hidden: hidden)[0], atol=1e-3)
    own = found.logits.value[: len(reads.tokens)]
    rows = [found.logits.heads.index(tuple(head)) for head in reads.heads]
    others = torch.stack([reads._others[b][: len(own), h] for b, h in reads.heads], 1)
    assert torch.allclose(reads.intact, own[:, rows] - others, atol=1e-3)


def test_units_without_which_the_sink_stays_are_not_named(monkeypatch):
    subject, prompts, truth = constructed("p0-two-block", family="llama", noise=0.05)
    wrong = Components(((Unit(truth.writing_neurons[0][0], NEURON, 0), 1.0),))
    assert (truth.writing_neurons[0][0], 0) not in pairs(truth.writing_neurons)
    monkeypatch.setattr(writers, "main_components", lambda writes, share=0.9: wrong)
    monkeypatch.setattr(writers, "_needed", lambda *_: [])
    summary = sinkscope.trace(subject, prompts=prompts).summary.trace["without"]
    assert summary.writing_neurons == []
    assert summary.named["kept"] > 0.9
    assert summary.named["rejected"] == [[truth.writing_neurons[0][0], NEURON, 0]]
    assert any("No writer is named" in note for note in summary.notes)


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt_oss"])
def test_as_many_more_are_named_as_the_sink_needs_where_a_tenth_of_the_write_is_enough(family):
    subject, prompts, truth = constructed("p0-two-block", family=family, noise=0.0, writers=4)
    first, *rest = truth.writing_neurons
    mlp = subject.model.model.layers[first[0]].mlp
    with torch.no_grad():  # it makes more than 90 %; each of the others is enough by itself
        if family == "llama":
            mlp.down_proj.weight[:, first[1]] *= 30
        elif family == "mixtral":
            mlp.experts.down_proj[:, :, first[1]] *= 30
        else:
            mlp.experts.down_proj[:, first[1]] *= 30
    named = find(subject, prompts).named
    assert next(unit.place for unit in named.components.units) == tuple(first)
    neurons = of_kind(named.components.units, NEURON)
    assert {unit.place for unit in neurons} == pairs([first, *rest])
    assert (named.kept < 0.5, named.fewest) == (True, 1)


def test_units_of_experts_are_ablated_at_position_zero_and_weights_stay_as_they_were():
    subject = Subject.from_model(tiny_model("qwen2_moe"))
    prompts = token_prompts(torch.arange(3, 27).view(2, 12))
    sites, tokens = find_sites(subject, prompts), torch.tensor([3, 15])
    usual = usual_inputs(subject, sites, prompts)
    mlp = subject.anatomy.modules(subject.model)[1].mlp
    routed, shared = mlp.experts.down_proj.data, mlp.shared_expert.down_proj

    def states(hooks=list):
        def read(keep):
            return lambda: [*hooks(), *residual_hooks(subject, keep)()]

        return p0_states(subject, tokens, read)

    intact, weights = states(), routed.clone()
    off = states(ablated(subject, sites, usual, [Unit(1, NEURON, 2)]))
    torch.testing.assert_close(routed, weights, rtol=0, atol=0)
    routed[:, :, 2] = 0.0
    torch.testing.assert_close(off, states())
    routed.copy_(weights)
    assert (off - intact)[:, 2].norm() > 1e-4
    key = next(key for key in usual if key[0] == 1 and key[1].endswith("shared"))

    def as_usual(module, args):
        given = args[0].clone()
        given[..., 5] = usual[key][5]
        return (given,)

    mean = states(ablated(subject, sites, usual, [Unit(1, SHARED, 5)]))
    torch.testing.assert_close(mean, states(lambda: [shared.register_forward_pre_hook(as_usual)]))
    assert (mean - intact)[:, 2].norm() > 1e-6
    assert ablated(subject, sites, {}, [Unit(1, SHARED, 5)]) is None
    assert ablated(subject, sites, usual, [Unit(1, EXPERT, 0)]) is None


def test_beside_another_sink_the_writers_of_the_circuit_are_named():
    """Half of the heads read the circuit, half the BOS embedding, which has no writer."""
    subject, _, truth = constructed("p0-and-bos", family="llama", noise=0.02)
    prompts = build_prompts(subject, n=16, length=64, bos="with")
    summary = sinkscope.trace(subject, prompts=prompts, untrained=False).summary.trace["with"]
    assert pairs(summary.writing_neurons) == pairs(truth.writing_neurons)
    assert summary.emergence_block == truth.amplifying_blocks[0]
    assert pairs(summary.reading_heads) == pairs(truth.reading_heads)
    assert summary.named["kept"] < 0.5
    assert 0 < summary.named["of_heads"] < len(truth.reading_heads)
    assert any("The named writers are those of" in note for note in summary.notes)


def test_units_that_write_against_each_other_are_named_together():
    subject, prompts, _ = constructed("p0-two-block", family="llama", noise=0.0)
    sites = find(subject, prompts).circuit.sites
    units = torch.zeros(12)
    units[3], units[5], units[7] = 80.0, -70.0, 0.5
    below = torch.zeros(12)
    below[1] = -60.0  # takes back in another block: not of the writer
    writes = Writes(
        sites,
        total={"1.mlp": float(units.sum()), "2.mlp": -60.0},
        units={"1.mlp": units, "2.mlp": below},
    )
    found = main_components(writes)
    assert [unit.place for unit in found.units] == [(1, 3), (1, 5)]
    assert sum(share for _, share in found.shares) == pytest.approx(10 / 10.5)
    units[8], units[9] = 75.0, -72.0  # a second pair: what is left of the first is not 90 %
    writes.total["1.mlp"] = float(units.sum())
    assert {unit.index for unit in main_components(writes).units} == {3, 5, 8, 9}


def test_first_tokens_are_those_of_the_prompts():
    ids = torch.randint(2, 50, (6, 20), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = torch.tensor([7, 7, 7, 9, 9, 11])
    assert prompt_tokens(token_prompts(ids)).tolist() == [7, 7, 7, 9, 9, 11]
    ids[:, 0] = 7
    assert prompt_tokens(token_prompts(ids)).tolist() == [7]


def test_writers_of_the_tokens_that_prompts_begin_with():
    """Tokens that begin a prompt are written by one neuron, all others by another."""
    subject, prompts, truth = constructed("p0-two-block", family="llama", noise=0.0, writers=1)
    block, neuron = truth.writing_neurons[0]
    free = unread_direction(subject, truth)
    vocabulary = subject.model.get_input_embeddings().weight
    here = torch.zeros(len(vocabulary), dtype=torch.bool)
    here[prompts.input_ids[:, 0].unique()] = True
    with torch.no_grad():
        mark = 4.0 * torch.where(here, 1.0, -1.0)
        vocabulary += (mark - vocabulary @ free)[:, None] * free
        other = copied_writer(subject, truth, block, column_of(subject, truth))
        mlp, seen = subject.model.model.layers[block].mlp, []
        hook = mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, 0]))
        subject.model(prompts.input_ids)
        hook.remove()
        up = mlp.up_proj.weight
        size = (seen[0] @ up[neuron]).mean() / (seen[0] @ free).mean()
        up[neuron], up[other] = up[neuron] + size * free, up[neuron] - size * free
        up[[neuron, other]] /= 2
    found = find(subject, prompts)
    assert {unit.place for unit in found.circuit.of(NEURON)} == {(block, neuron)}
    assert found.named.prompts > 0.8
    assert found.named.vocabulary < 0.5
    notes = sinkscope.trace(subject, prompts=prompts).summary.trace["without"].notes
    assert any("drawn evenly from the vocabulary" in note for note in notes)


def test_what_was_taken_back_before_the_main_phase_is_no_writer_of_it():
    """Both phases write along one direction, so the second's heads read the first's write too."""
    subject, prompts, truth = constructed("p0-two-phase", 8100062)
    second = truth.phases[1]
    circuit = find(subject, prompts).circuit
    assert [part.most_read for part in circuit.phases] == [False, True]
    assert {unit.place for unit in circuit.writers} == pairs(second["writing_neurons"])
    assert list(circuit.phases[1].writes.writers) == second["writers"]


def test_writers_share_what_is_written_and_takers_what_is_taken_back(monkeypatch):
    total = {"1.attention": -1.0, "1.mlp": 2.0, "2.mlp": 5.0}
    total |= {"3.attention": 1.0, "3.mlp": -4.0, "4.mlp": -1.8, "5.mlp": -0.2}
    sites = SimpleNamespace(writes=[(int(name[0]), 0, name) for name in total])
    monkeypatch.setattr(phase_parts, "written_along", lambda *_: Writes(sites, total=total))
    monkeypatch.setattr(phase_parts, "main_components", lambda *_: Components())
    phase = Phase("norm", 3, 3.0, 1, (1, 1), (3, 5), (2, 3))
    writes = phase_parts.phase_writes(None, sites, None, torch.ones(4), phase)
    assert writes.takers == ("3.mlp", "4.mlp")
    assert [writes.share[name] for name in writes.takers] == pytest.approx([-4 / 6, -0.3])
    assert (writes.writers, writes.share["1.mlp"]) == (("1.mlp",), 1.0)  # all that is written


def test_what_takes_back_keeps_its_share_of_the_direction():
    """What is taken back along u need not be what the heads read."""
    share = {"1.mlp": 0.9, "4.mlp": -0.6, "5.mlp": -0.2}
    along_u = PhaseWrites(share, ("1.mlp",), ("4.mlp", "5.mlp"), Components())
    phase = Phase("norm", 2, 3.0, 1, (1, 1), (4, 5), (2, 3))
    part = PhaseParts(phase, torch.ones(4), along_u, (), (), {}, most_read=True)
    read = Writes(None, total={"1.mlp": 2.0, "4.mlp": -0.1})
    writes = writers.with_named(part, writers.Named(Components(), read)).writes
    assert writes.takers == ("4.mlp", "5.mlp")
    assert writes.share == {"1.mlp": 1.0, "4.mlp": -0.6, "5.mlp": -0.2}


@pytest.mark.parametrize(("second", "said"), [(-11.5, True), (-0.4, False)])
def test_writers_that_take_back_what_others_write_are_told_of(second, said):
    first = 1 - second if said else 0.9
    shares = ((Unit(2, NEURON, 3), first), (Unit(2, NEURON, 8), second))
    named = writers.Named(Components(shares), writes=None)
    assert any("12.5 times" in note for note in notes_on_writers(named)) is said


def test_heads_whose_share_underflows_have_nothing_to_lose():
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.h[3].ln_1.weight.mul_(1e5)
    ids = torch.randint(100, (2, 24), generator=torch.Generator().manual_seed(0))
    result = sinkscope.trace(Subject.from_model(model), prompts=token_prompts(ids))
    (trace,) = result.summary.trace.values()
    assert trace.reading_heads
    assert trace.named["kept"] is None
