"""Hooks and passes that the room shares: every read point, every write, and position zero alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites, write_hooks
from sinkscope.subject.load import Subject

BATCH = 2048  # one-token sequences run at a time
Taps = Callable[[], list[Any]]


class _Enough(Exception):
    pass


def stream_hooks(
    subject: Subject,
    sites: Sites,
    point: Callable[[int, torch.Tensor], None],
    write: Callable[[int, int, torch.Tensor], None] | None = None,
) -> Taps:
    """A hook factory: point(number, hidden) at each of `sites.points`, and optionally
    write(block, index, delta) at each write."""
    number = {name: i for i, name in enumerate(sites.points)}
    at = [number[f"x{block}"] for block in range(len(sites.blocks) + 1)]
    stream: list[torch.Tensor] = []

    def keep(block: int, hidden: torch.Tensor) -> None:
        stream[:] = [hidden]
        point(at[block], hidden)

    def added(block: int, index: int, delta: torch.Tensor) -> None:
        if index == 0 and sites.mid[block]:
            point(at[block] + 1, stream[0] + delta)
        if write is not None:
            write(block, index, delta)

    read, wrote = residual_hooks(subject, keep), write_hooks(subject, sites, added)
    return lambda: [*read(), *wrote()]


def one_token_pass(
    subject: Subject,
    tokens: torch.Tensor,
    taps: Taps,
    stop: int | None = None,
    attention: Callable[..., Any] | None = None,
    grad: bool = False,
) -> None:
    """Run every token as a sequence of its own: all that position zero ever sees.

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
        ids = tokens.to(subject.device).unsqueeze(1)
        with suppress(_Enough):
            getattr(model, "base_model", model)(input_ids=ids, use_cache=False)


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


def p0_points(
    subject: Subject, sites: Sites, tokens: torch.Tensor, stop: int | None = None
) -> torch.Tensor:
    """P0's stream at every read point of `sites.points`, for each token: [n, points, d], fp32."""
    rows = []
    for batch in tokens.split(BATCH):
        points: dict[int, torch.Tensor] = {}

        def keep(number: int, hidden: torch.Tensor, into: dict = points) -> None:
            into[number] = hidden[:, 0].float().cpu()

        one_token_pass(subject, batch, stream_hooks(subject, sites, keep), stop)
        rows.append(torch.stack([points[i] for i in sorted(points)], 1))
    return torch.cat(rows)


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows scaled to length one."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
