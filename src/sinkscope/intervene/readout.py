"""What is read in every pass, edited or not: where late queries look, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from sinkscope.stats import nan_mean


@dataclass
class Readout:
    """What one pass showed, for n prompts. L blocks, H heads; NaN where a block has no attention.

    positions    the positions that were looked at, P0 first
    share        [n, position, L, H] mean attention of late queries (t ≥ T/2) that see the position
    margin       [n, position, L, H] nats: mean of s_tp − logsumexp_{j≠p} s_tj over the same queries
    bare_share, bare_margin  the same with P0 left out of the keys, so that a position can be told
                 to be a sink though P0 competes with it; of P0 itself they are share and margin
    learned      [n, L, H] mean mass of late queries on a learned sink logit; 0 without one
    value_ratio  [n, L, H] ‖v_0‖ over the median of the others
    norm         [n, position, point] ‖x‖ over the median of the positions t > 0
    cosine       [n, position, point] cosine to the sink direction; NaN without one
    received     [n, T] mean over reading heads of the attention of late queries; None if not asked
    ce, kl       [n] nats: mean cross-entropy, and KL from the intact model, at 1 ≤ t < T − 1
    """

    positions: tuple[int, ...]
    share: np.ndarray
    margin: np.ndarray
    bare_share: np.ndarray
    bare_margin: np.ndarray
    learned: np.ndarray
    value_ratio: np.ndarray
    norm: np.ndarray
    cosine: np.ndarray
    received: np.ndarray | None = None
    ce: np.ndarray | None = None
    kl: np.ndarray | None = None

    def at(self, position: int) -> int:
        """Index of a position on the position axis."""
        return self.positions.index(position)

    def on(self, heads: Sequence[tuple[int, int]], position: int = 0) -> np.ndarray:
        """Mean late share of a position over heads [(block, head)]: [n]."""
        return over_heads(self.share[:, self.at(position)], heads)

    def bare_on(self, heads: Sequence[tuple[int, int]], position: int) -> np.ndarray:
        """Mean late share of a position with P0 left out of the keys: [n]."""
        return over_heads(self.bare_share[:, self.at(position)], heads)

    def bare_margin_on(self, heads: Sequence[tuple[int, int]], position: int) -> np.ndarray:
        """Mean margin of a position with P0 left out of the keys, in nats: [n]."""
        return over_heads(self.bare_margin[:, self.at(position)], heads)


def filled_up(readout: Readout, prompts: int) -> Readout:
    """A readout of the first prompts as one of so many, NaN where nothing was run."""
    missing = prompts - len(readout.share)
    if not missing:
        return readout
    whole = {}
    for f in fields(Readout):
        value = getattr(readout, f.name)
        if value is not None and f.name != "positions":
            ends = [(0, missing), *[(0, 0)] * (value.ndim - 1)]
            value = np.pad(value, ends, constant_values=np.nan)
        whole[f.name] = value
    return Readout(**whole)


def over_heads(values: np.ndarray, heads: Sequence[tuple[int, int]]) -> np.ndarray:
    """[n] mean of values [n, L, H] over heads (block, head), NaN left out; over all if none."""
    chosen = values.reshape(len(values), -1)
    if heads:
        chosen = np.stack([values[:, block, head] for block, head in heads], 1)
    return nan_mean(chosen, 1)


def joined(parts: list[Readout]) -> Readout:
    """The readouts of several batches as one."""
    joint = {}
    for f in fields(Readout):
        values = [getattr(part, f.name) for part in parts]
        if f.name == "positions":
            joint[f.name] = values[0]
        else:
            joint[f.name] = None if values[0] is None else np.concatenate(values)
    return Readout(**joint)
