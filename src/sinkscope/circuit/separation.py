"""How well position zero is told from the other positions at one read point, by four measures.

AUROC on held-out rows: `norm` is the log norm, `cosine` the cosine to the mean unit vector of the
others, `raw` a linear probe on the stream itself, `normalised` one on its unit vector (what stands
behind an RMSNorm, up to its weight). The probe is Fisher's discriminant with a ridge,
`w = (S + λI)⁻¹(μ₀ − μ)`, S the covariance within the two classes.

Positives are the states of position zero for the token ids of the negatives, each weighted by how
often its id stands among them, so that both classes hold the same ids equally often. In every fold
the rows that are scored have neither a token id nor a text in common with those that were fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.observe.stream import unit

MEASURES = ("norm", "cosine", "raw", "normalised")
FOLDS = 4
RIDGES = (
    1e-2,
    1e-1,
    1.0,
)  # of the mean variance within classes; the better on held-out rows counts
RESOLUTION = 1e-4  # scalars closer than this are equal: below it lies rounding


@dataclass(frozen=True)
class Rows:
    """Which rows of the two classes belong together.

    token   [m] which positive holds the token id of each negative
    folds   for each fold (fitted, scored): masks [m] of the negatives
    """

    token: torch.Tensor
    folds: list[tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def grouped(cls, token: torch.Tensor, text: torch.Tensor) -> Rows:
        """Folds by token id and by text at once; ids are dealt out by how frequent they are.

        token [m] index of each negative's id among the positives; text [m] its prompt.
        """
        rank = token.bincount().argsort(descending=True, stable=True).argsort()
        by_token, by_text = rank[token] % FOLDS, text % FOLDS
        folds = [((by_token != k) & (by_text != k), (by_token == k) & (by_text == k))
                 for k in range(FOLDS)]  # fmt: skip
        return cls(token, [(fit, held) for fit, held in folds if fit.any() and held.any()])

    def to(self, device: torch.device) -> Rows:
        """The same rows on another device."""
        folds = [(fit.to(device), held.to(device)) for fit, held in self.folds]
        return Rows(self.token.to(device), folds)

    def weights(self, negatives: torch.Tensor) -> torch.Tensor:
        """How often each positive's token id stands among the negatives in the mask [m]: [k]."""
        count = int(self.token.max()) + 1
        return self.token[negatives].bincount(minlength=count).float()


def separability(
    positive: torch.Tensor, negative: torch.Tensor, rows: Rows, probes: bool = True
) -> dict[str, float]:
    """AUROC of each measure, mean over folds weighted by scored rows; NaN where not measured.

    positive [k, d] position zero, a row a token id; negative [m, d] other positions.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in MEASURES}
    p, n = unit(positive), unit(negative)
    norm_p, norm_n = (x.norm(dim=-1).clamp_min(1e-12).log() for x in (positive, negative))
    for fit, held in rows.folds:
        weights = rows.weights(fit), rows.weights(held)
        mean = unit(n[fit].mean(0))
        cosine_n = n @ mean
        found["norm"].append(_scalar(norm_p, norm_n[fit], norm_n[held], *weights))
        found["cosine"].append(_scalar(p @ mean, cosine_n[fit], cosine_n[held], *weights))
        if probes:
            found["raw"].append(_probe(positive, negative[fit], negative[held], *weights))
            found["normalised"].append(_probe(p, n[fit], n[held], *weights))
    size = np.array([float(held.sum()) for _, held in rows.folds])
    # the ridge is chosen on the mean over folds, not fold by fold
    return {
        name: float((size @ np.array(values)).max() / size.sum()) if values else np.nan
        for name, values in found.items()
    }


def _scalar(positive, fit, held, fitted, scored) -> list[float]:
    """AUROC of a scalar on the held rows; whether more or less means P0 is taken from the fit."""
    positive, fit, held = (torch.round(x / RESOLUTION) for x in (positive, fit, held))
    sign = 1.0 if auroc(positive, fit, fitted) >= 0.5 else -1.0
    return [auroc(sign * positive, sign * held, scored)]


def _probe(positive, fit, held, fitted, scored) -> list[float]:
    """AUROC of the discriminant on the held rows, for each ridge."""
    used = fitted > 0
    share = (fitted[used] / fitted.sum()).unsqueeze(1)
    at_p0, elsewhere = (positive[used] * share).sum(0), fit.mean(0)
    p, n = (positive[used] - at_p0) * share.sqrt(), (fit - elsewhere) / len(fit) ** 0.5
    within = (p.T @ p + n.T @ n) / 2
    variance = within.diagonal().clone()
    apart = (at_p0 - elsewhere).unsqueeze(1)
    values = []
    for ridge in RIDGES:
        within.diagonal().copy_(variance + ridge * variance.mean().clamp_min(1e-20))
        w = torch.cholesky_solve(apart, torch.linalg.cholesky(within)).squeeze(1)
        values.append(auroc(positive @ w, held @ w, scored))
    return values


def auroc(positive: torch.Tensor, negative: torch.Tensor, weight: torch.Tensor) -> float:
    """Chance that a positive, drawn by weight, scores above a negative; ties count half.

    Scores positive [k], with their weights [k], and negative [m].
    """
    ordered = negative.contiguous().sort().values
    below = torch.searchsorted(ordered, positive.contiguous())
    upto = torch.searchsorted(ordered, positive.contiguous(), right=True)
    chance = (below + upto).double() / (2 * len(ordered))
    return float((chance * weight).sum() / weight.sum())
