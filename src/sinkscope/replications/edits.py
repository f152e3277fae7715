"""Edits of parameters and of whole modules, as published experiments make them.

Each acts in every row and is undone exactly: weights are put back from a copy, hooks are removed.
Learned position embeddings are found by what they do (their rows come out in order whatever the
tokens are), never by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.attend import Call
from sinkscope.intervene.edits.base import Context, Edit, at_positions, stream_hooks
from sinkscope.observe.attention import call_model
from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.observe.sites import Sites
from sinkscope.observe.stream import first_hidden, hidden_of, with_hidden
from sinkscope.subject.load import Subject

PROBE = 4  # tokens that show which embedding is looked up by position
ROWS = ("replace", "swap", "zero")


def position_table(subject: Subject) -> tuple[nn.Embedding, int]:
    """The embedding that is looked up by position, and its row for position 0.

    Raises Unsupported for a model that has none, such as one with rotary positions.
    """
    token_embedding = subject.model.get_input_embeddings()
    tables = [
        module
        for module in subject.model.modules()
        if isinstance(module, nn.Embedding) and module is not token_embedding
    ]
    found: list[dict[int, set[int]]] = []
    for start in (0, PROBE):  # other tokens, the same positions
        seen: dict[int, set[int]] = {}
        handles = [table.register_forward_hook(_looked_up(seen)) for table in tables]
        ids = torch.arange(start, start + PROBE, device=subject.device).unsqueeze(0)
        with torch.no_grad(), evaluation(subject.model), hooks(handles):
            call_model(subject, {"input_ids": ids, "use_cache": False}, logits=False)
        found.append(seen)
    for table in tables:
        offsets = found[0].get(id(table), set()) & found[1].get(id(table), set())
        if offsets:
            return table, min(offsets)
    raise Unsupported(f"{subject.anatomy.model_type} has no learned position embeddings.")


def _looked_up(seen: dict[int, set[int]]):
    """Rows of its weight from which an embedding gave the next ones in order, one a token."""

    def hook(module, args, output):
        rows = output.reshape(-1, output.shape[-1])
        if len(rows) != PROBE or rows.shape[-1] != module.weight.shape[-1]:
            return
        same = [(module.weight == row).all(-1).nonzero().flatten().tolist() for row in rows]
        starts = [{index - i for index in indices} for i, indices in enumerate(same)]
        seen[id(module)] = set.intersection(*starts)

    return hook


@dataclass(frozen=True)
class PositionRows(Edit):
    """Learned position embeddings: row a replaced by row b, both swapped, or all rows zero."""

    how: str = "replace"
    a: int = 0
    b: int = 1

    def __str__(self) -> str:
        if self.how == "zero":
            return "all position embeddings zero"
        verb = "replaced by" if self.how == "replace" else "swapped with"
        return f"position embedding {self.a} {verb} that of {self.b}"

    @contextmanager
    def weights(self, context: Context) -> Iterator[None]:
        """Change the table, and put it back."""
        if self.how not in ROWS:
            raise InputError(f"{self.how!r} is not one of {', '.join(ROWS)}.")
        table, offset = position_table(context.subject)
        weight = table.weight
        a, b = self.a + offset, self.b + offset
        if not 0 <= max(a, b) < len(weight):
            raise InputError(f"this model has positions 0 to {len(weight) - 1 - offset}.")
        saved = weight.detach().clone()
        with torch.no_grad():
            try:
                if self.how == "zero":
                    weight.zero_()
                elif self.how == "replace":
                    weight[a] = saved[b]
                else:
                    weight[a], weight[b] = saved[b], saved[a]
                yield
            finally:
                weight.copy_(saved)


@dataclass(frozen=True)
class ZeroEmbedding(Edit):
    """The token embedding at a position is zero; a position embedding stays."""

    position: int = 0
    order = 0

    def __str__(self) -> str:
        return f"token embedding at position {self.position} zero"

    def hooks(self, context: Context) -> list[Any]:
        """Zero the row of the embedding's output."""
        context.check(self.position)

        def leave(module, args, output):
            edited = output.clone()
            edited[:, self.position] = 0.0
            return edited

        return [context.subject.model.get_input_embeddings().register_forward_hook(leave)]


