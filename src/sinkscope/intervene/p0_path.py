"""Effects of edits of position zero through its key, without a pass over the sequence.

    from sinkscope.intervene.edits import SetWrite
    from sinkscope.intervene.p0_path import KeyPath

    path = KeyPath(subject, prompts, sites)
    found = path.effects([[SetWrite(block, "mlp", 0, "mean")] for block in range(6)])
    path.intact.share, found.share      # [1, n, L, H] and [6, n, L, H]

An edit of P0 reaches the heads that read P0 on two paths: P0's key changes, and the other positions
change (they read P0's value in earlier blocks). The first is exact path patching with everything
else held: P0's edited stream is a pass of one token, which gives its key in every block; with the
intact queries and the intact scores of all other keys the new share and margin follow. The effect
in all is `Engine.run` of the same edits; the difference goes through the other positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits.base import Edit, check_right_padded
from sinkscope.intervene.p0_edited import EditedP0
from sinkscope.intervene.p0_others import OtherPositions
from sinkscope.intervene.p0_queries import BlockQueries, joined, kept_queries, late_positions
from sinkscope.observe.attention import observe, uses_registry
from sinkscope.observe.layout import layout_of
from sinkscope.observe.reads import AttentionCall, AttentionRead, Want
from sinkscope.observe.sites import Sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

BUDGET = 1 << 29  # bytes for queries that are kept
CLOSE, CLOSE_HALF = 1e-4, 3e-2  # share, one-token key against the key within the sequence


@dataclass
class Effects:
    """What E lists of edits of P0 do through its key, for n prompts, L blocks and H heads.

    share   [E, n, L, H] mean attention of late queries on P0; NaN where a head is not read
    margin  [E, n, L, H] nats: mean of s_t0 − logsumexp_{j>0} s_tj over the same queries
    norm    [E, n, points] ‖x_0‖ over the intact median of the others
    streams [E, n, points, d] P0's stream, if it was asked for
    """

    share: torch.Tensor
    margin: torch.Tensor
    norm: torch.Tensor
    streams: torch.Tensor | None = None

    def on(self, heads: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Mean late share over heads [(block, head)]: [E, n]."""
        return torch.stack([self.share[:, :, block, head] for block, head in heads], -1).nanmean(-1)


