"""The tap of a pass that asks for one key only: what late queries give it, at next to no cost."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn.functional import pad

from sinkscope.intervene.attend import Call, intact
from sinkscope.intervene.edits.keys import KeyRead
from sinkscope.intervene.router import EditTap


@dataclass
class KeyTap(EditTap):
    """Late share of one key of each row, as it is really read, and what edits took of it.

    The key is that of the key edits, P0 where there are none.

    logits  of the pass, where they were asked for
    """

    logits: torch.Tensor | None = None
    by_block: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def changed(self, call: Call, read: KeyRead) -> None:
        """The mass that is left, and what was taken."""
        self._late(read.left, read.mass - read.left)

    def _exact(self, module, query, key, value, mask, kwargs, reason):
        return self._intact(Call(module, query, key, value, mask, kwargs), own=True)

    def _lean(self, module, query, key, value, mask, kwargs):
        return self._intact(Call(module, query, key, value, mask, kwargs), own=False)

    def _intact(self, call: Call, own: bool):
        out, mass = intact(call, self.keys.to(call.query.device), own)
        self._late(mass, torch.zeros_like(mass))
        return out, None

    def _late(self, *masses: torch.Tensor) -> None:
        """Means over late queries."""
        late = self.layout.on(masses[0].device).late.unsqueeze(1).float()
        count = late.sum(-1).clamp_min(1)
        share, removed = ((mass.detach() * late).sum(-1) / count for mass in masses)
        self.by_block[self.block] = share, removed

    def shares(self) -> torch.Tensor:
        """[B, layer, H] late share of the key, as it was really read."""
        return _stacked([self.by_block[block][0] for block in sorted(self.by_block)])

    def removed(self) -> torch.Tensor:
        """[B, layer, H] mass that late queries lost at that key; 0 where nothing was taken."""
        return _stacked([self.by_block[block][1] for block in sorted(self.by_block)])


def _stacked(blocks: list[torch.Tensor]) -> torch.Tensor:
    """Blocks side by side, NaN where one has fewer heads."""
    heads = max(block.shape[1] for block in blocks)
    rows = [pad(b.float().cpu(), (0, heads - b.shape[1]), value=torch.nan) for b in blocks]
    return torch.stack(rows, 1)
