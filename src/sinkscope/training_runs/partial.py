"""Load only the embeddings and the first k blocks of a model, or look at only those of a whole one.

Position zero's circuit is built in the first blocks, and what happens there does not depend on what
comes later: states and attention of the first k blocks are those of the full model, bit for bit.
The full configuration is kept and the stack is cut behind the constructor, since some families
scale their residual stream by the number of blocks that the configuration names.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError, Unsupported
from sinkscope.observe.registry import hooks
from sinkscope.subject.anatomy import Anatomy, find_anatomy
from sinkscope.subject.folder import check_folder, check_weights
from sinkscope.subject.identity import reading_note, say
from sinkscope.subject.load import DTYPES, Subject
from sinkscope.subject.probe import refuse_no_finite
from sinkscope.subject.weights import load_config, load_tokenizer, load_weights
from sinkscope.training_runs.tensors import hash_tensors, tensor_names

_NOT_ALONE = "the first blocks of a {!r} model cannot be loaded alone; load all."


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
    whole = laid_out(config)
    chosen, layout = causal, whole
    if base is not None and blocks is not None:  # a whole model keeps its head
        bare = _laid_out(base, config)
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


def load_first_blocks(
    folder: Path,
    blocks: int,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    name: str = "",
    allow_pickle: bool = False,
) -> Subject:
    """Load the embeddings and the first `blocks` blocks of a local folder, without the head.

    Only the tensors that are needed are read from (sharded) safetensors files. The subject's
    `parameters` and `architecture` are those of the full model. Raises as `subject.load.load`.
    """
    check_folder(folder, allow_pickle, False)
    common = {"revision": None, "local_files_only": True, "trust_remote_code": False}
    config = load_config(str(folder), common)
    check_weights(folder, config.to_dict(), None, blocks)
    plan = plan_blocks(config, blocks)
    try:
        with quiet():  # transformers reports every tensor that is left in the file
            model, unused = load_weights(
                str(folder), config, common, DTYPES[dtype], None, allow_pickle,
                _cut_class(plan), (plan.blocks, plan.of),
            )  # fmt: skip
    except AttributeError:  # a constructor that goes on to use the blocks that were cut off
        raise Unsupported(_NOT_ALONE.format(config.model_type)) from None
    refuse_no_finite(model, str(folder))
    model = model.to(torch.device(device)).eval()
    _refuse_loops(model, plan)
    identity = {
        "id": name or folder.name,
        "revision": None,
        "architecture": plan.architecture,
        "weights_sha256": content_hash(folder, plan),
        "parameters": plan.parameters,
        "dtype": dtype,
        "device": str(next(model.parameters()).device),
        **reading_note(config),
    }
    say(identity, unused)
    tokenizer = load_tokenizer(str(folder), common, True)
    return Subject(model, tokenizer, plan.anatomy, identity)


def content_hash(folder: Path, plan: LoadPlan) -> str:
    """SHA-256 of the configuration and of the tensors that the plan needs: what is measured."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    if any(folder.glob("*.safetensors")):
        names = tensor_names(folder)
        needed = {name for name in names if plan.keeps(name)}
        digest.update(hash_tensors(folder, needed.__contains__).encode())
    else:
        for path in sorted(p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


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


@contextmanager
def first_blocks(subject: Subject, blocks: int) -> Iterator[Subject]:
    """A view of a subject whose stack ends behind the first `blocks` blocks, for the time being.

    The model itself is shortened in place and restored on leaving, also on error; its head must
    not be used meanwhile.
    """
    stack = subject.model.get_submodule(subject.anatomy.blocks[0].name.rpartition(".")[0])
    whole = stack._modules
    anatomy = replace(subject.anatomy, blocks=subject.anatomy.blocks[:blocks])
    stack._modules = dict(list(whole.items())[:blocks])
    try:
        yield Subject(subject.model, subject.tokenizer, anatomy, subject.identity)
    finally:
        stack._modules = whole


def model_classes(config: Any) -> tuple[Any, Any]:
    """(base model or None, causal model) of a configuration."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    try:
        causal = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        raise Unsupported(_NOT_ALONE.format(config.model_type)) from None
    try:
        return MODEL_MAPPING[type(config)], causal
    except KeyError:
        return None, causal


def _refuse_loops(model: Any, plan: LoadPlan) -> None:
    """Refuse a model that runs its blocks more than once: what comes first depends on the rest."""
    calls = [0] * plan.blocks

    def count(index: int) -> Callable:
        def hook(module, args):
            calls[index] += 1

        return hook

    modules = plan.anatomy.modules(model)
    handles = [m.register_forward_pre_hook(count(i)) for i, m in enumerate(modules)]
    with torch.no_grad(), hooks(handles):
        getattr(model, "base_model", model)(
            input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False
        )
    if calls != [1] * plan.blocks:
        raise Unsupported(_NOT_ALONE.format(model.config.model_type))


def laid_out(config: Any) -> Any:
    """The causal model of a configuration, without memory (on the meta device)."""
    return _laid_out(model_classes(config)[1], config)


def _laid_out(model_class: Any, config: Any) -> Any:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return model_class(copy.deepcopy(config))


def _cut_class(plan: LoadPlan) -> type[nn.Module]:
    """The same class, cut behind its constructor; its name and file stay, since they are read."""
    model_class = plan.model

    def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, *args, **kwargs)
        stack: Any = self.get_submodule(plan.stack)
        del stack[plan.blocks :]

    members: dict[str, Callable | str] = {"__init__": init, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), members)
