"""Put our own attention and mask functions under a model, and take them away again."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

_counter = itertools.count()
TASK: ContextVar[Any] = ContextVar("TASK", default=None)  # whose hooks are heard (`together`)


@contextmanager
def attention_functions(model: Any, function: Callable, masks: str) -> Iterator[None]:
    """Route every registry-based attention call of `model` through `function`.

    function  called as fn(module, query, key, value, attention_mask, **kwargs)
    masks     whose masks the model builds: "eager" (additive) or "sdpa" (boolean or None)

    Both registries are needed: with an attention function alone, transformers builds no mask at
    all and the model silently sees the future. A family whose code asks for the implementation by
    name (sparse attention) is served under the name "eager" itself, with eager masks. On exit, also
    on error, the registries and every configuration are as they were.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    by_name = asks_for_name(model)
    name = "eager" if by_name else f"sinkscope_{next(_counter)}"
    functions, mask_functions = (
        AttentionInterface._global_mapping,
        AttentionMaskInterface._global_mapping,
    )
    mask_function: Any = mask_functions[name if by_name else masks]
    before = functions.get(name), mask_functions.get(name)
    saved = [(c, c._attn_implementation_internal) for c in configurations(model)]
    try:
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, mask_function)
        for config, _ in saved:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, implementation in saved:
            config._attn_implementation_internal = implementation
        for mapping, entry in zip((functions, mask_functions), before, strict=True):
            if entry is None:
                mapping.pop(name, None)
            else:
                mapping[name] = entry


def asks_for_name(model: Any) -> bool:
    """Whether the family's code branches on the implementation being "eager" or "sdpa"."""
    module = sys.modules.get(type(getattr(model, "base_model", model)).__module__)
    try:
        return '_attn_implementation in ("eager"' in inspect.getsource(module) if module else False
    except (OSError, TypeError):
        return False


def configurations(model: nn.Module) -> list[Any]:
    """Every configuration object that a submodule of the model may consult, once each."""
    found: dict[int, Any] = {}

    def visit(config: Any) -> None:
        if id(config) in found or not hasattr(config, "_attn_implementation_internal"):
            return
        found[id(config)] = config
        for name in getattr(config, "sub_configs", {}):
            visit(getattr(config, name, None))

    for module in model.modules():
        visit(getattr(module, "config", None))
    return list(found.values())


def attention_of(configs: list[Any]) -> Callable[[], None]:
    """A function that routes attention, under these configurations, as it is routed now."""
    from transformers import AttentionInterface, AttentionMaskInterface

    mappings = (AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping)
    held = [dict(mapping) for mapping in mappings]
    names = [config._attn_implementation_internal for config in configs]

    def restore() -> None:
        for mapping, entries in zip(mappings, held, strict=True):
            mapping.clear()
            mapping.update(entries)
        for config, name in zip(configs, names, strict=True):
            config._attn_implementation_internal = name

    return restore


@contextmanager
def hooks(handles: list[Any]) -> Iterator[None]:
    """Remove the given hook handles on exit, also on error.

    Where several passes run by turns, a hook hears its own pass only.
    """
    own = TASK.get()
    if own is not None:
        for handle in handles:
            registered = handle.hooks_dict_ref()
            registered[handle.id] = _heard_by(own, registered[handle.id])
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _heard_by(task: Any, hook: Callable) -> Callable:
    return lambda *args, **kwargs: hook(*args, **kwargs) if TASK.get() is task else None


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Eval mode for the time being; every module's own training flag is restored."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training
