"""Jacobian norms as `mix` reports them: how much late positions depend on the other tokens.

For a late position j, influence is the root of Σ_i ‖∂x^L_j/∂x^0_i‖²_F over earlier tokens i, in
units of ‖∂x^L_j/∂x^0_j‖_F: how strongly the state depends on other tokens, over how strongly on its
own. P0 and the control's key are left out of the sum under every condition, since taking a key away
would lower it by that key alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.mixing.conditions import Condition, at_keys
from sinkscope.mixing.jacobian import Jacobian, estimate_norms, jacobian_norms
from sinkscope.observe.sites import Sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

PROMPTS, TOKENS, TARGETS, PROBES = 4, 40, 6, 16
EXACT_WIDTH = 64  # up to this many channels the norms are exact


@dataclass
class Influence:
    """Norms [condition, prompt, target, source], influence [condition, prompt].

    targets  positions j; keys [prompt] the control's key
    low, high  95 % intervals of the norms, shaped as these; None where they are exact
    """

    names: list[str]
    targets: list[int]
    norm: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    influence: np.ndarray
    keys: list[int]

    @property
    def exact(self) -> bool:
        """Whether the norms are exact."""
        return self.low is None


def influences(
    subject: Subject,
    prompts: Prompts,
    conditions: Sequence[Condition],
    *,
    sites: Sites | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Influence:
    """Norms for the first prompts, cut after TOKENS tokens, at a few late positions."""
    rows = prompts.take(slice(0, PROMPTS))
    length = min(TOKENS, int(rows.lengths.min()))
    targets = sorted({int(j) for j in np.linspace(length // 2, length - 1, TARGETS)})
    generator = np.random.default_rng(seed)
    keys = [int(k) for k in generator.integers(1, max(2, length // 4), size=len(rows))]
    found: list[list[Jacobian]] = []
    for condition in conditions:
        found.append([])
        for row, key in enumerate(keys):
            ids = rows.input_ids[row, :length]
            found[-1].append(_norms(subject, ids, targets, at_keys(condition, [key]), sites))
            if progress:
                progress(sum(map(len, found)), len(conditions) * len(keys))
    norm = np.array([[one.norm for one in each] for each in found])
    low = high = None
    if found[0][0].low is not None:
        low = np.array([[one.low for one in each] for each in found])
        high = np.array([[one.high for one in each] for each in found])
    names = [condition.name for condition in conditions]
    return Influence(names, targets, norm, low, high, _influence(norm, targets, keys), keys)


def _norms(subject, ids: torch.Tensor, targets, condition, sites) -> Jacobian:
    if subject.anatomy.hidden_size <= EXACT_WIDTH:
        return jacobian_norms(subject, ids, targets, condition, sites=sites)
    return estimate_norms(subject, ids, targets, condition, probes=PROBES, sites=sites)


def _influence(norm: np.ndarray, targets: list[int], keys: list[int]) -> np.ndarray:
    """[condition, prompt] mean over targets."""
    found = np.zeros(norm.shape[:2])
    for row, key in enumerate(keys):
        for at, j in enumerate(targets):
            sources = [i for i in range(1, j) if i != key]
            others = np.sqrt((norm[:, row, at][:, sources] ** 2).sum(-1))
            found[:, row] += others / np.maximum(norm[:, row, at, j], 1e-30) / len(targets)
    return found
