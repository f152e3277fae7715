"""What every output projection of the intact model is given at P0: one pass of one token a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sinkscope.observe.p0_stream import one_token_pass
from sinkscope.observe.sites import Sites
from sinkscope.subject.load import Subject


def projection_inputs(
    subject: Subject, sites: Sites, first: torch.Tensor
) -> dict[tuple[int, str], Any]:
    """(block, "attention" | "mlp" | "shared") -> [B, inputs] of the output projection at P0, and
    (block, "experts") -> the arguments of the experts at P0.

    first  [B] token ids
    """
    found: dict[tuple[int, str], Any] = {}

    def row(key: tuple[int, str]) -> Callable:
        def hook(module, args):
            found[key] = args[0].reshape(len(first), -1)

        return hook

    def arguments(key: tuple[int, str]) -> Callable:
        def hook(module, args, kwargs):
            found[key] = args, kwargs

        return hook

    handles = []
    for index, block in enumerate(subject.anatomy.modules(subject.model)):
        for sublayer in sites.blocks[index]:
            if sublayer.shared is not None:
                owner = sublayer.shared.owner(block)
                handles.append(owner.register_forward_pre_hook(row((index, "shared"))))
            if sublayer.experts is not None:
                experts = block.get_submodule(sublayer.experts)
                hook = arguments((index, "experts"))
                handles.append(experts.register_forward_pre_hook(hook, with_kwargs=True))
            elif sublayer.projection is not None:
                owner = sublayer.projection.owner(block)
                handles.append(owner.register_forward_pre_hook(row((index, sublayer.kind))))
    one_token_pass(subject, first, lambda: handles)
    return found