@dataclass(frozen=True)
class WithoutSublayers(Edit):
    """The sublayers of one kind add nothing, in all blocks and at all positions."""

    kind: str = "mlp"

    def __str__(self) -> str:
        return f"no {self.kind} output in any block"

    def hooks(self, context: Context) -> list[Any]:
        """Zero what the sublayers write."""
        modules = []  # all of them first: a refusal must leave no hook behind
        for block in range(len(context.subject.anatomy.blocks)):
            if context.sites is not None and getattr(context.sites, self.kind)(block) is None:
                continue  # nothing is written there
            sublayer = context.sublayer(block, self.kind)
            if sublayer.inside:
                raise Unsupported(
                    f"{context.subject.anatomy.model_type} adds the stream inside its {self.kind}, "
                    "so it cannot be left out as a module."
                )
            modules.append(context.block(block).get_submodule(sublayer.write))
        return [module.register_forward_hook(_nothing) for module in modules]


def _nothing(module, args, output):
    return with_hidden(output, torch.zeros_like(hidden_of(output)))


@dataclass(frozen=True)
class NeuronsOff(Edit):
    """Some MLP neurons of a block are zero at every position."""

    block: int
    neurons: tuple[int, ...]

    def __str__(self) -> str:
        which = ", ".join(map(str, self.neurons))
        return f"neurons {which} of block {self.block} zero at every position"

    def hooks(self, context: Context) -> list[Any]:
        """Zero their part of the output projection's input."""
        sublayer = context.sublayer(self.block, "mlp")
        if sublayer.projection is None or sublayer.experts is not None:
            raise Unsupported(
                sublayer.reason or f"block {self.block} holds its neurons in experts."
            )

        def enter(module, args):
            value = args[0].clone()
            value[..., list(self.neurons)] = 0.0
            return (value, *args[1:])

        owner = sublayer.projection.owner(context.block(self.block))
        return [owner.register_forward_pre_hook(enter)]


@dataclass(frozen=True)
class KeyColumns(Edit):
    """Input channels that key projections do not see: columns of W_k at zero, in every block.

    channels  the same in every block; or `count` random ones, drawn by `seed` for each block

    Keys come from calling the attention module again with those channels of its input at zero;
    queries and values stay as they are. A key bias stays too.
    """

    channels: tuple[int, ...] = ()
    count: int = 0
    seed: int = 0
    acts_on_attention = True

    def __str__(self) -> str:
        if self.count:
            return f"{self.count} random columns of every W_k zero"
        return f"columns {', '.join(map(str, self.channels))} of every W_k zero"

    def hooks(self, context: Context) -> list[Any]:
        """Remember how each attention module was called."""

        def enter(module, args, kwargs):
            context.calls[id(module)] = (args, kwargs)

        return [
            child.register_forward_pre_hook(enter, with_kwargs=True)
            for block in range(len(context.subject.anatomy.blocks))
            for child in context.block(block).modules()
        ]

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """Take the key from a call without the channels."""
        args, kwargs = context.calls[id(call.module)]
        hidden = first_hidden(args, kwargs)
        cut = hidden.clone()
        cut[..., list(self._chosen(block, hidden.shape[-1]))] = 0.0
        args = tuple(cut if value is hidden else value for value in args)
        kwargs = {name: cut if value is hidden else value for name, value in kwargs.items()}
        key = key_of(context.subject, call.module, args, kwargs)
        return dataclasses.replace(call, key=key)

    def _chosen(self, block: int, width: int) -> tuple[int, ...]:
        if not self.count:
            return self.channels
        generator = torch.Generator().manual_seed(1000 * self.seed + block)
        return tuple(torch.randperm(width, generator=generator)[: self.count].tolist())


def key_of(subject: Subject, module: nn.Module, args: tuple, kwargs: dict) -> torch.Tensor:
    """The key [B, G, T, D] that an attention module comes up with when it is called so."""
    found: list[torch.Tensor] = []

    def grab(module, query, key, value, attention_mask, **rest):
        found.append(key)
        batch, heads, length = query.shape[:3]
        return value.new_zeros(batch, length, heads, value.shape[-1]), None

    with attention_functions(subject.model, grab, "sdpa"):
        module.forward(*args, **kwargs)
    return found[0]


@dataclass
class PositionVectors:
    """Raw and effective position embeddings [positions, d] of the first positions.

    Effective (arXiv 2604.14722): EPE_j = p_j + MLP⁰(p_j), what block 0 makes of p_j alone.
    """

    raw: torch.Tensor
    effective: torch.Tensor

    @property
    def massive(self) -> tuple[int, ...]:
        """Channels in which |EPE_0| lies more than three standard deviations over its mean."""
        size = self.effective[0].abs()
        return tuple((size > size.mean() + 3 * size.std()).nonzero().flatten().tolist())


