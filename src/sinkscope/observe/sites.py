"""Where each block writes to the residual stream, down to heads, neurons and experts.

Built on `prove_residual`: each sublayer that it found is opened up to its last linear map, whose
input rows are what heads and neurons are. No family is known by name; every claim is checked on the
same data (`find_sites`), and what cannot be shown is left out with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sinkscope.errors import Unsupported
from sinkscope.observe.attention import observe
from sinkscope.observe.block_form import BlockForm
from sinkscope.observe.projection import HeadSlices, Opened, Projection, open_sublayer, record_parts
from sinkscope.observe.reads import AttentionCall, AttentionRead, Want
from sinkscope.observe.registry import hooks
from sinkscope.observe.residual import ResidualProof, perturb_dead_linears, prove_residual
from sinkscope.observe.stream import first_hidden, hidden_of
from sinkscope.subject.anatomy import Block
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

__all__ = ["Projection", "Sites", "Sublayer", "find_sites", "write_hooks"]

ROWS, TOKENS = 2, 32  # enough to prove an identity on
# Kinds of sublayer by a word in the path, or at the end of the class name.
_MLP = re.compile(r"mlp|feed_?forward|ffn|experts|moe|fc\d", re.I)
_MLP_CLASS = re.compile(r"(mlp|feed_?forward|ffn|experts|moe|moeblock)$", re.I)


@dataclass(frozen=True)
class Sublayer:
    """One write of a block to its residual stream.

    kind        attention (softmax), mlp, or other (linear attention, convolution, ..)
    source      path within the block of the sublayer itself
    write       path within the block of the module whose output is added: the sublayer, or a norm
                behind it
    scale       factor at which it is added
    inside      whether that output already contains the stream it was added to
    projection  the last linear map of the sublayer, or of its routed experts; None where heads or
                neurons cannot be separated (`reason` says why)
    heads       attention: query heads whose outputs, one after the other, the projection reads
    experts     path within the block of the fused experts module, called with (hidden, index,
                weights); None without one
    shared      last linear map of an expert that serves every token beside the routed ones
    """

    kind: str
    source: str
    write: str
    scale: float
    inside: bool
    projection: Projection | None = None
    heads: int | None = None
    experts: str | None = None
    shared: Projection | None = None
    reason: str = ""


@dataclass(frozen=True)
class Sites:
    """All writes of all blocks, in the order in which they are added.

    mid  for each block whether its sublayers follow each other, so that there is a stream between
         them (False in parallel blocks, and where a block has another number of writes than two)
    """

    blocks: tuple[tuple[Sublayer, ...], ...]
    proof: ResidualProof
    mid: tuple[bool, ...]

    def attention(self, block: int) -> Sublayer | None:
        """The first softmax attention of a block."""
        return self._first(block, "attention")

    def mlp(self, block: int) -> Sublayer | None:
        """The first MLP (dense or routed) of a block."""
        return self._first(block, "mlp")

    def _first(self, block: int, kind: str) -> Sublayer | None:
        return next((s for s in self.blocks[block] if s.kind == kind), None)

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the read points in order: x0, 0.attention, x1, .. (x{l} is block l's input)."""
        names = []
        for block, sublayers in enumerate(self.blocks):
            names.append(f"x{block}")
            if self.mid[block]:
                names.append(f"{block}.{sublayers[0].kind}")
        return (*names, f"x{len(self.blocks)}")

    @property
    def inputs(self) -> list[int]:
        """Numbers of the block inputs x0..xL among `points`."""
        return [self.points.index(f"x{block}") for block in range(len(self.blocks) + 1)]

    @property
    def writes(self) -> tuple[tuple[int, int, str], ...]:
        """(block, index within the block, name) of every write; names as 0.attention, 0.mlp."""
        found = []
        for block, sublayers in enumerate(self.blocks):
            seen: dict[str, int] = {}
            for index, sublayer in enumerate(sublayers):
                again = seen[sublayer.kind] = seen.get(sublayer.kind, 0) + 1
                name = f"{block}.{sublayer.kind}" + (f".{again}" if again > 1 else "")
                found.append((block, index, name))
        return tuple(found)

    def name_of(self, block: int, index: int) -> str:
        """The name of a write."""
        return next(name for b, i, name in self.writes if (b, i) == (block, index))


def find_sites(subject: Subject, prompts: Prompts) -> Sites:
    """Find where every block writes, and prove it on at most two rows of these prompts.

    Raises Unsupported where the contributions of a block do not add up to what it does.
    """
    rows = prompts.take(slice(0, ROWS))
    if rows.right_padded:
        rows = rows.first_tokens(min(TOKENS, int(rows.lengths.min())))
    proof = prove_residual(subject, rows)
    if not proof.verified:
        reason = (
            "it has several residual streams"
            if subject.anatomy.several_streams
            else f"the residual identity does not hold: {proof.reason()}"
        )
        raise Unsupported(
            f"{subject.anatomy.model_type} cannot be traced to its parts, since {reason}."
        )
    forms = [form for form in proof.blocks if form is not None]
    heads, opened, mid = _open(subject, rows, forms)
    blocks = tuple(
        tuple(
            _sublayer(subject, index, form, i, heads.get(index, []), opened[index][i])
            for i in range(len(form.writes))
        )
        for index, form in enumerate(forms)
    )
    return Sites(blocks, proof, tuple(mid))


