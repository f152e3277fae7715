"""How evenly attention is spread: row entropy and smoothness of the maps, with P0 and without it.

Row entropy of query t is −Σ_j A_tj log A_tj over log(t + 1), its largest value: 1 is an even
spread, 0 a single key. Smoothness is 1 − ½ Σ_j |A_t,j+1 − A_tj| over the keys that query t sees:
1 is a flat row, near 0 a row of lone spikes. Without P0, its mass is shared out over the others.
Both are means over late queries (second half), since early rows are short. Row entropy is the
mixing score of Queipo-de-Llano et al. (arXiv 2510.06477); that maps grow smoother without the sink
is Barbero et al.'s observation (arXiv 2504.02732).
"""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.observe.attention import observe
from sinkscope.observe.late import first_late
from sinkscope.observe.reads import Want
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

TOKENS = 128  # maps are held, so prompts are cut


def map_measures(weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Figures of one map [H, T, T]: entropy and smoothness, [2, H], with P0 and without it."""
    length = weights.shape[-1]
    late = torch.arange(first_late(length), length, device=weights.device)
    entropy, smooth = [], []
    for first in (0, 1):
        rows = weights[:, late, first:].double()
        rows = rows / rows.sum(-1, keepdim=True).clamp_min(1e-30)
        keys = late + 1 - first
        entropy.append((torch.special.entr(rows).sum(-1) / keys.log().clamp_min(1e-9)).mean(-1))
        inside = torch.arange(first, length - 1, device=rows.device) < late.unsqueeze(1)
        steps = (rows[..., 1:] - rows[..., :-1]).abs() * inside
        smooth.append((1.0 - 0.5 * steps.sum(-1)).mean(-1))
    return {"row_entropy": torch.stack(entropy), "smoothness": torch.stack(smooth)}


def map_curves(subject: Subject, prompts: Prompts) -> dict[str, np.ndarray]:
    """{name: [n, 2, layer]}: mean over heads, with P0 and without it, for each prompt.

    Prompts are cut after TOKENS tokens, and run one at a time, since maps are held.
    """
    found: dict[str, list[np.ndarray]] = {"row_entropy": [], "smoothness": []}
    for row in range(len(prompts)):
        width = min(TOKENS, int(prompts.lengths[row]))
        one = prompts.take(slice(row, row + 1)).first_tokens(width)
        reads, _, _ = observe(subject, one, Want(received=False, maps=True), "auto")
        layers = [map_measures(read.map[0]) for read in reads if read.map is not None]
        for name, kept in found.items():
            kept.append(np.stack([layer[name].mean(-1).cpu().numpy() for layer in layers], -1))
    return {name: np.stack(kept) for name, kept in found.items()}
