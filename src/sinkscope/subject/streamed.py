"""A model larger than memory: one block is held at a time, read from its folder when it runs.

The model is laid out without weights. A block's tensors are read when the block is called, and let
go when another block is read; of the embedding only the rows of the tokens at hand are read, and
the head, where logits are asked for, takes the place of a block. The tensors go through
transformers' own loading, so that renamed and fused weights come out as in a model loaded whole.
"""

from __future__ import annotations

import copy
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from sinkscope.errors import InputError, Unsupported
from sinkscope.subject.at_hand import BRING
from sinkscope.subject.header import Place, places
from sinkscope.subject.plan import LoadPlan, plan_blocks, quiet

NOT_STREAMED = "{} cannot be read block by block, since {}."


@dataclass
class BlockReader:
    """Brings the blocks of a folder into a model that holds no weights, one at a time.

    decoder   the model without its head
    path      of the stack of blocks in the decoder, such as "layers"
    index     tensor name in the files -> where it lies
    resident  number of the block that is held
    reads     how often each block was read; seconds: what that took in all
    turn      waits for the turn of a block before it is read, where passes run by turns
    """

    decoder: Any
    path: str
    index: dict[str, Place]
    device: torch.device
    resident: int | None = None
    reads: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    turn: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        self.stack: nn.ModuleList = self.decoder.get_submodule(self.path)
        self._config = copy.deepcopy(self.decoder.config)
        self._number = re.compile(rf"(?:^|\.){re.escape(self.path)}\.(\d+)\.")

    def bring(self, block: int) -> None:
        """Read a block, and let go of the one before; nothing where it is held already."""
        if self.turn is not None:
            self.turn(block)
        if self.resident == block:
            return
        began = time.perf_counter()
        self.release()
        only, tree = nn.Module(), copy.copy(self.decoder)
        only._modules = {str(block): self.stack[block]}
        tree._modules, tree._parameters, tree._buffers = _nested(self.path, only), {}, {}
        self._fill(tree, self._named(block), f"block {block}")
        self.resident = block
        ask_for(self.index[name] for name in self._named(block + 1))
        self.reads[block] = self.reads.get(block, 0) + 1
        self.seconds += time.perf_counter() - began

    def release(self) -> None:
        """Hold no block."""
        if self.resident is not None:
            for module in self.stack[self.resident].modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        empty = torch.empty_like(parameter, device="meta")
                        module._parameters[name] = nn.Parameter(empty, requires_grad=False)
            self.resident = None

    def bring_rest(self, embedding: nn.Module, rows: str) -> None:
        """Read what belongs to no block, except the embedding of the tokens, the tensor `rows`."""
        names = [name for name in self.index if not self._number.search(name) and name != rows]
        one_row: Any = copy.copy(embedding)  # it may have buffers, which are made here
        width = embedding.weight.shape[1:]  # type: ignore[union-attr, index]
        one_row._parameters = {"weight": nn.Parameter(torch.empty(1, *width, device="meta"))}
        one_row.padding_idx = None
        tree = _swapped(self.decoder, {id(self.stack): None, id(embedding): one_row})
        self._fill(tree, names, "what belongs to no block", _path(self.decoder, embedding))

    def tensor(self, path: str) -> str:
        """Name in the files of a tensor of the model, whatever stands before its path."""
        names = [n for n in self.index if n == path or n.endswith(f".{path}")]
        if not names:
            raise Unsupported(NOT_STREAMED.format("The folder", f"it lacks {path}"))
        return min(names, key=len)

    def on_disk(self, name: str) -> OnDisk:
        """A tensor of the files, to be read."""
        return OnDisk(self.index[name].file, name)

    def _named(self, block: int) -> list[str]:
        found = ((name, self._number.search(name)) for name in self.index)
        return [name for name, match in found if match and int(match[1]) == block]

    def _fill(self, tree: nn.Module, names: list[str], what: str, left_out: str = "") -> None:
        """Load tensors into a tree of the model's own modules, by transformers' own loading.

        left_out  path of a module whose weight is not among them
        """

        def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            nn.Module.__init__(self)
            self.__dict__.update(tree.__dict__)

        for module in tree.modules():  # else older versions make its buffers the first time only
            module.__dict__.pop("_is_hf_initialized", None)
        kind = type(self.decoder)
        part = type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})
        with quiet():
            loaded, info = part.from_pretrained(  # type: ignore[attr-defined]
                None,
                config=self._config,
                state_dict={name: self.on_disk(name) for name in names},
                dtype=self.decoder.dtype,
                output_loading_info=True,
            )
        held = [*loaded.named_parameters(), *loaded.named_buffers()]
        missing = [*info["missing_keys"], *(n for n, t in held if t.device.type == "meta")]
        missing = [name for name in missing if not left_out or left_out not in name]
        if missing:
            why = f"{what} lacks {missing[0]} under its own name"
            raise Unsupported(NOT_STREAMED.format("The folder", why))
        for module in loaded._modules.values():
            module.to(self.device).requires_grad_(False)


def ask_for(wanted: Iterable[Place]) -> None:
    """Have the system read these places ahead, where it takes such advice."""
    if not hasattr(os, "posix_fadvise"):
        return
    files: dict[Path, list[Place]] = {}
    for place in wanted:
        files.setdefault(place.file, []).append(place)
    for path, parts in files.items():
        with path.open("rb") as file:
            for part in parts:
                size = part.stop - part.start
                os.posix_fadvise(file.fileno(), part.start, size, os.POSIX_FADV_WILLNEED)


