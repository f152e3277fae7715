"""Load only the embeddings and the first k blocks of a model, or look at only those of a whole one.

Position zero's circuit is built in the first blocks, and what happens there does not depend on what
comes later: states and attention of the first k blocks are those of the full model, bit for bit.
The full configuration is kept and the stack is cut behind the constructor, since some families
scale their residual stream by the number of blocks that the configuration names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sinkscope.errors import Unsupported
from sinkscope.observe.registry import hooks
from sinkscope.subject.folder import check_folder, check_weights
from sinkscope.subject.identity import planned_identity, say
from sinkscope.subject.load import DTYPES, Subject
from sinkscope.subject.plan import NOT_ALONE, LoadPlan, plan_blocks, quiet
from sinkscope.subject.probe import refuse_no_finite
from sinkscope.subject.weights import LOCAL, load_config, load_tokenizer, load_weights
from sinkscope.training_runs.tensors import hash_tensors


def load_first_blocks(
    folder: Path,
    blocks: int,
    *,
    dtype: str = "float32",
    device: str = "cpu",
) -> Subject:
    """Load the embeddings and the first `blocks` blocks of a local folder, without the head.

    Only the tensors that are needed are read from (sharded) safetensors files. The subject's
    `parameters` and `architecture` are those of the full model. Raises as `subject.load.load`.
    """
    check_folder(folder)
    config = load_config(str(folder), LOCAL)
    check_weights(folder, config.to_dict(), None, blocks)
    plan = plan_blocks(config, blocks)
    try:
        with quiet():  # transformers reports every tensor that is left in the file
            model, unused = load_weights(
                str(folder), config, LOCAL, DTYPES[dtype], None, False,
                _cut_class(plan), (plan.blocks, plan.of),
            )  # fmt: skip
    except AttributeError:  # a constructor that goes on to use the blocks that were cut off
        raise Unsupported(NOT_ALONE.format(config.model_type)) from None
    refuse_no_finite(model, str(folder))
    model = model.to(torch.device(device)).eval()
    _refuse_loops(model, plan)
    sha256, where = content_hash(folder, plan), str(next(model.parameters()).device)
    identity = planned_identity(plan, folder.name, sha256, dtype, where, config)
    say(identity, unused)
    tokenizer = load_tokenizer(str(folder), LOCAL, True)
    return Subject(model, tokenizer, plan.anatomy, identity)


def content_hash(folder: Path, plan: LoadPlan) -> str:
    """SHA-256 of the configuration and of the tensors that the plan needs: what is measured."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    if any(folder.glob("*.safetensors")):
        digest.update(hash_tensors(folder, plan.keeps).encode())
    else:
        for path in sorted(p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


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
        raise Unsupported(NOT_ALONE.format(model.config.model_type))


def _cut_class(plan: LoadPlan) -> type[nn.Module]:
    """The same class, cut behind its constructor; its name and file stay, since they are read."""
    model_class = plan.model

    def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, *args, **kwargs)
        stack: Any = self.get_submodule(plan.stack)
        del stack[plan.blocks :]

    members: dict[str, Callable | str] = {"__init__": init, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), members)
