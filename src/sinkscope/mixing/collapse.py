"""How alike the positions become: rank collapse, effective rank, matrix entropy, by read point.

For the stream X [T, d] of one prompt at one read point, with singular values σ_j:

    p_j = σ_j² / ‖X‖²_F      matrix entropy H = −Σ p_j log p_j (nats), effective rank exp H
    anisotropy p_1           rank collapse ‖X − 1·x̄ᵀ‖_F / ‖X‖_F, 0 where all rows are one
    representational collapse ‖x_T − x_{T−1}‖ / ‖x_T‖

all with P0 and without it, since one massive row can be the whole matrix. With M = ‖x_0‖²,
R = Σ_{i>0} ‖x_i‖² and α the mean of cos²(x_i, x_0) weighted by ‖x_i‖², Queipo-de-Llano et al.
(arXiv 2510.06477, theorem 1) have, exactly,

    σ_1² ≥ M + αR,    p_1 ≥ p = (M + αR)/(M + R),
    H ≤ −p log p − (1 − p) log(1 − p) + (1 − p) log(r − 1)   where p ≥ 1/r, r the rank,

(take u = x_0/‖x_0‖ in σ_1² ≥ ‖Xu‖²), which is a check of this code and of the numbers it is fed.
Singular values come from the Gram matrix of the rows, in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sinkscope.intervene.edits.base import check_right_padded
from sinkscope.mixing.conditions import INTACT, Condition, check_stream, run
from sinkscope.observe.attention import run_model
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites
from sinkscope.observe.stream import eigenvalues
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

ROUNDING = 1e-9  # relative to ‖X‖²_F: what double precision may be off by
NAMES = (
    "rank_collapse",
    "representational_collapse",
    "effective_rank",
    "matrix_entropy",
    "anisotropy",
    "token_cosine",
)
BOTH = ("with_p0", "without_p0")


@dataclass
class Theorem:
    """Slack of the bounds of Queipo-de-Llano et al. for one stream: none may lie below −ROUNDING.

    sigma    (σ_1² − (M + αR)) / ‖X‖²_F
    entropy  bound − H in nats, or NaN where the bound does not apply
    """

    sigma: float
    entropy: float


@dataclass
class Collapse:
    """Curves over read points, for every prompt.

    values   {name: [n, 2, point]} with P0, and without it; names as in NAMES
    sigma, entropy  [n, point] slack of the theorem
    """

    values: dict[str, np.ndarray]
    sigma: np.ndarray
    entropy: np.ndarray

    @property
    def holds(self) -> bool:
        """Whether the theorem holds at every read point of every prompt."""
        slack = np.concatenate([self.sigma.ravel(), self.entropy[np.isfinite(self.entropy)]])
        return bool((slack >= -ROUNDING).all())


def spectrum(x: torch.Tensor) -> torch.Tensor:
    """Squared singular values of the rows x [T, d], largest first, double precision."""
    x = x.double()
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    return eigenvalues(gram).flip(0).clamp_min(0.0)


def matrix_entropy(squares: torch.Tensor) -> float:
    """−Σ p_j log p_j in nats of squared singular values [r], p_j being shares of their sum."""
    shares = squares / squares.sum().clamp_min(1e-300)
    return float(torch.special.entr(shares).sum())


def measures(x: torch.Tensor) -> tuple[dict[str, float], torch.Tensor]:
    """All figures of one stream x [T, d] by name (see the module's docstring), and σ²."""
    x = x.double()
    squares = spectrum(x)
    total = float(squares.sum()) or 1.0
    centred = x - x.mean(0)
    entropy = matrix_entropy(squares)
    last = float(x[-1].norm()) or 1.0
    units = x / x.norm(dim=1, keepdim=True).clamp_min(1e-300)
    count = len(x)
    # Σ_{i≠j} cos = ‖Σ units‖² − T
    cosine = (float(units.sum(0).square().sum()) - count) / max(count * (count - 1), 1)
    return {
        "rank_collapse": float(centred.square().sum().sqrt()) / total**0.5,
        "representational_collapse": float((x[-1] - x[-2]).norm()) / last,
        "effective_rank": float(np.exp(entropy)),
        "matrix_entropy": entropy,
        "anisotropy": float(squares[0]) / total,
        "token_cosine": cosine,
    }, squares


def theorem(x: torch.Tensor, squares: torch.Tensor | None = None) -> Theorem:
    """Slack of the bounds on a stream x [T, d]; its `squares`, if known, spare the spectrum."""
    x = x.double()
    squares = spectrum(x) if squares is None else squares
    norms = x.square().sum(1)
    total = float(norms.sum()) or 1.0
    along = (x[1:] @ x[0]).square().sum() / norms[0].clamp_min(1e-300)  # αR
    least = float(norms[0] + along)
    sigma = (float(squares[0]) - least) / total
    rank = int((squares > squares[0] * 1e-14).sum())
    share = min(least / total, 1.0)
    if rank < 2 or share < 1 / rank:
        return Theorem(sigma, float("nan"))
    rest = 1.0 - share
    bound = rest * np.log(rank - 1)
    for part in (share, rest):
        bound -= part * np.log(part) if part > 0 else 0.0
    # what lies below the rank cut still has entropy; it belongs to rounding
    kept = squares[:rank]
    return Theorem(sigma, float(bound) - matrix_entropy(kept))


@dataclass
class _Collect:
    lengths: list[int]
    values: list[list[dict[str, list[float]]]] = field(default_factory=list)
    slack: list[list[Theorem]] = field(default_factory=list)

    def consume(self, point: int, hidden: torch.Tensor) -> None:
        rows, slack = [], []
        for length, x in zip(self.lengths, hidden):
            x = x[:length].detach().double().cpu()
            whole, squares = measures(x)
            without, _ = measures(x[1:])
            rows.append({name: [whole[name], without[name]] for name in NAMES})
            slack.append(theorem(x, squares))
        self.values.append(rows)
        self.slack.append(slack)


def collapse(
    subject: Subject,
    prompts: Prompts,
    condition: Condition = INTACT,
    *,
    sites: Sites | None = None,
) -> Collapse:
    """Collapse of the residual stream over depth, under a condition, for each prompt.

    A prompt must have at least three tokens. The cost is an eigenvalue problem of min(T, d) twice
    a read point and prompt: a pilot of prompts will do.
    """
    parts, done = [], 0
    for batch in prompts.batches():
        collect = _Collect([int(n) for n in batch.lengths])
        rows = list(range(done, done + len(batch)))
        if condition == INTACT:
            _plain(subject, batch, collect.consume)
        else:
            run(subject, batch, condition, consume=collect.consume, sites=sites, rows=rows)
        parts.append(_arrays(collect))
        done += len(batch)
    return Collapse(
        {name: np.concatenate([part.values[name] for part in parts]) for name in NAMES},
        np.concatenate([part.sigma for part in parts]),
        np.concatenate([part.entropy for part in parts]),
    )


def _plain(subject: Subject, prompts: Prompts, consume: Callable) -> None:
    """A pass that leaves attention alone, so that families outside the registry can be read too."""
    check_right_padded(prompts)
    check_stream(subject)
    with torch.no_grad(), evaluation(subject.model), hooks(residual_hooks(subject, consume)()):
        run_model(subject, prompts, logits=False)


def _arrays(collect: _Collect) -> Collapse:
    values = {
        name: np.array([[row[name] for row in point] for point in collect.values]).transpose(
            1, 2, 0
        )
        for name in NAMES
    }
    slack = np.array([[[t.sigma, t.entropy] for t in point] for point in collect.slack])
    return Collapse(values, slack[..., 0].T, slack[..., 1].T)


def repeat_collapse(
    subject: Subject, prompts: Prompts, lengths: Sequence[int], condition: Condition = INTACT
) -> np.ndarray:
    """‖x^L(s) − x^L(s + its last token again)‖∞ at the end of the stack: [row, length].

    Both are last states: of the first n − 1 tokens s of a prompt, and of n.

    Representational collapse as Barbero et al. (arXiv 2406.04267) measure it: it falls with n until
    the two prompts are the same in the model's precision. NaN beyond a prompt's end.
    """
    found = np.full((len(prompts), len(lengths)), np.nan)
    last = len(subject.anatomy.blocks)
    for at, n in enumerate(lengths):
        rows = (prompts.lengths >= n).nonzero().flatten()
        if not len(rows):
            continue
        ids = prompts.input_ids[rows, : n - 1]
        ends: list[torch.Tensor] = []

        def consume(point: int, hidden: torch.Tensor, ends=ends) -> None:
            if point == last:
                ends.append(hidden[:, -1].float().cpu())

        for one in (ids, torch.cat([ids, ids[:, -1:]], 1)):
            whole = Prompts(one, torch.full((len(one),), one.shape[1]), "ids", prompts.bos)
            run(subject, whole, condition, consume=consume)
        found[rows.numpy(), at] = (ends[0] - ends[1]).abs().amax(1).numpy()
    return found
