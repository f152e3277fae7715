"""Learned position embeddings, and edits of them as published experiments make them.

They are found by what they do (their rows come out in order whatever the tokens are), never by
name. Each edit acts in every row and is undone exactly: weights are put back from a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits.base import Context, Edit, at_positions
from sinkscope.observe.attention import call_model
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.sites import Sites
from sinkscope.observe.stream import first_hidden, hidden_of, with_hidden
from sinkscope.replications.edits import leave_out
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
        block.get_submodule(attention.write).register_forward_hook(leave_out),
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
        return f"{self.of} position embeddings 0 and 1 swapped in the MLP output of block 0"

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