def write_hooks(
    subject: Subject, sites: Sites, consume: Callable[[int, int, torch.Tensor], None]
) -> Callable[[], list[Any]]:
    """A hook factory for `observe`: consume(block, index, delta [B, T, d]) for every write.

    delta is what was really added: norms behind the sublayer and the scale applied, the stream
    subtracted where the sublayer adds it itself. x_in + Σ delta = x_out.
    """
    blocks = subject.anatomy.modules(subject.model)

    def make() -> list[Any]:
        handles: list[Any] = []
        for index, block in enumerate(blocks):
            handles += _block_write_hooks(index, block, sites.blocks[index], consume)
        return handles

    return make


def _block_write_hooks(index, block, sublayers, consume) -> list[Any]:
    stream: list[torch.Tensor] = []

    def enter(module, args, kwargs):
        stream[:] = [first_hidden(args, kwargs)]

    def at(number: int, sublayer: Sublayer) -> Callable:
        def hook(module, args, output):
            out = hidden_of(output).reshape(stream[0].shape)
            delta = out - stream[0] if sublayer.inside else out * sublayer.scale
            if any(s.inside for s in sublayers):
                stream[0] = stream[0] + delta
            consume(index, number, delta)

        return hook

    def leave(module, args, output):
        stream.clear()

    return [
        block.register_forward_pre_hook(enter, with_kwargs=True),
        *(
            block.get_submodule(s.write).register_forward_hook(at(i, s))
            for i, s in enumerate(sublayers)
        ),
        block.register_forward_hook(leave),
    ]


def _open(
    subject: Subject, rows: Prompts, forms: list[BlockForm]
) -> tuple[dict[int, list[HeadSlices]], list[list[Opened]], list[bool]]:
    """One pass: the attention calls of every block, and every sublayer opened up."""
    modules = subject.anatomy.modules(subject.model)
    opened: list[list[Opened]] = [[] for _ in forms]
    mid = [False] * len(forms)
    heads: dict[int, list[HeadSlices]] = {}

    def inspect(call: AttentionCall, read: AttentionRead) -> None:
        path = _path(modules[read.block], call.module)
        heads.setdefault(read.block, []).append(HeadSlices(path, call.output.detach().clone()))

    def make() -> list[Any]:
        return [
            handle
            for i, (block, form) in enumerate(zip(modules, forms))
            for handle in record_parts(block, form, _finish(i))
        ]

    def _finish(index: int) -> Callable:
        def finish(block: nn.Module, form: BlockForm, recording) -> None:
            calls = heads.get(index, [])
            opened[index] = [
                open_sublayer(block, form, i, recording, calls) for i in range(len(form.writes))
            ]
            mid[index] = recording.sequential
            for call in calls:
                call.output = None

        return finish

    with hooks(perturb_dead_linears(modules)):
        reads, _, _ = observe(subject, rows, Want(received=False, inspect=(inspect,)), "auto", make)
    for read in reads:  # families outside the registry show their maps, not their calls
        if read.block not in heads:
            heads[read.block] = [HeadSlices(None, None, read.p0.shape[1])]
    return heads, opened, mid


def _sublayer(
    subject: Subject, index: int, form: BlockForm, i: int, calls: list[HeadSlices], found: Opened
) -> Sublayer:
    write, scale = form.writes[i]
    source = form.sources[i]
    block = subject.anatomy.modules(subject.model)[index]
    kind = _kind(block, subject.anatomy.blocks[index], source, calls)
    heads, projection, reason = None, found.projection, found.reason
    if kind == "attention" and projection is not None:
        heads = found.heads or next((call.count for call in calls if call.path is None), None)
        width = projection.columns(block).shape[0]
        if heads is None or width % heads:
            heads, projection = None, None
            reason = "the outputs of the heads do not reach the projection one after the other"
    return Sublayer(
        kind=kind, source=source, write=write, scale=scale, inside=form.inside[i],
        projection=projection, heads=heads, experts=found.experts, shared=found.shared,
        reason=reason,
    )  # fmt: skip


def _kind(module: nn.Module, block: Block, source: str, calls: list[HeadSlices]) -> str:
    """Softmax attention was seen to be called; the rest goes by what the anatomy calls it."""
    if any(call.path is not None and _within(call.path, source) for call in calls):
        return "attention"
    root = source.partition(".")[0]
    if _MLP.search(source) or _MLP_CLASS.search(type(module.get_submodule(root)).__name__):
        return "mlp"
    path = f"{block.name}.{source}"
    if any(_within(path, name) for name in block.attention) and any(c.path is None for c in calls):
        return "attention"
    return "other"


def _within(a: str, b: str) -> bool:
    """Whether one path lies within the other."""
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")


def _path(block: nn.Module, module: nn.Module) -> str:
    return next((name for name, child in block.named_modules() if child is module), "?")
