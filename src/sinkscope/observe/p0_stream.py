"""Position zero is a function of one token.

Under a causal mask P0 attends only to itself, so its whole residual stream is a forward pass of
length one, and every other position reads it only through one key and one value for each layer: a
one-entry cache. So every vocabulary item can be put at P0 in one batched pass, and any edit of P0's
stream is a length-one pass with the rest of the sequence run on its cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from sinkscope.errors import Unsupported
from sinkscope.observe.attention import call_model
from sinkscope.observe.layout import layout_of
from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tokens import usable_vocabulary

BATCH = 2048  # one-token sequences run at a time
FIRST_TOKENS = 256  # first tokens over which P0 is averaged
Taps = Callable[[], list[Any]]


class _Enough(Exception):
    pass


def one_token_pass(
    subject: Subject,
    tokens: torch.Tensor,
    taps: Taps,
    stop: int | None = None,
    attention: Callable[..., Any] | None = None,
    grad: bool = False,
) -> None:
    """Run every token as a sequence of its own: all that position zero ever sees.

    tokens     [n] token ids, run as one batch: hooks see streams [n, 1, d]
    taps       makes the hooks of the pass
    stop       run only the blocks below it (their outputs are read as the input of block `stop`)
    attention  attention function to use instead of the model's own (registry families)
    grad       let gradients be taken inside hooks; parameters never ask for one
    """
    model = subject.model
    blocks = subject.anatomy.modules(model)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(evaluation(model))
        if grad:
            stack.enter_context(_no_parameter_gradients(model))
        if attention is not None:
            stack.enter_context(attention_functions(model, attention, "eager"))
        stack.enter_context(hooks(taps()))
        if stop is not None and stop < len(blocks):
            stack.enter_context(hooks([blocks[stop].register_forward_pre_hook(_enough)]))
        inputs = {"input_ids": tokens.to(subject.device).unsqueeze(1), "use_cache": False}
        with suppress(_Enough):
            call_model(subject, inputs, logits=False)


@contextmanager
def _no_parameter_gradients(model: Any) -> Iterator[None]:
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, requires in asked:
            parameter.requires_grad_(requires)


def _enough(module, args) -> None:
    raise _Enough


def p0_states(
    subject: Subject,
    tokens: torch.Tensor,
    read: Callable[[Callable[[int, torch.Tensor], None]], Taps] | None = None,
    stop: int | None = None,
) -> torch.Tensor:
    """P0's residual stream for each of tokens [n]: [n, points, d], fp32, on the CPU.

    read  makes the hooks that call a function with each point and its stream; by default those of
          the inputs of the blocks and of the last block's output
    """
    rows = []
    for batch in tokens.split(BATCH):
        points: dict[int, torch.Tensor] = {}

        def keep(point: int, hidden: torch.Tensor, into: dict = points) -> None:
            into[point] = hidden[:, 0].detach().float().cpu()  # checkpointing asks for gradients

        one_token_pass(subject, batch, read(keep) if read else residual_hooks(subject, keep), stop)
        rows.append(torch.stack([points[i] for i in sorted(points)], 1))
    return torch.cat(rows)


def first_tokens(subject: Subject, prompts: Prompts, seed: int) -> torch.Tensor:
    """Token ids [n] to put at P0: BOS alone where every prompt begins with it, else a sample.

    The sample is drawn evenly from the vocabulary, without replacement: n = FIRST_TOKENS at most.
    """
    if prompts.bos == "with":
        at_p0 = prompts.input_ids[layout_of(prompts, prompts.input_ids.device).is_p0].unique()
        if len(at_p0) == 1:
            return at_p0
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(usable_vocabulary(subject), generator=generator)[:FIRST_TOKENS]


def prompt_tokens(prompts: Prompts) -> torch.Tensor:
    """Token ids [n] that the prompts have at P0, as often as they have them, n ≤ FIRST_TOKENS.

    One that all of these share is given once.
    """
    at_p0 = prompts.input_ids[layout_of(prompts, prompts.input_ids.device).is_p0][:FIRST_TOKENS]
    return at_p0[:1] if bool((at_p0 == at_p0[0]).all()) else at_p0


def p0_cache(subject: Subject, first: torch.Tensor):
    """The cache of one-entry keys and values that P0 leaves behind. first: [B] token ids."""
    with torch.no_grad(), evaluation(subject.model):
        output = subject.model(input_ids=first.to(subject.device).unsqueeze(1), use_cache=True)
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise Unsupported(f"{subject.anatomy.model_type} keeps no key-value cache.")
    return cache


def run_after_p0(subject: Subject, rest: torch.Tensor, cache) -> torch.Tensor:
    """Logits [B, T−1, V] of positions 1.. run on the cache of position zero. rest: [B, T−1] ids."""
    rest = rest.to(subject.device)
    inputs = {"input_ids": rest, "past_key_values": cache, "use_cache": True}
    accepted = inspect.signature(subject.model.forward).parameters
    if "attention_mask" in accepted:
        ones = torch.ones(rest.shape[0], rest.shape[1] + 1, dtype=torch.long, device=rest.device)
        inputs["attention_mask"] = ones
    if "position_ids" in accepted:
        positions = torch.arange(1, rest.shape[1] + 1, device=rest.device)
        inputs["position_ids"] = positions.expand(rest.shape[0], -1)
    with torch.no_grad(), evaluation(subject.model):
        return subject.model(**inputs).logits


def p0_identity(subject: Subject, ids: torch.Tensor) -> tuple[float, float]:
    """How far idea and model differ: (residual stream of P0, logits after it), largest absolute.

    ids [B, T]. The first compares P0's stream inside the full sequence with the one-token pass; the
    second the full pass's logits with those of positions 1.. run on the one-entry cache. Both are
    rounding errors where the identity holds.
    """
    states = p0_states(subject, ids[:, 0])
    stream = 0.0

    def compare(point: int, hidden: torch.Tensor) -> None:
        nonlocal stream
        own = hidden[:, 0].float().cpu()
        stream = max(stream, (own - states[:, point]).abs().max().item())

    with torch.no_grad(), evaluation(subject.model), hooks(residual_hooks(subject, compare)()):
        full = subject.model(input_ids=ids.to(subject.device), use_cache=False).logits
    after = run_after_p0(subject, ids[:, 1:], p0_cache(subject, ids[:, 0]))
    return stream, (after - full[:, 1:]).abs().max().item()
