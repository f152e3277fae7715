"""Position zero's keys, as functions of its stream: what the logits of reading heads are made of.

With the scales of norms frozen, P0's key is an affine map of its stream, so the mean logit
`s = mean_t q_t·k_0·scale` of a head is `⟨g, x_0⟩ + s(0)` with g its gradient, and splits exactly
over everything that was added to x_0. The attention module itself is called, on one-token
sequences, so rotations, qk-norms and latent projections are the family's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.circuit.frozen import FrozenNorms
from sinkscope.errors import Unsupported
from sinkscope.observe.p0_stream import one_token_pass
from sinkscope.observe.sites import Sites, write_hooks
from sinkscope.observe.stream import first_hidden, hidden_of, put_hidden, with_hidden
from sinkscope.observe.tap import own_eager
from sinkscope.observe.together import together
from sinkscope.subject.at_hand import no_gradients
from sinkscope.subject.load import Subject

Replace = Callable[[int, torch.Tensor], torch.Tensor]
# (block, keys [n, G, D], the input of the block [n, 1, d])
OnKeys = Callable[[int, torch.Tensor, torch.Tensor], None]


@dataclass
class SinkLogits:
    """Mean late logits on P0 of some heads, and how they depend on P0's stream.

    heads     [(block, head)]; query [n, heads, D] is given, one row for each prompt
    value     [n, heads] q̄·k_0·scale
    gradient  [n, heads, d] with respect to the block's input, norms frozen
    bias      [n, heads] what is left of it when the block's input is zero
    names     of the contributions: embedding, 0.attention, 0.mlp, ..
    added     [n, contributions, d] what each added to P0's stream
    """

    heads: list[tuple[int, int]]
    value: torch.Tensor
    gradient: torch.Tensor
    bias: torch.Tensor
    names: list[str]
    added: torch.Tensor
    blocks: list[int]

    @property
    def parts(self) -> torch.Tensor:
        """[n, heads, contributions] of the logit, without the bias; later writes count nothing."""
        parts = torch.einsum("nhd,ncd->nhc", self.gradient, self.added)
        before = torch.tensor([[at < block for at in self.blocks] for block, _ in self.heads])
        return parts * before

    @property
    def error(self) -> float:
        """|Σ parts + bias − value| of the means over prompts, over the largest |value|."""
        total = (self.parts.sum(-1) + self.bias).mean(0)
        value = self.value.mean(0)
        return float((total - value).abs().max() / value.abs().max().clamp_min(1e-12))


def sink_logits(
    subject: Subject,
    sites: Sites,
    tokens: torch.Tensor,
    heads: list[tuple[int, int]],
    queries: dict[int, torch.Tensor],
    scales: dict[int, float],
) -> SinkLogits:
    """Logits of the given heads on P0, taken apart.

    tokens   [n] first token of each prompt
    queries  block -> [n, H, D] mean late query of each prompt; scales: block -> score scale
    Raises Unsupported for a norm that cannot be frozen, and for maps that give no gradients.
    """
    if reason := no_gradients(subject.model):
        raise Unsupported(reason)
    blocks = subject.anatomy.modules(subject.model)
    reading = sorted({block for block, _ in heads})
    norms, stop = FrozenNorms([blocks[block] for block in reading]), reading[-1] + 1
    taken, added = _Taken(heads, queries, scales), _Added(sites)
    wrote = write_hooks(subject, sites, added.write)

    def with_gradients() -> None:
        with norms.recording():
            p0_keys(
                subject, tokens, reading, lambda block, x: x, taken.differentiate, stop,
                extra=lambda: [added.embedding_of(blocks[0]), *wrote()],
                grad=True,
            )  # fmt: skip

    def without_input() -> None:
        with norms.replaying():
            p0_keys(
                subject, tokens, reading, lambda block, x: torch.zeros_like(x), taken.at_zero, stop
            )

    with together(subject) as start:  # the second behind the first, block by block
        for done in (start(with_gradients), start(without_input)):
            done()
    value, gradient, bias = (
        torch.stack([each[head] for head in heads], 1)
        for each in (taken.value, taken.gradient, taken.bias)
    )
    rows = torch.stack(added.rows, 1)
    return SinkLogits(heads, value, gradient, bias, added.names, rows, added.blocks)


class _Taken:
    """Value [n] of each head, its gradient [n, d], and its bias [n]."""

    def __init__(self, heads, queries, scales) -> None:
        self.heads, self.queries, self.scales = heads, queries, scales
        self.value: dict[tuple[int, int], torch.Tensor] = {}
        self.gradient: dict[tuple[int, int], torch.Tensor] = {}
        self.bias: dict[tuple[int, int], torch.Tensor] = {}

    def _logits(
        self, block: int, keys: torch.Tensor
    ) -> Iterator[tuple[tuple[int, int], torch.Tensor]]:
        queries = self.queries[block]
        for head in (head for head in self.heads if head[0] == block):
            group = head[1] * keys.shape[1] // queries.shape[1]
            query = queries[:, head[1]].to(keys)
            yield head, (query * keys[:, group]).sum(-1) * self.scales[block]

    def differentiate(self, block: int, keys: torch.Tensor, leaf: torch.Tensor) -> None:
        """Take values and gradients, the leaf being the input of the block [n, 1, d]."""
        for head, value in self._logits(block, keys):
            (gradient,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
            self.value[head] = value.detach().float().cpu()
            self.gradient[head] = gradient[:, 0].float().cpu()

    def at_zero(self, block: int, keys: torch.Tensor, leaf: torch.Tensor) -> None:
        """Take what is left without input."""
        for head, value in self._logits(block, keys):
            self.bias[head] = value.detach().float().cpu()


class _Added:
    """What was added to P0's stream: the embedding, then every write, rows [n, d]."""

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.names, self.blocks = ["embedding"], [-1]
        self.rows: list[torch.Tensor] = []

    def embedding_of(self, block: torch.nn.Module) -> Any:
        """A hook that takes the first block's input."""

        def hook(module, args, kwargs):
            self.rows[:] = [first_hidden(args, kwargs)[:, 0].detach().float().cpu()]

        return block.register_forward_pre_hook(hook, with_kwargs=True)

    def write(self, block: int, index: int, delta: torch.Tensor) -> None:
        """Take a write, delta [n, 1, d]."""
        self.names.append(self.sites.name_of(block, index))
        self.blocks.append(block)
        self.rows.append(delta[:, 0].detach().float().cpu())


