"""A constructed model under test, and the bounds it is held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sinkscope.known.constructed.build import canvas_of
from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.plan import BOS
from sinkscope.known.constructed.truth import Truth
from sinkscope.known.measure import (
    LENGTH,
    MANY,
    ObservedPass,
    late_share,
    look,
    plain_rows,
    restored,
)
from sinkscope.observe.late import uniform_late_share
from sinkscope.subject.load import Subject

SINK = 0.9  # least late mass of a sink
ABOUT = 1.5  # factor by which a weak sink may differ from what it was made for
GONE = 3.0  # most late mass of an absent sink, over uniform attention
EPS = 0.3  # threshold of the sink rate
MASSIVE = 8.0  # least norm ratio of a massive activation
CALM = 1.5  # most norm ratio where there is none
ALIGNED = 0.9  # least cosine to the sink direction where the stream carries it


class Check:
    """One constructed model under test; `failures` fills as rules are broken.

    rows, target  token ids [16, 64], and where in them the sink or the massive activation is
    seen          what a pass over them shows
    share         late share of position zero in each head [L, H], over more rows
    """

    def __init__(self, subject: Subject, truth: Truth, seed: int = 0):
        self.subject, self.truth, self.seed = subject, truth, seed
        self.canvas: Canvas = canvas_of(subject.model)
        self.failures: list[str] = []
        self.rows = self._rows(plain_rows(truth, seed))
        self.target = self._target()
        self.first = self.at(0)
        self.direction = torch.zeros(truth.spec["width"])
        self.direction[truth.channels] = torch.tensor(truth.direction)
        self.readers = self.heads(truth.reading_heads)
        self.seen = look(subject, self.rows)
        self.share = late_share(subject, self._rows(plain_rows(truth, seed + 1, MANY)))

    def at(self, position: int | list[int]) -> torch.Tensor:
        """Where in the rows a position is, or several are: [n, T]."""
        there = torch.zeros_like(self.rows, dtype=torch.bool)
        there[:, position] = True
        return there

    def ids_from(self, start: int) -> torch.Tensor:
        """Position ids of the rows that count from `start`: [n, T]."""
        return torch.arange(start, start + LENGTH).expand(len(self.rows), -1)

    def expect(self, holds: bool | torch.Tensor, sentence: str) -> None:
        """Note a sentence as failed unless it holds (a bool, or a tensor [] of one)."""
        if not bool(holds):
            self.failures.append(sentence)

    def sink(
        self, seen: ObservedPass | None = None, target: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Late mass on the sink in each reading head, [readers]; target [n, T] marks its keys."""
        seen = seen or self.seen
        if self.truth.position == "learned":
            return seen.late_learned()[self.readers]
        return seen.late(self.target if target is None else target)[self.readers]

    def expect_sink(
        self, sentence: str, seen: ObservedPass, target: torch.Tensor | None = None
    ) -> None:
        """Every reading head has nearly all of its mass there, or what it was made for.

        target  [n, T] the keys that count; the sink's if None
        """
        found, made = self.sink(seen, target), self.truth.share
        low, high = float(found.min()), float(found.max())
        self.expect(
            low > SINK if made == 1 else low > made / ABOUT and high < made * ABOUT,
            f"{sentence}: a reading head has {low:.3f} of its mass there",
        )

    def expect_gone(
        self, sentence: str, seen: ObservedPass, target: torch.Tensor | None = None
    ) -> None:
        """No reading head has much left on the sink, or on the keys that target [n, T] marks."""
        high = float(self.sink(seen, target).max())
        count = int((self.target if target is None else target)[0].sum())
        limit = GONE * uniform_late_share(LENGTH) * max(1, count)
        self.expect(high < limit, f"{sentence}: a reading head keeps {high:.3f} there")

    def edited(self, edit: Callable[..., None], *arguments: Any) -> ObservedPass:
        """Look again with an edit of the weights, which is undone."""
        with restored(self.subject.model):
            edit(self.canvas, *arguments)
            return look(self.subject, self.rows)

    def heads(self, heads: list[list[int]]) -> torch.Tensor:
        """[block, head] pairs as a mask [L, H]."""
        mask = torch.zeros(self.canvas.depth, self.canvas.heads, dtype=torch.bool)
        for b, head in heads:
            mask[b, head] = True
        return mask

    def _rows(self, rows: torch.Tensor) -> torch.Tensor:
        if self.truth.tokens == [BOS]:
            rows[:, 0] = BOS
        if self.truth.mechanism == "p0-part":
            often = torch.tensor(self.truth.tokens)
            rows[:, 0] = often[torch.arange(len(rows)) % len(often)]
        if self.truth.mechanism in ("delimiter", "massive-elsewhere"):
            rows[:, 5], rows[:, 17] = self.truth.tokens
        return rows

    def _target(self) -> torch.Tensor:
        """Where the sink, or the massive activation, is: [n, T]."""
        if "delimiter" in (self.truth.position, self.truth.massive_at):
            return torch.isin(self.rows, torch.tensor(self.truth.tokens))
        return self.at(self.truth.at or 0)
