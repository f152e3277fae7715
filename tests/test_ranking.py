"""Units are ranked by the difference that they make to the reading heads' logits."""

from __future__ import annotations

import pytest
import torch

from sinkscope.circuit.components import unit_writes
from sinkscope.circuit.keys import SinkLogits
from sinkscope.circuit.ranking import units_by_logit, usual_inputs
from sinkscope.circuit.unit import HEAD, NEURON, Unit
from sinkscope.circuit.writes import written_along
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.sites import find_sites
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model


def some_prompts(subject, rows, length):
    generator = torch.Generator().manual_seed(1)
    return token_prompts(torch.randint(3, 100, (rows, length), generator=generator))


def _read_by(heads, width):
    """Logits whose gradients are random: only these and the heads' blocks count in the ranking."""
    generator = torch.Generator().manual_seed(3)
    gradient = torch.randn(2, len(heads), width, generator=generator)
    nothing = torch.zeros(2, len(heads))
    return SinkLogits(heads, nothing, gradient, nothing, [], torch.zeros(2, 0, width), [])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_ranking_against_hooks_and_weights(family):
    """Neuron by neuron: (activation at P0 − its mean elsewhere) × its column × the gradients."""
    subject = Subject.from_model(tiny_model(family))
    prompts = some_prompts(subject, 3, 12)
    sites = find_sites(subject, prompts)
    heads = [(1, 0), (2, 1)] if len(sites.blocks) > 2 else [(1, 0), (1, 1)]
    logits = _read_by(heads, subject.model.config.hidden_size)
    usual = usual_inputs(subject, sites, prompts)
    ranked = units_by_logit(subject, sites, prompts, logits, usual)
    found = {}
    for block, module in enumerate(subject.anatomy.modules(subject.model)[: heads[-1][0]]):
        later = torch.tensor([at > block for at, _ in heads])
        along = logits.gradient.mean(0)[later].sum(0)
        for kind, sublayer in ((HEAD, sites.attention(block)), (NEURON, sites.mlp(block))):
            owner = sublayer.projection.owner(module)
            seen = []
            handle = owner.register_forward_pre_hook(lambda m, args, s=seen: s.append(args[0]))
            with torch.no_grad():
                subject.model(prompts.input_ids)
            handle.remove()
            rows = seen[0].reshape(3, 12, -1)
            change = (rows[:, 0] - rows[:, 1:].mean((0, 1))).mean(0)
            effect = change * (sublayer.projection.columns(module) @ along)
            if sublayer.heads is not None:
                effect = effect.reshape(sublayer.heads, -1).sum(1)
            found |= {Unit(block, kind, unit): float(value) for unit, value in enumerate(effect)}
    wanted = sorted((unit for unit in found if found[unit] > 0), key=lambda unit: -found[unit])
    assert len(ranked) == len(wanted) > 10
    values = [found[unit] for unit in ranked]
    assert values == pytest.approx([found[unit] for unit in wanted], rel=1e-3, abs=1e-7)


def test_without_usual_inputs_units_are_whole_writes():
    subject = Subject.from_model(tiny_model("llama"))
    prompts = some_prompts(subject, 2, 8)
    sites = find_sites(subject, prompts)
    direction = torch.randn(subject.model.config.hidden_size)
    usual = usual_inputs(subject, sites, prompts)
    tokens = prompts.input_ids[:, 0]

    def writes(given):
        return dict(
            unit_writes(written_along(subject, sites, tokens, lambda b: direction, 1, given))
        )

    whole, zero = writes(None), writes({key: torch.zeros_like(row) for key, row in usual.items()})
    assert whole == pytest.approx(zero, abs=1e-7)
    assert whole != pytest.approx(writes(usual), abs=1e-5)


def test_usual_inputs_are_means_over_all_positions_but_the_first():
    subject = Subject.from_model(tiny_model("llama"))
    prompts = some_prompts(subject, 2, 8)
    seen = []
    owner = subject.model.model.layers[0].mlp.down_proj
    handle = owner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    usual = usual_inputs(subject, find_sites(subject, prompts), prompts)
    handle.remove()
    # the last call is that of the prompts; before it the sites were proved
    torch.testing.assert_close(usual[0, "1"], seen[-1][:, 1:].mean((0, 1)).detach())


def test_nothing_is_left_behind():
    subject = Subject.from_model(tiny_model("llama"))
    prompts = some_prompts(subject, 2, 8)
    sites = find_sites(subject, prompts)
    subject.model.train()
    usual_inputs(subject, sites, prompts)
    assert subject.model.training
    assert not any(module._forward_pre_hooks for module in subject.model.modules())