def p0_keys(
    subject: Subject,
    tokens: torch.Tensor,
    blocks: list[int],
    replace: Replace,
    on_keys: OnKeys,
    stop: int,
    extra: Callable[[], list[Any]] = list,
    grad: bool = False,
) -> None:
    """Run P0 alone and call on_keys with the keys of the given blocks.

    replace  called with the input of each of those blocks [n, 1, d]; gives what the block is to
             read instead. It becomes a leaf where `grad` is set.
    """
    modules = subject.anatomy.modules(subject.model)
    state = _State(on_keys)

    def taps() -> list[Any]:
        handles = extra()
        for block in blocks:
            handles.append(
                modules[block].register_forward_pre_hook(
                    state.enter(block, replace, grad), with_kwargs=True
                )
            )
            handles.append(modules[block].register_forward_hook(state.leave))
        return handles

    one_token_pass(subject, tokens, taps, stop, attention=state.attention, grad=grad)


class _State:
    """Which block is running, and the leaf that its keys depend on."""

    def __init__(self, on_keys: OnKeys) -> None:
        self.on_keys = on_keys
        self.block: int | None = None
        self.leaf = torch.empty(0)

    def enter(self, block: int, replace: Replace, grad: bool) -> Callable:
        def hook(module, args, kwargs):
            hidden = first_hidden(args, kwargs)
            self.leaf = replace(block, hidden).detach().requires_grad_(grad)
            self.block = block
            return put_hidden(args, kwargs, self.leaf)

        return hook

    def leave(self, module, args, output):
        self.block = None
        return with_hidden(output, hidden_of(output).detach())

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        """The registered function: shows the keys, then attends as the family does."""
        if self.block is not None and key.shape[2] == 1:
            self.on_keys(self.block, key[:, :, 0], self.leaf)
        out, _ = own_eager(
            module, query.detach(), key.detach(), value.detach(), attention_mask, kwargs
        )
        return out, None
