"""Attention of every head, reduced to what each key receives, while a model runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkscope.observe.registry import attention_functions


@dataclass
class Received:
    """An attention function that keeps what each key receives, by block.

    late: [batch, head, key], mean over queries t >= T/2 of A_{t,k}. first: [batch, head], mean over
    all queries of A_{t,0}. Small models only: it forms the whole map of a block.
    """

    late: dict[int, Tensor] = field(default_factory=dict)
    first: dict[int, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        scaling: float | None = None,
        **options,
    ) -> tuple[Tensor, None]:
        """Plain softmax attention."""
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        queries, keys = query.shape[2], key.shape[2]
        if attention_mask is None:
            visible = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
            attention_mask = visible.tril(keys - queries)
        scores = (query * scaling) @ key.transpose(2, 3)
        attention = scores.masked_fill(~attention_mask, -torch.inf).softmax(-1)
        block = int(module.layer_idx)  # type: ignore[arg-type]
        self.late[block] = attention[:, :, queries // 2 :].mean(2)
        self.first[block] = attention[..., 0].mean(2)
        return (attention @ value).transpose(1, 2), None


@contextmanager
def receiving(model: PreTrainedModel) -> Iterator[Received]:
    """Route the model's attention through a `Received`; on exit everything is as before."""
    received = Received()
    with attention_functions(model, received, masks="sdpa"):
        yield received
