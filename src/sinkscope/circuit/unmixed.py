"""Stage 1: position zero is not averaged. Unmixedness, and the cone that explains its norm.

`c_t = Σ_j A_tj²` is 1 at P0 by the mask and smaller wherever values are averaged. If unit values
are `v_i = â·m + √(1−â²)·s_i` with isotropic s_i orthogonal to the axis m, then
`E‖o_t‖² = â² + (1 − â²)·E[c_t]` (Peng et al., arXiv 2603.06591).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.circuit.observed import Observed
from sinkscope.circuit.observed_heads import HeadRead
from sinkscope.observe.stream import eigenvalues


@dataclass(frozen=True)
class Cone:
    """The cone of one block's heads.

    axis       [H] â, norm of the mean unit value
    r2         [H] of predicted against measured ‖o_t‖² over positions; NaN where nothing varies
    isotropy   [H] participation ratio of the values around the axis over its largest value (1:
               isotropic, as the cone assumes)
    unmixed    [T, H] E[c_t]
    """

    axis: np.ndarray
    r2: np.ndarray
    isotropy: np.ndarray
    unmixed: np.ndarray


def cones(observed: Observed) -> dict[int, Cone]:
    """Block -> cone, for every block whose queries and keys were seen."""
    return {b: _cone(head) for b, head in observed.heads.items() if head.unmixed is not None}


def _cone(head: HeadRead) -> Cone:
    assert head.unmixed is not None
    assert head.mixed_norm is not None
    assert head.unit_value is not None
    assert head.unit_square is not None
    unmixed = (head.unmixed / head.counted).double()
    measured = (head.mixed_norm / head.counted).double()
    mean = (head.unit_value / head.unit_values).double()  # [G, D]
    groups = unmixed.shape[1] // mean.shape[0]
    axis = mean.norm(dim=1).repeat_interleave(groups)
    predicted = axis**2 + (1 - axis**2) * unmixed
    spread = (measured - measured.mean(0)).square().sum(0)
    r2 = 1 - (measured - predicted).square().sum(0) / spread.clamp_min(1e-12)
    r2 = torch.where(spread > 1e-9, r2, torch.nan)
    around = (head.unit_square / head.unit_values).double() - torch.einsum("gd,ge->gde", mean, mean)
    values = eigenvalues(around).clamp_min(0)
    ratio = values.sum(1).square() / values.square().sum(1).clamp_min(1e-30)
    isotropy = (ratio / values.shape[1]).repeat_interleave(groups)
    return Cone(axis.numpy(), r2.numpy(), isotropy.numpy(), unmixed.numpy())


def asymmetry(observed: Observed) -> dict[int, dict[str, float]]:
    """P0 over the median of the later positions, of the norm of what attention adds and of its
    variance over channels: block -> {norm, variance}."""
    found = {}
    for block, (norm, variance) in observed.out_curves.items():
        found[block] = {
            "norm": _over_median(norm),
            "variance": _over_median(variance),
        }
    return found


def _over_median(curve: np.ndarray) -> float:
    return float(curve[0] / max(float(np.median(curve[1:])), 1e-12))