def position_vectors(subject: Subject, sites: Sites, count: int = 2) -> PositionVectors:
    """From a pass without token embeddings in which block 0 attends to nothing."""
    position_table(subject)  # refuses a model without
    block = subject.anatomy.modules(subject.model)[0]
    attention = sites.attention(0)
    if attention is None or attention.inside:
        raise Unsupported(f"block 0 of {subject.anatomy.model_type} has no attention to leave out.")
    seen: dict[str, torch.Tensor] = {}

    def enter(module, args, kwargs):
        seen["raw"] = first_hidden(args, kwargs)[0].detach().clone()

    def leave(module, args, output):
        seen["effective"] = hidden_of(output)[0].detach().clone()

    handles = [
        subject.model.get_input_embeddings().register_forward_hook(
            lambda module, args, output: torch.zeros_like(output)
        ),
        block.register_forward_pre_hook(enter, with_kwargs=True),
        block.get_submodule(attention.write).register_forward_hook(_nothing),
        block.register_forward_hook(leave),
    ]
    ids = torch.zeros(1, count, dtype=torch.long, device=subject.device)
    with torch.no_grad(), evaluation(subject.model), hooks(handles):
        call_model(subject, {"input_ids": ids, "use_cache": False}, logits=False)
    return PositionVectors(seen["raw"].float(), seen["effective"].float())


@dataclass(frozen=True)
class SwapAlong(Edit):
    """Swap the position component in what MLP 0 writes at positions 0 and 1.

    With â, b̂ the unit vectors of positions 0 and 1 and α = ⟨m_0, â⟩ of the MLP's write m:
    m_0 += α(b̂ − â), m_1 −= α(b̂ − â).

    of  effective or raw position embeddings; `vectors` is what `position_vectors` gave
    """

    of: str = "effective"
    vectors: PositionVectors | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.of} position embeddings 0 and 1 swapped in the mlp output of block 0"

    def hooks(self, context: Context) -> list[Any]:
        """Change two rows of the MLP's output."""
        if self.vectors is None:
            raise InputError("a swap needs vectors=position_vectors(subject, sites).")
        sublayer = context.sublayer(0, "mlp")
        if sublayer.inside:
            raise Unsupported("the first MLP adds the stream itself, so its write is not at hand.")
        rows = getattr(self.vectors, self.of)[:2]
        if bool((rows.norm(dim=-1) == 0).any()):
            raise Unsupported(f"an {self.of} embedding of positions 0 and 1 is zero: no direction.")
        a, b = rows / rows.norm(dim=-1, keepdim=True)

        def leave(module, args, output):
            rows = at_positions(hidden_of(output), context)
            assert rows is not None
            edited = rows.clone()
            alpha = rows[:, 0].float() @ a.to(rows.device)
            step = (alpha.unsqueeze(-1) * (b - a).to(rows.device)).to(rows.dtype)
            edited[:, 0] += step
            edited[:, 1] -= step
            return with_hidden(output, edited.reshape(hidden_of(output).shape))

        return [context.block(0).get_submodule(sublayer.write).register_forward_hook(leave)]


@dataclass(frozen=True)
class SetEntries(Edit):
    """Set single entries of the stream before block `point`: channels at one position.

    values  one for each channel
    above   only where the entry is larger than this in magnitude, at any position
    """

    point: int
    channels: tuple[int, ...]
    values: tuple[float, ...]
    position: int | None = 0
    above: float = 0.0
    order = 0

    def __str__(self) -> str:
        where = "every position" if self.position is None else f"position {self.position}"
        what = "zero" if not any(self.values) else "set"
        entries = f"{len(self.channels)} entries" + (f" over {self.above:g}" if self.above else "")
        return f"{entries} of the stream before block {self.point} {what} at {where}"

    def hooks(self, context: Context) -> list[Any]:
        """Change the entries of the block's input."""
        if len(self.channels) != len(self.values):
            raise InputError("as many values as channels are needed.")

        def change(_: int, hidden: torch.Tensor) -> torch.Tensor:
            edited = hidden.clone()
            at = slice(None) if self.position is None else slice(self.position, self.position + 1)
            for channel, value in zip(self.channels, self.values):
                entries = edited[:, at, channel]
                edited[:, at, channel] = torch.where(entries.abs() > self.above, value, entries)
            return edited

        return stream_hooks(context, [self.point], change)