class KeyPath:
    """The intact pass, kept as far as edits of P0 act through its key.

    prompts    right-padded
    direction  [d] sink direction u, for edits along it
    heads      [(block, head)] that are read; None for all of them
    seeds      of the edits that resample
    budget     bytes that the kept queries may take; over it, fewer late queries are kept

    intact   Effects of no edit, [1, ...]
    queries  (kept, late) queries of the longest prompt; equal where nothing was left out
    error    largest difference in share between P0's one-token key and its key in the sequence
    passes   forward passes spent so far, in plain passes over these prompts

    Raises Unsupported where scores are not q·k alone (biases, sigmoid attention, several attentions
    in a block, no attention registry), and where P0 is not a function of its token.
    """

    def __init__(
        self,
        subject: Subject,
        prompts: Prompts,
        sites: Sites,
        *,
        direction: torch.Tensor | None = None,
        heads: Sequence[tuple[int, int]] | None = None,
        seeds: Sequence[int] = (0,),
        budget: int = BUDGET,
    ) -> None:
        check_right_padded(prompts)
        if not uses_registry(subject.model):
            raise Unsupported(
                f"{subject.anatomy.model_type} does not use the attention registry, so its queries "
                "and keys are not at hand."
            )
        self.subject, self.prompts, self.sites = subject, prompts, sites
        self.depth = len(subject.anatomy.blocks)
        self.heads = None if heads is None else sorted(set(heads))
        self.budget = budget
        self.others = OtherPositions(subject, sites, seeds)
        self._parts: dict[int, list[BlockQueries]] = {}
        self._head_count = 0
        self._late = 0
        self._most: int | None = None
        self._read_intact()
        self.blocks = {block: joined(parts) for block, parts in self._parts.items()}
        self._parts.clear()
        self.queries = (min(self._most or self._late, self._late), self._late)
        self.edited = EditedP0(subject, prompts, sites, self.others, direction)
        self._plain = self.depth * prompts.input_ids.numel()
        self._norms = self._states().norm(dim=-1)
        self.intact = self._intact_effects()
        self.error = self._check()

    @property
    def passes(self) -> float:
        """Forward passes spent so far: tokens × blocks run, over those of one plain pass."""
        return 1.0 + self.edited.spent / self._plain

    def effects(self, lists: Sequence[Sequence[Edit]], streams: bool = False) -> Effects:
        """Each list of edits by itself. Raises Unsupported for edits that are not of P0's stream.

        Other positions are held at their intact values, also for what later edits of a list take
        from them.
        """
        count = len(lists)
        share = self.intact.share.repeat(count, 1, 1, 1)
        margin = self.intact.margin.repeat(count, 1, 1, 1)
        norms = self._norms.repeat(count, 1, 1)
        kept = self._states().repeat(count, 1, 1, 1) if streams else None
        for chunk in self.edited.chunks(lists):
            found = self.edited.run([lists[i] for i in chunk])
            for block, keys in found.keys.items():
                if block in self.blocks:
                    self._put(share, margin, chunk, block, self.blocks[block].read(keys))
            for point, x in found.streams.items():
                norms[chunk, :, point] = x.float().norm(dim=-1).cpu()
                if kept is not None:
                    kept[chunk, :, point] = x.float().cpu()
        return Effects(share, margin, norms / self.others.median_norm, kept)

    def effect(self, edits: Sequence[Edit]) -> Effects:
        """One list of edits: E is 1."""
        return self.effects([edits])

    def _read_intact(self) -> None:
        want = Want(received=False, inspect=(self._inspect,))
        done = 0
        for batch in self.prompts.batches():
            self._layout = layout_of(batch, self.subject.device)
            self._late = max(self._late, int(self._layout.late.sum(1).max()))
            self._seen: set[int] = set()
            self.others.begin(batch, list(range(done, done + len(batch))))
            done += len(batch)
            reads, _, _ = observe(self.subject, batch, want, "auto", self.others.hooks)
            self._check_seen(reads)

    def _check_seen(self, reads: list[AttentionRead]) -> None:
        for read in reads:
            if read.block not in self._seen:
                raise Unsupported(
                    f"the scores of block {read.block} are not at hand: {read.reason}."
                )

    def _inspect(self, call: AttentionCall, read: AttentionRead) -> None:
        if read.block in self._seen:
            raise Unsupported(f"block {read.block} attends more than once in a pass.")
        self._seen.add(read.block)
        count = call.scores.q.shape[1]
        self._head_count = max(self._head_count, count)
        chosen = list(range(count))
        if self.heads is not None:
            chosen = [head for block, head in self.heads if block == read.block]
            if any(not 0 <= head < count for head in chosen):
                raise InputError("a reading head lies outside the model.")
        if not chosen:
            return
        if self._most is None:
            self._most = self._affordable(call)
        positions, counted = late_positions(self._layout, self._most)
        kept = kept_queries(call, read, chosen, positions, counted)
        self._parts.setdefault(read.block, []).append(kept)

    def _affordable(self, call: AttentionCall) -> int:
        """Late queries of a prompt that the budget allows, at least one."""
        _, heads, _, width = call.scores.q.shape
        if self.heads is not None:
            heads = -(-len(self.heads) // self.depth)
        bytes_each = heads * self.depth * (width * call.scores.q.element_size() + 8)
        return max(1, self.budget // (bytes_each * len(self.prompts)))

    def _put(self, share, margin, chunk: list[int], block: int, read) -> None:
        heads = self.blocks[block].heads
        for into, values in zip((share, margin), read):
            part = into[chunk, :, block]
            part[..., heads] = values.cpu()
            into[chunk, :, block] = part

    def _intact_effects(self) -> Effects:
        shape = (1, len(self.prompts), self.depth, self._head_count)
        share = torch.full(shape, torch.nan)
        margin = torch.full(shape, torch.nan)
        for block, queries in self.blocks.items():
            if block not in self.edited.intact.keys:
                raise Unsupported(f"block {block} gives no key for a sequence of one token.")
            self._put(share, margin, [0], block, queries.read(self.edited.intact.keys[block]))
        return Effects(share, margin, self._norms / self.others.median_norm)

    def _states(self) -> torch.Tensor:
        streams = self.edited.intact.streams
        return torch.stack([streams[point].float().cpu() for point in sorted(streams)], 2)

    def _check(self) -> float:
        worst, half = 0.0, False
        for block, queries in self.blocks.items():
            within, _ = queries.reduce(queries.own.unsqueeze(-1))
            alone = self.intact.share[:, :, block, queries.heads]
            gap = (within.cpu() - alone).abs().nan_to_num()
            worst = max(worst, float(gap.max()))
            half = half or queries.query.dtype in (torch.float16, torch.bfloat16)
        if worst > (CLOSE_HALF if half else CLOSE):
            raise Unsupported(
                "P0 is not a function of its token here: its key in a sequence of one token gives "
                f"other shares than in the prompts (by {worst:.1e})."
            )
        return worst