@dataclass(frozen=True)
class OnDisk:
    """A tensor of a safetensors file, which is mapped anew whenever it is read.

    Pages of a file are resident as long as a mapping of it lives. One that belongs to a single
    tensor goes with it, as soon as the tensor has been converted to another dtype.
    """

    file: Path
    name: str

    def __getitem__(self, rows: Any) -> torch.Tensor:
        with self.mapped() as values:
            return values[rows]

    @contextmanager
    def mapped(self) -> Iterator[Any]:
        """Reads several parts by one mapping."""
        with safe_open(self.file, "pt") as file:
            yield file.get_slice(self.name)


def streamed_model(
    folder: Path, config: Any, dtype: torch.dtype, device: torch.device
) -> tuple[Any, LoadPlan, BlockReader]:
    """The model of a folder without its weights, which come when they run.

    Raises Unsupported where the blocks cannot be read one by one.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise Unsupported(NOT_STREAMED.format(folder, "its weights are quantised"))
    index = places(folder)
    if not index:
        raise InputError(NOT_STREAMED.format(folder, "it holds no safetensors files"))
    plan = plan_blocks(config)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model = plan.model._from_config(copy.deepcopy(config), dtype=dtype)
    model.eval()
    decoder, head = model.base_model, model.get_output_embeddings()
    beside = [child for child in model.children() if child is not decoder and child is not head]
    if decoder is model or any(any(True for _ in child.parameters()) for child in beside):
        why = "it has weights beside its decoder and its head"
        raise Unsupported(NOT_STREAMED.format(config.model_type, why))
    path = plan.stack.removeprefix(f"{model.base_model_prefix}.")
    reader = BlockReader(decoder, path, index, device)
    embedding = model.get_input_embeddings()
    rows = reader.tensor(f"{_path(decoder, embedding)}.weight")
    reader.bring_rest(embedding, rows)
    for number, block in enumerate(reader.stack):
        _read_first(block, partial(reader.bring, number))
    _rows_alone(embedding, rows, reader)
    if head is not None:
        tied = getattr(config.get_text_config(decoder=True), "tie_word_embeddings", False)
        _head_alone(head, rows if tied else "", _path(model, head), reader)
    return model, plan, reader


def _read_first(block: Any, bring: Callable[[], None]) -> None:
    """Let a block read its weights when it runs: behind all hooks, which may end the pass there."""
    inner = block.forward

    @wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        bring()
        return inner(*args, **kwargs)

    block.forward = forward
    setattr(block, BRING, bring)


def _rows_alone(embedding: Any, name: str, reader: BlockReader) -> None:
    """Let an embedding read only the rows that it is asked for."""
    embedding.rows_on = reader.device
    empty, padding = embedding.weight, getattr(embedding, "padding_idx", None)

    def before(module: Any, args: tuple) -> tuple:
        ids, places = args[0].unique(return_inverse=True)
        with reader.on_disk(name).mapped() as values:
            rows = torch.stack([values[int(i)] for i in ids])
        module.weight = nn.Parameter(rows.to(reader.device, empty.dtype), requires_grad=False)
        module.padding_idx = None
        return (places, *args[1:])

    def after(module: Any, args: tuple, output: Any) -> None:
        module.weight, module.padding_idx = empty, padding

    embedding.register_forward_pre_hook(before)
    embedding.register_forward_hook(after, always_call=True)


def _head_alone(head: Any, tied: str, path: str, reader: BlockReader) -> None:
    """Let the head read its weights when it is called, in the place of a block.

    tied  tensor of the embedding, where the head shares it
    """
    empty = dict(head._parameters)

    def before(module: Any, args: tuple) -> None:
        reader.release()
        for name, parameter in empty.items():
            if parameter is not None:
                tensor = tied if tied and name == "weight" else reader.tensor(f"{path}.{name}")
                values = reader.on_disk(tensor)[...].to(reader.device, parameter.dtype)
                module._parameters[name] = nn.Parameter(values, requires_grad=False)

    def after(module: Any, args: tuple, output: Any) -> None:
        module._parameters.update(empty)

    head.register_forward_pre_hook(before)
    head.register_forward_hook(after, always_call=True)


def _path(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _nested(path: str, leaf: nn.Module) -> dict[str, nn.Module]:
    """Modules that hold nothing but one module at a path."""
    first, _, rest = path.partition(".")
    if not rest:
        return {first: leaf}
    outer = nn.Module()
    outer._modules = dict(_nested(rest, leaf))
    return {first: outer}


def _swapped(module: nn.Module, swap: dict[int, nn.Module | None]) -> nn.Module:
    """A copy of a module tree that shares its modules, with some replaced, or left out (None)."""
    if not {id(child) for child in module.modules()} & swap.keys():
        return module
    tree = copy.copy(module)
    own = {name: child for name, child in module._modules.items() if child is not None}
    new = {n: swap[id(c)] if id(c) in swap else _swapped(c, swap) for n, c in own.items()}
    tree._modules = {name: child for name, child in new.items() if child is not None}
    return tree
