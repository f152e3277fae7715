"""Edits of what a whole sublayer adds to the residual stream at one position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits.base import Context, Edit, at_positions, described
from sinkscope.observe.stream import first_hidden, hidden_of, others_median, with_hidden

ABOUT = ("variance", "norm", "stream")


@dataclass(frozen=True)
class SetWrite(Edit):
    """Zero, mean or resample ablation of what one sublayer adds to the stream at one position.

    kind  attention or mlp
    how   zero; mean of the other positions of the same prompt; resample: what the sublayer adds at
          a random other position of the same prompt (drawn by `seed`)
    """

    block: int
    kind: str
    position: int = 0
    how: str = "zero"
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.how}-ablate the {described(self.block, self.kind, self.position)}"

    def hooks(self, context: Context) -> list[Any]:
        """Replace the row of the sublayer's output."""

        def change(delta: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
            return context.replacement(delta, self.position, self.how, self.seed)

        return write_hooks(context, self.block, self.kind, self.position, change)


@dataclass(frozen=True)
class ScaleWrite(Edit):
    """Scale what one sublayer adds to the residual stream at one position.

    about  variance: o' = μ + factor·(o − μ), μ the mean over channels (Li et al. 2605.06611);
           norm: o' = factor·o
    """

    block: int
    kind: str
    position: int = 0
    factor: float = 1.0
    about: str = "variance"

    def __str__(self) -> str:
        where = described(self.block, self.kind, self.position)
        return f"scale the {self.about} of the {where} by {self.factor:g}"

    def hooks(self, context: Context) -> list[Any]:
        """Scale the row of the sublayer's output."""
        if self.about not in ABOUT[:2]:
            raise InputError(f"about {self.about!r} is not variance or norm.")

        def change(delta: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
            own = delta[:, self.position]
            center = own.mean(-1, keepdim=True) if self.about == "variance" else 0.0
            return center + self.factor * (own - center)

        return write_hooks(context, self.block, self.kind, self.position, change)


@dataclass(frozen=True)
class MatchVariance(Edit):
    """Move the variance over channels of an attention output toward that of other positions.

    The new variance is (1 − weight)·own + weight·reference; `weight` may exceed 1.

    reference  others (median of the other positions of the prompt) or p0
    about      variance: o' = μ + f·(o − μ) with f the root of the ratio of variances;
               stream: the control. The stream after the write keeps its direction and only takes
               the norm that the variance edit would give it, which a pre-norm cannot see.
    """

    block: int
    position: int = 0
    weight: float = 1.0
    reference: str = "others"
    about: str = "variance"

    def __str__(self) -> str:
        if self.about == "stream":
            what = "give the stream, its direction kept, the norm it has with the variance"
        else:
            what = "variance"
        where = described(self.block, "attention", self.position)
        of = "P0" if self.reference == "p0" else self.reference
        return f"{what} of the {where} moved by {self.weight:g} to that of {of}"

    def hooks(self, context: Context) -> list[Any]:
        """Rescale the row of the attention's output."""
        if self.about not in ("variance", "stream") or self.reference not in ("others", "p0"):
            raise InputError("about is variance or stream, and reference is others or p0.")

        def change(delta: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
            variance = delta.float().var(-1, unbiased=False)
            own = variance[:, self.position]
            if self.reference == "p0":
                target = variance[:, 0]
            else:
                others = context.others(self.position).to(variance.device)
                target = others_median(variance, others)
            wanted = ((1 - self.weight) * own + self.weight * target).clamp_min(0.0)
            factor = (wanted / own.clamp_min(1e-30)).sqrt().unsqueeze(-1).to(delta.dtype)
            row = delta[:, self.position]
            center = row.mean(-1, keepdim=True)
            scaled = center + factor * (row - center)
            if self.about == "variance":
                return scaled
            stream = before[:, self.position] + row
            norm = (before[:, self.position] + scaled).norm(dim=-1, keepdim=True)
            size = stream.norm(dim=-1, keepdim=True).clamp_min(1e-30)
            return stream * (norm / size) - before[:, self.position]

        return write_hooks(context, self.block, "attention", self.position, change)


Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def write_hooks(
    context: Context, block: int, kind: str, position: int, change: Change
) -> list[Any]:
    """Hooks that replace what a sublayer really adds at one position.

    change(delta [B, T, d], before [B, T, d]) -> [B, d]: from what is added at every position, and
    the stream it is added to, what is to be added at `position`. `before` is the block's input; for
    the MLP of a sequential block that is the stream before attention, except where the sublayers
    add the residual stream themselves.
    """
    context.check(position)
    sublayer = context.sublayer(block, kind)
    module = context.block(block)
    stream: dict[str, torch.Tensor] = {}
    assert context.sites is not None
    attention = context.sites.attention(block)

    def enter(module, args, kwargs):
        stream["before"] = first_hidden(args, kwargs)

    def attended(_, args, output):
        assert attention is not None
        out = hidden_of(output).reshape(stream["before"].shape)
        stream["before"] = out if attention.inside else stream["before"] + attention.scale * out

    def leave(_, args, output):
        hidden = at_positions(hidden_of(output), context)
        if hidden is None:
            raise Unsupported(f"the {kind} of block {block} does not write one row a token.")
        before = stream["before"]
        delta = hidden - before if sublayer.inside else hidden * sublayer.scale
        row = change(delta, before).to(hidden.dtype)
        edited = hidden.clone()
        edited[:, position] = before[:, position] + row if sublayer.inside else row / sublayer.scale
        return with_hidden(output, edited.reshape(hidden_of(output).shape))

    handles = [module.register_forward_pre_hook(enter, with_kwargs=True)]
    if sublayer.inside and kind == "mlp" and attention is not None:
        handles.append(module.get_submodule(attention.write).register_forward_hook(attended))
    handles.append(module.get_submodule(sublayer.write).register_forward_hook(leave))
    return handles
