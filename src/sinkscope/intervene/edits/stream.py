"""Patches of the residual stream itself at one block input and position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.errors import InputError
from sinkscope.intervene.edits.base import Context, Edit, stream_hooks
from sinkscope.observe.stream import others_median, unit

STREAM_HOWS = ("remove", "level", "swap", "norm", "copy", "mean", "set")


@dataclass(frozen=True)
class Stream(Edit):
    """Patch the residual stream at the input of block `point` (resid_pre), at one position.

    how  remove  x − ⟨x, u⟩·u: directional ablation of the sink direction
         level   the component along u is set so that the cosine to u is the mean of that of the
                 other positions: P0 is no longer separable along u
         swap    ‖x‖·r with r a random unit vector (drawn by `seed`): direction lost, norm kept
         norm    x scaled to the median norm of the other positions: norm lost, direction kept
         copy    activation patching: the stream of position `source`
         mean    mean ablation: the mean stream of the other positions of the prompt
         set     `vector`
    """

    point: int
    position: int = 0
    how: str = "remove"
    source: int = 0
    seed: int = 0
    vector: tuple[float, ...] | None = None
    order = 0

    def __str__(self) -> str:
        words = {
            "remove": "remove the sink direction from",
            "level": "give the sink direction's share of the other positions to",
            "swap": "give a random direction to",
            "norm": "give the norm of the other positions to",
            "copy": f"copy position {self.source} to",
            "mean": "put the mean of the other positions in place of",
            "set": "set",
        }
        what = words.get(self.how, self.how)
        return f"{what} the stream of position {self.position} before block {self.point}"

    def hooks(self, context: Context) -> list[Any]:
        """Change the block's input, or the last block's output."""
        context.check(max(self.position, self.source))
        if self.how not in STREAM_HOWS:
            raise InputError(f"{self.how!r} is not one of {', '.join(STREAM_HOWS)}.")
        return stream_hooks(context, [self.point], lambda _, hidden: self._edited(hidden, context))

    def _edited(self, hidden: torch.Tensor, context: Context) -> torch.Tensor:
        edited = hidden.clone()
        edited[:, self.position] = self._row(hidden, context).to(hidden.dtype)
        return edited

    def _row(self, hidden: torch.Tensor, context: Context) -> torch.Tensor:
        x = hidden[:, self.position]
        if self.how == "copy":
            return hidden[:, self.source]
        if self.how == "mean":
            return context.replacement(hidden, self.position, "mean", self.seed)
        if self.how == "norm":
            others = context.others(self.position).to(hidden.device)
            median = others_median(hidden.float().norm(dim=-1), others).unsqueeze(-1)
            return x * (median / x.float().norm(dim=-1, keepdim=True).clamp_min(1e-30))
        if self.how == "swap":
            generator = torch.Generator().manual_seed(self.seed)
            random = torch.randn(x.shape[-1], generator=generator).to(x.device)
            return x.float().norm(dim=-1, keepdim=True) * random / random.norm()
        along = self._vector(x, context)
        if self.how == "set":
            return along.expand_as(x)
        rest = x.float() - (x.float() @ along).unsqueeze(-1) * along
        if self.how == "remove":
            return rest
        each = unit(hidden.float()) @ along
        cosine = context.replacement(each, self.position, "mean", self.seed).clamp(-0.999, 0.999)
        size = cosine / (1 - cosine**2).sqrt() * rest.norm(dim=-1)
        return rest + size.unsqueeze(-1) * along

    def _vector(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        if self.vector is not None:
            vector = torch.tensor(self.vector, device=x.device)
            if vector.shape != x.shape[-1:]:
                raise InputError(f"the vector must have {x.shape[-1]} entries.")
            return vector if self.how == "set" else vector / vector.norm()
        if self.how == "set" or context.direction is None:
            raise InputError(f"a stream edit {self.how!r} needs a vector or a sink direction.")
        return context.direction.to(x.device, torch.float32)
