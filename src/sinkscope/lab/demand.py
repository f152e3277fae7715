"""Ask attention heads for a sink while they are trained.

The demand on head h of block l is the mean over late queries of `-log A_{t,0}`, with A the
attention after the softmax. Added to the loss with a small weight it says only *how much* the
head should put on position zero; how to know that position is left to the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkscope.observe.registry import attention_functions

# Arguments that would change the attention itself; to ignore one would train another model.
REFUSED = ("softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices")


@dataclass(frozen=True)
class Demand:
    """Which heads are asked for a sink, from which block on, how strongly and until when.

    heads: heads asked in each block. from_block: first block asked. weight: factor of the
    demand in the loss. late: share of the sequence after which a query counts. until: step
    from which the demand is withdrawn, None to keep it to the end.
    """

    heads: tuple[int, ...] = (0, 1)
    from_block: int = 2
    weight: float = 0.1
    late: float = 0.5
    until: int | None = None

    def asked(self, blocks: int) -> list[tuple[int, int]]:
        """The (block, head) pairs asked in a model of so many blocks."""
        return [(b, h) for b in range(self.from_block, blocks) for h in self.heads]

    def weight_at(self, step: int) -> float:
        """Weight of the demand at a step, counted from 0."""
        return 0.0 if self.until is not None and step >= self.until else self.weight


@dataclass
class LateLogShare:
    """An attention function that keeps `mean log A_{t,0}` over late queries, a block at a time."""

    demand: Demand
    kept: dict[int, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **options,
    ) -> tuple[Tensor, None]:
        """Fused attention, and beside it the log share of the asked heads' late queries."""
        refused = [name for name in REFUSED if options.get(name) is not None]
        if refused:
            raise ValueError(f"The demand cannot train attention that uses {', '.join(refused)}.")
        groups = query.shape[1] // key.shape[1]
        # Always in float32, whatever the precision of the rest: the demand is a small difference.
        query, key, wide = query.float(), *(_repeat(x.float(), groups) for x in (key, value))
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        with torch.autocast(query.device.type, enabled=False):
            block = int(module.layer_idx)  # type: ignore[arg-type]
            if block >= self.demand.from_block:
                mask = _causal(query, key) if attention_mask is None else attention_mask
                self.kept[block] = self._late_log_share(query * scaling, key, mask)
            output = nn.functional.scaled_dot_product_attention(
                query,
                key,
                wide,
                attn_mask=attention_mask,
                is_causal=attention_mask is None and query.shape[2] > 1,
                dropout_p=dropout,
                scale=scaling,
            )
        return output.to(value.dtype).transpose(1, 2), None

    def _late_log_share(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        heads, first = list(self.demand.heads), int(query.shape[2] * self.demand.late)
        scores = query[:, heads, first:] @ key[:, heads].transpose(2, 3)
        scores = scores.masked_fill(~mask[..., first:, :], -torch.inf)
        return (scores[..., 0] - scores.logsumexp(-1)).mean()

    def mean(self) -> Tensor:
        """Mean log share over the blocks of the last forward pass, in nats."""
        if not self.kept:
            raise RuntimeError("No attention was seen: does the model use the attention interface?")
        return torch.stack(list(self.kept.values())).mean()


def _repeat(heads: Tensor, groups: int) -> Tensor:
    return heads.repeat_interleave(groups, dim=1) if groups > 1 else heads


def _causal(query: Tensor, key: Tensor) -> Tensor:
    queries, keys = query.shape[2], key.shape[2]
    shape = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
    return shape.tril(keys - queries)


@contextmanager
def asking(model: PreTrainedModel, demand: Demand) -> Iterator[LateLogShare]:
    """Route the model's attention through a `LateLogShare`; on exit everything is as before."""
    share = LateLogShare(demand)
    with attention_functions(model, share, masks="sdpa"):
        yield share
