"""Screen, then confirm: all edits of P0 through its key first, full passes for what decides.

What an edit does through P0's key costs no pass over the sequence (`intervene.p0_path`), so every
block, dose and random set is screened with it. Full passes then confirm the strongest edits, their
controls, and one that the screen puts at about nothing (`causal.confirm`): they give the effect in
all, and with it what goes through the other positions. Only confirmed rows are evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sinkscope.errors import InputError, Missing, Unsupported
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.engine import Engine
from sinkscope.intervene.p0_path import KeyPath
from sinkscope.stats import nan_mean

Edits = Sequence[Edit]


class Screen:
    """What edits of P0 change in the late share of some heads, through P0's key.

    also  heads that the path reads beside these, for who asks it directly
    path  the KeyPath, or why this model has none
    """

    def __init__(
        self,
        engine: Engine,
        heads: Sequence[tuple[int, int]],
        seed: int,
        also: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.heads = heads
        self.path: KeyPath | Missing
        try:
            if engine.sites is None:
                raise Unsupported("it is not known where its blocks write.")
            self.path = KeyPath(
                engine.subject,
                engine.prompts,
                engine.sites,
                direction=engine.direction,
                heads=[*heads, *also],
                seeds=(seed,),
            )
        except Unsupported as refusal:
            self.path = Missing(str(refusal).rstrip("."))

    @property
    def passes(self) -> float:
        """Forward passes spent, in plain passes over the prompts of the tests."""
        return 0.0 if isinstance(self.path, Missing) else self.path.passes

    def changes(self, lists: Sequence[Edits]) -> list[np.ndarray | None]:
        """[n] change of the share for each list of edits; None where it has no path of its own."""
        found = self.by_head(lists)
        return [None if change is None else nan_mean(change, 1) for change in found]

    def by_head(self, lists: Sequence[Edits]) -> list[np.ndarray | None]:
        """The same in each of the heads: [n, heads]."""
        if isinstance(self.path, Missing) or not lists:
            return [None] * len(lists)
        try:
            found = self.path.effects(lists)
        except (Unsupported, InputError):
            if len(lists) == 1:
                return [None]
            return [self.by_head([one])[0] for one in lists]
        blocks, heads = (list(part) for part in zip(*self.heads))
        change = found.share[..., blocks, heads] - self.path.intact.share[..., blocks, heads]
        return list(change.double().numpy())

    def margins(self, lists: Sequence[Edits]) -> np.ndarray | None:
        """[lists] mean margin in nats, which does not saturate as the share does; None without."""
        if isinstance(self.path, Missing):
            return None
        try:
            margin = self.path.effects(lists).margin
        except (Unsupported, InputError):
            return None
        blocks, heads = (list(part) for part in zip(*self.heads))
        return np.asarray(margin[..., blocks, heads].flatten(1).double().nanmean(1))
