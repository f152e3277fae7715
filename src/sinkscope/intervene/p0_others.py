"""What the other positions have where edits of position zero look at them, in the intact model.

An edit of P0 may put there what other positions have: their mean, one of them, their median norm.
P0's edited stream is a pass of one token, in which there are no others, so their statistics are
kept from the intact pass, per prompt, at every site at which an edit can act. In the one-token pass
a single stand-in row takes the others' place: the edit's own code, looking at the stand-in, finds
the very value it would have found over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import (
    Heads,
    HoldDirection,
    KeepUnits,
    MatchVariance,
    Neurons,
    ScaleWrite,
    SetWrite,
    Stream,
    TokenAt,
)
from sinkscope.intervene.edits.base import Context, Edit, at_positions
from sinkscope.intervene.edits.hold import KeepNorm
from sinkscope.observe.sites import Sites, write_hooks
from sinkscope.observe.stream import first_hidden, hidden_of, others_median, unit
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

IN, OUT = "in", "out"
Site = tuple[int, str]  # id of a module, and which side of it
ALONE = (ScaleWrite, HoldDirection, KeepNorm, TokenAt)  # they look at no other position
REPLACING = (SetWrite, Heads, Neurons)


def looks_at_others(edit: Edit) -> str:
    """What an edit of P0 takes from other positions: mean, resample, norm, level, variance or "".

    Raises Unsupported for an edit that is none of P0's own stream.
    """
    if getattr(edit, "position", 0) != 0:
        raise Unsupported(f"an edit of position {edit.position} does not act through P0's key.")  # type: ignore[attr-defined]
    if isinstance(edit, KeepUnits):
        return "mean"
    if isinstance(edit, REPLACING):
        return edit.how if edit.how in ("mean", "resample") else ""
    if isinstance(edit, MatchVariance):
        return "variance" if edit.reference == "others" else ""
    if isinstance(edit, Stream):
        if edit.how == "copy" and edit.source != 0:
            raise Unsupported("the streams of other positions are not kept, so none is copied.")
        return edit.how if edit.how in ("mean", "norm", "level") else ""
    if isinstance(edit, ALONE):
        return ""
    raise Unsupported(f"{type(edit).__name__} is no edit of P0's own stream.")


class OtherPositions:
    """Statistics over the positions t > 0 of each prompt, streamed out of one intact pass.

    seeds  those of the edits that resample

    mean    site -> [n, c] mean of what stands there, c channels
    unit    point -> [n, d] mean unit vector of the stream
    picked  (site, seed) -> [n, c] the position that is resampled
    norm    point -> [n] median norm of the stream
    variance  block -> [n] median variance over channels of the attention write
    """

    def __init__(self, subject: Subject, sites: Sites, seeds: Sequence[int] = (0,)) -> None:
        self.subject, self.sites, self.seeds = subject, sites, tuple(seeds)
        self.blocks = subject.anatomy.modules(subject.model)
        self._kept: dict[tuple[str, Any], list[torch.Tensor]] = {}
        self._joined: dict[tuple[str, Any], torch.Tensor] = {}
        self._context: Context | None = None

    def begin(self, batch: Prompts, rows: list[int]) -> None:
        """The batch whose pass comes next; `rows` are the indices of its prompts."""
        self._context = Context(self.subject, batch, self.sites, rows)

    def hooks(self) -> list[Any]:
        """Hooks of the intact pass."""
        handles = []
        for block, sublayers in zip(self.blocks, self.sites.blocks):
            handles.append(self._on(block, IN))
            for sublayer in sublayers:
                handles.append(self._on(block.get_submodule(sublayer.write), OUT))
                if sublayer.projection is not None and sublayer.experts is None:
                    handles.append(self._on(sublayer.projection.owner(block), IN))
                if sublayer.shared is not None:
                    handles.append(self._on(sublayer.shared.owner(block), IN))
        handles.append(self._on(self.blocks[-1], OUT))
        return [*handles, *write_hooks(self.subject, self.sites, self._written)()]

    def _on(self, module: nn.Module, side: str) -> Any:
        site = id(module), side
        point = next((i for i, block in enumerate(self.blocks) if block is module), None)
        if point is not None and side == OUT:
            point += 1

        def enter(module, args, kwargs):
            self._take(site, point, first_hidden(args, kwargs))

        def leave(module, args, output):
            self._take(site, point, hidden_of(output))

        if side == IN:
            return module.register_forward_pre_hook(enter, with_kwargs=True)
        return module.register_forward_hook(leave)

    def _take(self, site: Site, point: int | None, tensor: torch.Tensor) -> None:
        assert self._context is not None
        values = at_positions(tensor, self._context)
        if values is None:
            return  # no edit can act here either
        self._keep("mean", site, self._context.replacement(values, 0, "mean", 0))
        for seed in self.seeds:
            picked = self._context.replacement(values, 0, "resample", seed)
            self._keep("picked", (site, seed), picked)
        if point is None:
            return
        x = values.float()
        self._keep("norm", point, self._median(x.norm(dim=-1)))
        self._keep("unit", point, self._context.replacement(unit(x), 0, "mean", 0))

    def _written(self, block: int, index: int, delta: torch.Tensor) -> None:
        if self.sites.blocks[block][index] is self.sites.attention(block):
            variance = delta.float().var(-1, unbiased=False)
            self._keep("variance", block, self._median(variance))

    def _median(self, values: torch.Tensor) -> torch.Tensor:
        assert self._context is not None
        return others_median(values, self._context.others(0).to(values.device))

    def _keep(self, what: str, key: Any, value: torch.Tensor) -> None:
        self._kept.setdefault((what, key), []).append(value.detach())

    def get(self, what: str, key: Any) -> torch.Tensor:
        """A statistic of all prompts by its name and key, [n] or [n, c]: see the class.

        Raises InputError for a seed that was not kept, Unsupported for units inside experts, which
        would need what every other position is routed to.
        """
        name = what, key
        if name not in self._joined and name not in self._kept:
            if what == "picked" and ("mean", key[0]) in {*self._kept, *self._joined}:
                raise InputError(f"other positions were picked by seeds {self.seeds} only.")
            raise Unsupported("what other positions have inside experts is not kept.")
        if name not in self._joined:
            self._joined[name] = torch.cat(self._kept.pop(name))
        return self._joined[name]

    @property
    def median_norm(self) -> torch.Tensor:
        """Median norm of the others at x0..xL: [n, points]."""
        points = range(len(self.blocks) + 1)
        return torch.stack([self.get("norm", point).float().cpu() for point in points], 1)

    def stand_in(self, edit: Edit, site: Site, rows: list[int], context: Context):
        """[rows, c] what stands for all other positions where `edit` looks, or None.

        None where the edit takes nothing from there.
        """
        what = looks_at_others(edit)
        if what == "mean":
            return self.get("mean", site)[rows]
        if what == "resample":
            return self.get("picked", (site, edit.seed))[rows]  # type: ignore[attr-defined]
        if what in ("norm", "level"):
            return self._stream(edit, what, rows, context)
        if what == "variance":
            return self._write(edit, site, rows)
        return None

    def _stream(self, edit: Any, what: str, rows: list[int], context: Context) -> torch.Tensor:
        """A stream of the others' median norm, or with their mean cosine to the direction."""
        own = self.get("unit", edit.point)[rows]
        if what == "norm":
            first = torch.zeros_like(own)
            first[:, 0] = self.get("norm", edit.point)[rows]
            return first
        u = context.direction if edit.vector is None else torch.tensor(edit.vector)
        if u is None:
            raise InputError("there is no sink direction to level.")
        u = unit(u.to(own))
        cosine = (own @ u).unsqueeze(-1)
        axis = torch.zeros_like(u)
        axis[u.abs().argmin()] = 1.0
        across = unit(axis - (axis @ u) * u)
        return cosine * u + (1 - cosine**2).clamp_min(0).sqrt() * across

    def _write(self, edit: Any, site: Site, rows: list[int]) -> torch.Tensor:
        """A write of the others' median variance; nothing in the stream before it."""
        sublayer = self.sites.attention(edit.block)
        assert sublayer is not None
        like = self.get("mean", site)[rows]
        if site != (id(self.blocks[edit.block].get_submodule(sublayer.write)), OUT):
            return torch.zeros_like(like)
        ramp = torch.linspace(-1, 1, like.shape[-1], device=like.device)
        ramp = ramp / ramp.var(unbiased=False).sqrt()
        scale = 1.0 if sublayer.inside else sublayer.scale
        return self.get("variance", edit.block)[rows].sqrt().unsqueeze(-1) * ramp / scale
