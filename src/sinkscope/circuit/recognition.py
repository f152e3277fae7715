"""Stage 1: can position zero be told apart, and from where on.

Separability at a read point: cross-validated AUROC of a linear probe "is this position zero".
Negatives are states of other positions; positives the one-token states of the same token ids, so
that identity cannot help (and no further pass over prompts is needed). Both of a pair fall in the
same fold. The probe is ridge regression on unit vectors, solved in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.circuit.observed import Observed
from sinkscope.circuit.streams import p0_points
from sinkscope.observe.sites import Sites
from sinkscope.observe.stream import unit
from sinkscope.subject.load import Subject

APART = 0.99  # AUROC from which P0 counts as told apart
FOLDS = 5
RIDGE = 1e-3  # of the mean squared length of the centred rows
PAIRS = 256  # states of each kind
LEAST_PAIRS = 40


@dataclass(frozen=True)
class Recognition:
    """AUROC at every read point of `sites.points`; the first that stays at 0.99; or why not."""

    auroc: np.ndarray | None
    point: str | None
    reason: str = ""


def recognition(subject: Subject, sites: Sites, observed: Observed, seed: int) -> Recognition:
    """Separability by read point on the sampled positions."""
    ids, states = observed.sample_ids[:PAIRS], observed.sample[:PAIRS]
    if len(ids) < LEAST_PAIRS:
        return Recognition(None, None, f"{len(ids)} other positions are too few for a probe")
    unique, back = ids.unique(return_inverse=True)
    p0 = p0_points(subject, sites, unique)[back]
    folds = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed))[back] % FOLDS
    auroc = np.array(
        [probe_auroc(p0[:, point], states[:, point], folds) for point in range(states.shape[1])]
    )
    apart = auroc >= APART
    below = np.flatnonzero(~apart)
    first = int(below[-1]) + 1 if below.size else 0
    return Recognition(auroc, sites.points[first] if first < len(auroc) else None)


def probe_auroc(positive: torch.Tensor, negative: torch.Tensor, folds: torch.Tensor) -> float:
    """Mean over folds of the AUROC of a ridge probe, fitted on the other folds.

    positive, negative [m, d]; folds [m]: the fold of each pair. 0.5 where the two are equal.
    """
    pairs = torch.stack([unit(positive.double()), unit(negative.double())], 1)  # [m, 2, d]
    if torch.equal(pairs[:, 0], pairs[:, 1]):
        return 0.5
    rows = pairs.reshape(-1, pairs.shape[-1])
    labels = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(folds))
    fold = folds.repeat_interleave(2)
    scores = []
    for held in range(int(folds.max()) + 1):
        train, test = fold != held, fold == held
        if not bool(test.any()):
            continue
        x = rows[train]
        mean = x.mean(0)
        gram = (x - mean) @ (x - mean).T
        ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-12)
        weights = torch.linalg.solve(
            gram + ridge * torch.eye(len(gram), dtype=torch.float64), labels[train]
        )
        score = (rows[test] - mean) @ ((x - mean).T @ weights)
        scores.append(auroc(score[labels[test] > 0], score[labels[test] < 0]))
    return float(np.mean(scores))


def auroc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Chance that a positive scores higher than a negative; ties count half."""
    difference = positive.unsqueeze(1) - negative.unsqueeze(0)
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())
