"""Which part of a model is loaded, planned from its configuration alone."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.subject.anatomy import Anatomy, find_anatomy

NOT_ALONE = "the first blocks of a {!r} model cannot be loaded alone; load all."


@dataclass(frozen=True)
class LoadPlan:
    """What of a model is loaded.

    model       class that is loaded: the causal model, or for first blocks the base model where it
                is what the causal model wraps
    blocks      the first blocks that are loaded
    of          blocks of the full model
    stack       path of the block list in the base model, such as "layers"
    parameters  of the full model
    skip        names of tensors that are not needed although they belong to no block
    """

    model: Any
    blocks: int
    of: int
    stack: str
    parameters: int
    architecture: str
    anatomy: Anatomy
    skip: tuple[str, ...] = ()

    def keeps(self, name: str) -> bool:
        """Whether a tensor of that name in the checkpoint is needed."""
        if name in self.skip:
            return False
        match = re.search(rf"(?:^|\.){re.escape(self.stack)}\.(\d+)\.", name)
        return match is None or int(match.group(1)) < self.blocks


def plan_blocks(config: Any, blocks: int | None = None) -> LoadPlan:
    """Plan to load the first `blocks` blocks of the model of a configuration (None: all of it).

    The model is laid out without memory (on the meta device). Raises Unsupported where it has no
    stack of blocks, InputError where `blocks` is not at least 1.
    """
    if blocks is not None and blocks < 1:
        raise InputError("at least one block must be loaded.")
    base, causal = model_classes(config)
    whole = laid_out(causal, config)
    chosen, layout = causal, whole
    if base is not None and blocks is not None:  # a whole model keeps its head
        bare = laid_out(base, config)
        if bare.state_dict().keys() <= whole.base_model.state_dict().keys():
            chosen, layout = base, bare
    anatomy = find_anatomy(layout)
    of = len(anatomy.blocks)
    count = of if blocks is None else min(blocks, of)
    head = whole.get_output_embeddings()
    tied = bool(getattr(config.get_text_config(decoder=True), "tie_word_embeddings", True))
    skip = [
        name
        for name, module in whole.named_modules()
        if head is not None and module is head and not tied and chosen is not causal
    ]
    return LoadPlan(
        model=chosen,
        blocks=count,
        of=of,
        stack=anatomy.blocks[0].name.rpartition(".")[0],
        parameters=sum(p.numel() for p in whole.parameters()),
        architecture=causal.__name__,
        anatomy=replace(anatomy, blocks=anatomy.blocks[:count]),
        skip=tuple(f"{name}.{leaf}" for name in skip for leaf in ("weight", "bias")),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No remarks and no progress bars from transformers, for the time being."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def model_classes(config: Any) -> tuple[Any, Any]:
    """(base model or None, causal model) of a configuration."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    try:
        causal = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        raise Unsupported(NOT_ALONE.format(config.model_type)) from None
    try:
        return MODEL_MAPPING[type(config)], causal
    except KeyError:
        return None, causal


def laid_out(model_class: Any, config: Any) -> Any:
    """A model of a class on the meta device, which takes no memory."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return model_class(copy.deepcopy(config))
