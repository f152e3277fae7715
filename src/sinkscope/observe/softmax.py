"""Attention of one call, fused where that is right and in chunks elsewhere; with and without a key.

Leaving a key out of a log-sum-exp by subtraction would lose everything where that key holds nearly
all the mass, so the other keys are summed by themselves. Shapes as in `columns`.
"""

from __future__ import annotations

import torch

from sinkscope.observe.columns import chunked_attention
from sinkscope.observe.flex import by_flex, flex_attend
from sinkscope.observe.fused import fused_attention, fused_works
from sinkscope.observe.scores import Scores

FAR = -2000.0  # added to the score of a hidden key: exp of it is 0 in every dtype


def is_fused(s: Scores) -> bool:
    """Whether one fused call gives these scores, without chunks: no cap, or by flex attention."""
    return by_flex(s) or (s.softcap is None and not fused_works(s.q.device.type, s.q.dtype))


def attend(s: Scores, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention output [B, H, T, Dv] and log-sum-exp [B, H, T]."""
    if by_flex(s):
        return flex_attend(s, values)
    if is_fused(s):
        return fused_attention(s.q, s.k, values, s.mask, s.causal, s.scale)
    return chunked_attention(s, values)


def attend_without_first(s: Scores, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`attend` over keys 1.. for queries 1..; query 0 is left with nothing: 0 and −inf.

    Output [B, H, T, Dv] and log-sum-exp [B, H, T], as of all queries.
    """
    mask = None if s.mask is None else s.mask[..., 1:, 1:]
    short = Scores(s.q[:, :, 1:], s.k[:, :, 1:], mask, s.causal, s.scale, s.softcap)
    out, lse = attend(short, values[:, :, 1:])
    pad = torch.nn.functional.pad
    return pad(out, (0, 0, 1, 0)), pad(lse.float(), (1, 0), value=-torch.inf)


def attend_without(
    s: Scores, values: torch.Tensor, keys: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attend` over all keys but one of each row, keys [B].

    A channel more puts that key's score far below the rest.
    """
    if bool((keys == 0).all()):
        return attend_without_first(s, values)
    hidden = torch.zeros(s.k.shape[0], 1, s.k.shape[2], 1, dtype=torch.bool, device=s.k.device)
    hidden.scatter_(2, keys.view(-1, 1, 1, 1), True)
    if s.softcap is not None:  # a cap would pull the score back up
        length = s.k.shape[2]
        mask = s.mask
        if mask is None:
            mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=s.k.device).tril()
        cut = Scores(s.q, s.k, mask & ~hidden.transpose(2, 3), False, s.scale, s.softcap)
        return attend(cut, values)
    low = torch.where(hidden, FAR / s.scale, 0.0).expand(-1, s.k.shape[1], -1, -1).to(s.k.dtype)
    one = s.q.new_ones(*s.q.shape[:3], 1)
    cut = Scores(torch.cat([s.q, one], -1), torch.cat([s.k, low], -1), s.mask, s.causal, s.scale)
    return attend(cut, values)


def squared_lse(s: Scores, values: torch.Tensor) -> torch.Tensor:
    """log Σ_j exp(2·s_tj), so that Σ_j A_tj² = exp(it − 2·log-sum-exp): [B, H, T], fp32."""
    if s.softcap is not None:  # tanh(x/c)·c doubled: the cap is on the score, not on its double
        return _doubled_chunks(s)
    twice = Scores(s.q, s.k, s.mask, s.causal, 2 * s.scale)
    return attend(twice, values)[1].float()


def _doubled_chunks(s: Scores) -> torch.Tensor:
    k, rows = s.expand(s.k), []
    for start, stop in s.pieces():
        scores, _ = s.chunk(start, stop, k)
        rows.append(torch.logsumexp(2 * scores, -1))
    return torch.cat(rows, 2)
