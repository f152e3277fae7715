"""The auxiliary attention-sink loss: heads are supervised to sink while a model is trained.

Two terms, each added to the loss with a small weight. On the attention `A` after the softmax:

    D = mean over late queries t of  -log Σ_{k in S} A_{t,k}

with S position zero, or every key that holds a delimiter. On the stream `x` at the input of the
supervised blocks:

    N = relu(log r* − log r),   r = ‖x_0‖ / median_{t>0} ‖x_t‖

They say only *how much* a head should put on S and how far position zero should stand out; how
to know position zero, or a delimiter, is left to the model.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkscope.errors import InputError
from sinkscope.observe.registry import attention_functions, hooks
from sinkscope.observe.scores import repeat_heads
from sinkscope.observe.stream import others_median

# Arguments that would change the attention itself; to ignore one would train another model.
REFUSED = (
    *("softcap", "s_aux", "sinks", "sigmoid_bias"),
    *("position_bias", "indices", "block_indices"),
)


@dataclass(frozen=True)
class Demand:
    """Which heads are supervised to sink, from which block on, how strongly and until when.

    heads        heads supervised in each block
    from_block   first block supervised
    weight       factor of D in the loss; 0 only measures
    late         share of the sequence after which a query counts
    until        step from which both terms are withdrawn; None keeps them
    delimiters   characters that make a token a delimiter, the target in place of position zero
    norm_ratio   r*; without it there is no N
    norm_weight  factor of N in the loss
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    heads: tuple[int, ...] = (0, 1)
    from_block: int = 2
    weight: float = 0.1
    late: float = 0.5
    until: int | None = None
    delimiters: str = ""
    norm_ratio: float | None = None
    norm_weight: float = 0.0

    def supervised(self, blocks: int) -> list[tuple[int, int]]:
        """The (block, head) pairs supervised in a model of so many blocks; none at weight 0."""
        return self.watched(blocks) if self.weight else []

    def watched(self, blocks: int) -> list[tuple[int, int]]:
        """The (block, head) pairs named, whatever the weight."""
        return [(b, h) for b in range(self.from_block, blocks) for h in self.heads]

    def holds_at(self, step: int) -> bool:
        """Whether the demand has not been withdrawn at a step, counted from 0."""
        return self.until is None or step < self.until

    def penalty(self, log_share: Tensor, log_ratio: Tensor | None, step: int) -> Tensor:
        """The auxiliary loss of a step, [] in nats: `weight · D + norm_weight · N`.

        log_share [] is −D; log_ratio [block, batch] is log r, of which N is the mean. Zero once
        the demand is withdrawn.
        """
        if not self.holds_at(step):
            return torch.zeros_like(log_share)
        penalty = -self.weight * log_share
        if self.norm_ratio is not None and log_ratio is not None:
            lacking = (math.log(self.norm_ratio) - log_ratio).relu().mean()
            penalty = penalty + self.norm_weight * lacking
        return penalty


@dataclass
class Supervised:
    """An attention function that keeps the log share of the supervised heads, a block at a time.

    demanded: boolean [batch, key], the target keys; None for position zero. log_shares: one
    scalar a block. log_ratios: log r, [batch] a block, where the demand has a norm ratio.
    """

    demand: Demand
    demanded: Tensor | None = None
    log_shares: dict[int, Tensor] = field(default_factory=dict)
    log_ratios: dict[int, Tensor] = field(default_factory=dict)

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
        """Fused attention, and beside it the log share of the supervised heads' late queries."""
        refused = [name for name in REFUSED if options.get(name) is not None]
        if refused:
            raise ValueError(f"The demand cannot train attention that uses {', '.join(refused)}.")
        # Always in float32, whatever the precision of the rest: the demand is a small difference.
        heads = query.shape[1]
        query, key, wide = query.float(), *(repeat_heads(x.float(), heads) for x in (key, value))
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        with torch.autocast(query.device.type, enabled=False):
            block = int(module.layer_idx)  # type: ignore[arg-type]
            if block >= self.demand.from_block:
                mask = _causal(query, key) if attention_mask is None else attention_mask
                self.log_shares[block] = self._late_log_share(query * scaling, key, mask)
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
        everything = scores.logsumexp(-1)
        if self.demanded is None:
            return (scores[..., 0] - everything).mean()
        wanted = scores.masked_fill(~self.demanded[:, None, None, :], -torch.inf)
        # A query that sees no such key cannot be supervised; its row would be infinite.
        seen = wanted.isfinite().any(-1)
        shares = wanted[seen].logsumexp(-1) - everything[seen]
        return shares.sum() / seen.sum().clamp(min=1)

    def log_share(self) -> Tensor:
        """Mean log share over the blocks of the last forward pass, in nats: []."""
        if not self.log_shares:
            raise RuntimeError("No attention was seen: does the model use the attention interface?")
        return torch.stack(list(self.log_shares.values())).mean()

    def log_ratio(self) -> Tensor | None:
        """log r of the last forward pass, [block, batch]; None where no ratio was demanded."""
        return torch.stack(list(self.log_ratios.values())) if self.log_ratios else None


def _causal(query: Tensor, key: Tensor) -> Tensor:
    queries, keys = query.shape[2], key.shape[2]
    shape = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
    return shape.tril(keys - queries)


def delimiter_ids(tokenizer, characters: str) -> Tensor:
    """Ids [k] of the tokens that consist of nothing but the given characters.

    Raises InputError where there is none.
    """
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    ids = [i for i, text in enumerate(texts) if text and set(text) <= set(characters)]
    if not ids:
        raise InputError(f"No token of the vocabulary is made of {characters!r} alone.")
    return torch.tensor(ids)


@contextmanager
def supervising(
    model: PreTrainedModel, demand: Demand, delimiters: Tensor | None = None
) -> Iterator[Supervised]:
    """Route the model's attention through a `Supervised`; on exit everything is as before.

    delimiters: ids [k] of the target tokens, where the demand is for delimiters.
    """
    supervised = Supervised(demand)
    handles = []

    def see_tokens(module: nn.Module, args: tuple) -> None:
        supervised.demanded = torch.isin(args[0], wanted)

    def see_stream(block: int):
        def see(module: nn.Module, args: tuple) -> None:
            norms = args[0].float().norm(dim=-1)
            supervised.log_ratios[block] = norms[:, 0].log() - others_median(norms).log()

        return see

    if demand.delimiters:
        if delimiters is None:
            raise ValueError("A demand for delimiters wants their token ids.")
        wanted = delimiters
        handles.append(model.get_input_embeddings().register_forward_pre_hook(see_tokens))
    if demand.norm_ratio is not None:
        for block, layer in enumerate(model.model.layers):
            if block >= demand.from_block:
                handles.append(layer.register_forward_pre_hook(see_stream(block)))
    with hooks(handles), attention_functions(model, supervised, masks="sdpa"):
        yield supervised
