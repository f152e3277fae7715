"""How much a position of the last read point depends on a position of the first.

The block ∂x^L_j/∂x^0_i [d, d] of the Jacobian of the residual stream, from the embeddings' read
point to the last block's output, by its Frobenius norm. The cotangent e_k at position j gives row
k of the blocks (j, i) for every i at once (vjp), so the norms are exact after d such products for
each j. With random cotangents v of independent entries with mean 0 and variance 1,
E‖vᵀJ‖² = ‖J‖²_F (Hutchinson), which needs a few products only, and has an interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.errors import OutOfResources, Unsupported
from sinkscope.intervene.edits import FreezeAttention
from sinkscope.intervene.edits.base import stream_hooks
from sinkscope.intervene.router import in_place
from sinkscope.mixing.conditions import INTACT, Condition, prepared
from sinkscope.observe.attention import call_model
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.registry import hooks
from sinkscope.observe.sites import Sites
from sinkscope.subject.load import Subject

ROWS = 32  # copies of the prompt that are run at once, one cotangent each
PROBES = 32


@dataclass
class Jacobian:
    """Norms of the blocks ∂x^L_j/∂x^0_i.

    positions  the positions j
    norm       [J, T] Frobenius norms; 0 for i > j
    low, high  [J, T] 95 % interval; None where the norms are exact
    """

    positions: list[int]
    norm: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass
class Graph:
    """A forward pass that can be differentiated: first and last read point, [R, T, d]."""

    first: torch.Tensor
    last: torch.Tensor

    def pull(self, cotangent: torch.Tensor) -> torch.Tensor:
        """vjp: gradient [R, T, d] at the first read point of ⟨last, cotangent [R, T, d]⟩."""
        (found,) = torch.autograd.grad(
            self.last, self.first, cotangent, retain_graph=True, materialize_grads=True
        )
        return found


@contextmanager
def differentiable(
    subject: Subject,
    ids: torch.Tensor,
    rows: int,
    condition: Condition = INTACT,
    frozen: bool = False,
    sites: Sites | None = None,
) -> Iterator[Graph]:
    """A pass over `rows` copies of one prompt ids [T], whose graph is kept while inside.

    frozen  attention maps are constants: no gradient through queries and keys
    """
    prompts = token_prompts(ids.expand(rows, -1))
    # all are copies of the one prompt whose keys the condition names
    context, tap = prepared(subject, prompts, condition, sites, rows=[0] * rows, own=True)
    edits = (*condition.edits, FreezeAttention()) if frozen else condition.edits
    ends: dict[int, torch.Tensor] = {}
    depth = len(subject.anatomy.blocks)

    def end(point: int, hidden: torch.Tensor) -> torch.Tensor:
        ends[point] = hidden if point == depth else hidden.detach().clone().requires_grad_()
        return ends[point]

    try:
        with in_place(context, edits, tap) as inputs, hooks(stream_hooks(context, (0, depth), end)):
            with torch.enable_grad():
                call_model(subject, inputs, logits=False)
            if ends[depth].grad_fn is None:
                kind = subject.anatomy.model_type
                raise Unsupported(f"{kind} cannot be differentiated through its blocks.")
            yield Graph(ends[0], ends[depth])
    except torch.OutOfMemoryError:
        raise OutOfResources(
            f"Out of memory for the Jacobian at {len(ids)} tokens; use fewer tokens."
        ) from None


def jacobian_norms(
    subject: Subject,
    ids: torch.Tensor,
    positions: Sequence[int] | None = None,
    condition: Condition = INTACT,
    *,
    frozen: bool = False,
    sites: Sites | None = None,
) -> Jacobian:
    """Exact norms for one prompt ids [T]: d products for each position j (all by default).

    For small models; `estimate_norms` serves the others. Raises OutOfResources on lack of memory.
    """
    chosen = list(range(len(ids))) if positions is None else [int(j) for j in positions]
    squares = np.zeros((len(chosen), len(ids)))

    def cotangents(width: int) -> Iterator[torch.Tensor]:
        for start in range(0, width, ROWS):
            yield torch.eye(width)[start : start + ROWS]

    def add(at: int, rows: torch.Tensor) -> None:
        squares[at] += rows.double().square().sum((0, 2)).cpu().numpy()

    with differentiable(subject, ids, ROWS, condition, frozen, sites) as graph:
        _pull_all(graph, chosen, cotangents, add)
    return Jacobian(chosen, np.sqrt(squares))


def estimate_norms(
    subject: Subject,
    ids: torch.Tensor,
    positions: Sequence[int],
    condition: Condition = INTACT,
    *,
    probes: int = PROBES,
    seed: int = 0,
    sites: Sites | None = None,
) -> Jacobian:
    """Hutchinson estimates of the norms for one prompt ids [T], with 95 % intervals.

    Each probe v is a random sign for each channel; see `interval` for the spread of ‖vᵀJ‖².
    """
    chosen = [int(j) for j in positions]
    generator = torch.Generator().manual_seed(seed)
    samples: list[list[np.ndarray]] = [[] for _ in chosen]

    def cotangents(width: int) -> Iterator[torch.Tensor]:
        for start in range(0, probes, ROWS):
            count = min(ROWS, probes - start)
            yield 2.0 * torch.randint(2, (count, width), generator=generator) - 1.0

    def add(at: int, rows: torch.Tensor) -> None:
        samples[at].append(rows.double().square().sum(2).cpu().numpy())

    with differentiable(subject, ids, min(ROWS, probes), condition, sites=sites) as graph:
        _pull_all(graph, chosen, cotangents, add)
    drawn = np.stack([np.concatenate(one) for one in samples])  # [J, probes, T]
    low, high = interval(drawn)
    return Jacobian(chosen, np.sqrt(drawn.mean(1)), np.sqrt(low), np.sqrt(high))


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the mean of ‖vᵀJ‖² over probes: drawn [J, probes, T] -> two of [J, T].

    ‖vᵀJ‖² is a weighted sum of squares, so its mean m over n probes is close to m·χ²(nν)/(nν) with
    ν = 2m²/s² (Satterthwaite 1946). For random signs s² ≤ 2m², so ν ≥ 1. The variance of a few
    probes is itself uncertain and too low more often than not: its upper quartile is taken.
    """
    from scipy.stats import chi2

    probes = drawn.shape[1]
    mean = drawn.mean(1)
    spread = drawn.var(1, ddof=1) * (probes - 1) / chi2.ppf(0.25, probes - 1)
    freedom = probes * np.clip(2 * mean**2 / np.maximum(spread, 1e-300), 1.0, 1e6)
    scale = mean * freedom
    return scale / chi2.ppf(0.975, freedom), scale / chi2.ppf(0.025, freedom)


def _pull_all(
    graph: Graph,
    positions: list[int],
    cotangents: Callable[[int], Iterator[torch.Tensor]],
    add: Callable[[int, torch.Tensor], None],
) -> None:
    """Pull every cotangent back from every position; add(index of j, gradients [r, T, d])."""
    for at, j in enumerate(positions):
        for vectors in cotangents(graph.last.shape[-1]):
            full = torch.zeros_like(graph.last)
            full[: len(vectors), j] = vectors.to(full)
            add(at, graph.pull(full)[: len(vectors)])
