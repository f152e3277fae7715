"""The tap of a pass that asks for one key only: what late queries give it, at next to no cost."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sinkscope.detect.attention import stacked
from sinkscope.intervene.attend import Call, intact
from sinkscope.intervene.edits.keys import KeyRead
from sinkscope.intervene.router import EditTap
from sinkscope.observe.late import mean_over


@dataclass
class KeyTap(EditTap):
    """Late share of one key of each row, as it is really read, and what edits took of it.

    The key is that of the key edits, P0 where there are none.

    logits    [B, T, V] of the pass, where they were asked for
    by_block  block -> (late share, mass that was taken), each [B, H]
    """

    logits: torch.Tensor | None = None
    by_block: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def changed(self, call: Call, read: KeyRead) -> None:
        """The mass that is left, and what was taken."""
        self._late(read.seen, read.left, read.mass - read.left)

    def _exact(self, module, query, key, value, mask, kwargs, reason):
        return self._intact(Call(module, query, key, value, mask, kwargs), own=True)

    def _lean(self, module, query, key, value, mask, kwargs):
        return self._intact(Call(module, query, key, value, mask, kwargs), own=False)

    def _intact(self, call: Call, own: bool):
        out, mass, seen = intact(call, self.keys.to(call.query.device), own)
        self._late(seen, mass, torch.zeros_like(mass))
        return out, None

    def _late(self, seen: torch.Tensor, share: torch.Tensor, removed: torch.Tensor) -> None:
        """Means over late queries that see the key."""
        late = self.layout.on(share.device).late.unsqueeze(1) & seen
        self.by_block[self.block] = (
            mean_over(share.detach(), late),
            mean_over(removed.detach(), late),
        )

    def shares(self) -> torch.Tensor:
        """[B, block, H] late share of the key, as it was really read."""
        return self._stacked(0)

    def removed(self) -> torch.Tensor:
        """[B, block, H] mass that late queries lost at that key; 0 where nothing was taken."""
        return self._stacked(1)

    def _stacked(self, which: int) -> torch.Tensor:
        """[B, block, H]; NaN for blocks without softmax attention."""
        none = torch.zeros(len(self.keys), 0)
        rows = [self.by_block.get(block, (none, none)) for block in range(max(self.by_block) + 1)]
        return stacked([row[which].float().cpu() for row in rows], 1)
