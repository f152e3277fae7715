"""The bench that all causal tests share: the engine, what is read, and how a test becomes a row.

An edit and its control are run on the same prompts (`causal.evidence` says what is compared). A
prompt in which p is a sink already, by its token, is left out of sufficiency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from sinkscope.causal.evidence import (
    IDENTITY,
    NECESSITY,
    SUFFICIENCY,
    Planned,
    Test,
    in_words,
    p_values,
)
from sinkscope.causal.readings import (
    all_of,
    cosine_on,
    finite,
    mass_moved,
    mean_of,
    median_draw,
)
from sinkscope.causal.screen import Screen
from sinkscope.causal.sink_heads import SinkHeads
from sinkscope.causal.thresholds import ORDINARY
from sinkscope.circuit.model import Circuit
from sinkscope.errors import Missing
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.edits.hold import Intact
from sinkscope.intervene.engine import Engine
from sinkscope.intervene.readout import Readout
from sinkscope.pace import Budget
from sinkscope.result import Measured
from sinkscope.stats import Draw, nan_mean

Edits = Sequence[Edit]


@dataclass
class CausalBench:
    """One model, one set of prompts, one circuit under test.

    heads     reading heads [(block, head)]
    position  p, the ordinary position that controls and sufficiency tests use
    draws     random controls where a test asks for them
    recorded  what the intact model had at P0 and at p, if that was noted in its pass
    budget    time that there is for tests
    """

    engine: Engine
    circuit: Circuit
    heads: Sequence[tuple[int, int]]
    position: int
    draws: int
    seed: int
    recorded: Intact = field(default_factory=Intact)
    budget: Budget = field(default_factory=lambda: Budget(None))
    notes: list[str] = field(default_factory=list)
    _seen: dict[tuple, Readout] = field(default_factory=dict)

    @cached_property
    def draw(self) -> Draw:
        """How intervals over the prompts are drawn."""
        return Draw(self.engine.prompts.units, self.seed)

    @property
    def last_read(self) -> int:
        """The last block with a reading head."""
        return max(block for block, _ in self.heads)

    @property
    def first_read(self) -> int:
        """The first block with a reading head."""
        return min(block for block, _ in self.heads)

    @property
    def start(self) -> int:
        """First read point after the emergence block, at which P0 is set apart."""
        emergence = self.circuit.emergence_block
        return min(self.first_read if emergence is None else emergence + 1, self.last_read)

    @cached_property
    def sink_heads(self) -> SinkHeads:
        """The reading heads, their sink and their gaps."""
        intact, at = self.engine.intact, self.engine.intact.at(self.position)
        own = self._on_heads(intact.margin[:, 0]) - self._on_heads(intact.bare_margin[:, at])
        gap = nan_mean(np.where(self.ordinary()[:, None], own, np.nan))
        return SinkHeads(tuple(self.heads), self._on_heads(intact.share[:, 0]), gap)

    def _on_heads(self, values: np.ndarray) -> np.ndarray:
        """[n, heads] of [n, L, H]."""
        return np.stack([values[:, block, head] for block, head in self.heads], 1)

    @cached_property
    def screen(self) -> Screen:
        """What edits of P0 do through its key; why there is none is left in the notes."""
        phases = self.circuit.phases if len(self.circuit.phases) > 1 else ()
        readers = [head for part in phases for head in part.readers]
        screen = Screen(self.engine, self.heads, self.seed, readers)
        if isinstance(screen.path, Missing):
            self.notes.append(
                f"Every necessity test was run in full, without a screen: {screen.path.reason}."
            )
        elif screen.path.queries[0] < screen.path.queries[1]:
            kept, late = screen.path.queries
            self.notes.append(f"Effects through P0's key are of {kept} of {late} late queries.")
        return screen

    def key_effects(self, lists: Sequence[Edits]) -> list[np.ndarray | None]:
        """[n] change of P0's late share through its key, over its mean intact, for each list."""
        found = self.key_by_head(lists)
        return [None if change is None else nan_mean(change, 1) for change in found]

    def key_by_head(self, lists: Sequence[Edits]) -> list[np.ndarray | None]:
        """The same in each reading head: [n, heads]."""
        found = self.screen.by_head(lists)
        return [None if change is None else change / self._scale for change in found]

    @property
    def _scale(self) -> float:
        return self.sink_heads.scale_of()

    def ordinary(self) -> np.ndarray:
        """Whether p is an ordinary position of the intact model: [n].

        It is none in a prompt where the reading heads of some block already sink there, P0 left
        out of the keys: its token marks it by itself.
        """
        blocks = sorted({block for block, _ in self.heads})
        of_block = [[head for head in self.heads if head[0] == block] for block in blocks]
        shares = [self.engine.intact.bare_on(heads, self.position) for heads in of_block]
        return np.asarray(~(np.stack(shares, 1) >= ORDINARY).any(1))

    @property
    def intact_sink(self) -> np.ndarray:
        """Late share of P0 on the reading heads: [n]."""
        return self.engine.intact.on(self.heads)

    def run(self, edits: Edits, full: bool = False, few: bool = False) -> Readout:
        """A pass with the edits; the same edits are run once.

        full  loss and received mass too
        few   on a few prompts, where it was not run on all of them
        """
        edits = tuple(edits)
        for known in product((edits,), (True, full), (False, few)):
            if known in self._seen:
                return self._seen[known]
        read = self.engine.run(edits, want_logits=full, want_received=full, few=few)
        self._seen[edits, full, few] = read
        return read

    def sink_effect(self, read: Readout) -> np.ndarray:
        """Change of P0's late share over its mean intact: [n]."""
        return nan_mean(self.by_head(IDENTITY, read), 1)

    def margin_effect(self, read: Readout, position: int) -> np.ndarray:
        """Change of the margin at a position in nats, P0 left out of the keys: [n].

        NaN for prompts in which that position is p, and p not ordinary.
        """
        intact = self.engine.intact.bare_margin_on(self.heads, position)
        change = read.bare_margin_on(self.heads, position) - intact
        return change if position != self.position else np.where(self.ordinary(), change, np.nan)

    def by_head(self, kind: str, read: Readout) -> np.ndarray:
        """What a test of this kind is about, in each reading head: [n, heads]."""
        intact = self.engine.intact
        if kind != SUFFICIENCY:
            change = read.share[:, 0] - intact.share[:, 0]
            return self._on_heads(change) / self._scale
        at = intact.at(self.position)
        change = self._on_heads(read.bare_margin[:, at] - intact.bare_margin[:, at])
        return np.where(self.ordinary()[:, None], change, np.nan) / self.sink_heads.gap_of()

    def test(self, plan: Planned, few: bool | None = None) -> Test:
        """Run an edit and its controls.

        few  on a few prompts only; by default where the row is no evidence

        Of a necessity test the effect is that through P0's key, where that path is at hand. The
        control's effect is that in all, but for random draws of edits of P0, which are screened
        too: of them the median one alone is run in full.
        """
        kind, controls = plan.kind, plan.controls
        at = self.position if kind == SUFFICIENCY else 0
        key_by_head, screened = None, None
        if kind == NECESSITY:
            key_by_head = self.key_by_head([plan.edits])[0]
            if key_by_head is not None and len(controls) > 1:
                screened = all_of(self.key_by_head(controls))
        if screened is not None:
            controls = [controls[median_draw(nan_mean(screened, 2))]]
        few = not plan.claim if few is None else few
        read = self.run(plan.edits, full=plan.claim, few=few)
        in_all = self.by_head(kind, read)
        by_head = in_all if key_by_head is None else key_by_head
        total, effect = nan_mean(in_all, 1), nan_mean(by_head, 1)
        key = None if key_by_head is None else effect
        control = plan.control or (in_words(controls[0]) if controls else "")
        return Test(
            **vars(replace(plan, controls=controls, control=control)),
            position=at,
            key_change=None if key is None else self.share_change(key),
            others_change=None if key is None else self.share_change(total - key),
            sink_change=self._sink([read], at),
            margin_change=self._margin([read], at),
            ce_change=self._ce(read),
            kl=None if plan.shifted or read.kl is None else self.draw.mean(read.kl),
            p0_norm=finite(np.nanmean(read.norm[:, 0, -1])),
            p0_cosine=cosine_on(read, self.heads),
            mass_moved_to=mass_moved(self.engine, read),
            effect=effect,
            by_head=by_head,
            prompts=int(np.isfinite(total).sum()),
            **self._against(kind, effect, [self.run(each, few=few) for each in controls], screened),
        )

    def at_p0(self, id: str, make: Callable[[int], Edits], **how: Any) -> Planned:
        """A necessity test of the edits at P0, against the same edits at p."""
        return Planned(id, NECESSITY, make(0), [make(self.position)], **how)

    def _against(
        self,
        kind: str,
        effect: np.ndarray,
        controls: list[Readout],
        screened: np.ndarray | None,
    ) -> dict[str, Any]:
        """What the controls add to a row of effect [n].

        screened  [m, n, heads] effects of random draws through P0's key, where they decide
        """
        if not controls:
            return {}
        at = self.position if kind == SUFFICIENCY else 0
        each = screened
        if each is None:
            each = np.stack([self.by_head(kind, read) for read in controls])
        mean = nan_mean(each)
        return {
            "control_change": self._sink(controls, at),
            "control_margin_change": self._margin(controls, at),
            **p_values(kind, effect, nan_mean(mean, 1)),
            "control_by_head": mean,
            "draws": nan_mean(each, (1, 2)) if len(each) > 1 else None,
            "control_key_change": None
            if screened is None
            else self.share_change(mean_of(screened)),
        }

    def share_change(self, effect: np.ndarray) -> Measured:
        """An effect [n] relative to the mean intact sink, which is resampled with it by prompts."""
        return self.draw.ratio(effect * self._scale, self.intact_sink)

    def _sink(self, reads: list[Readout], at: int) -> Measured:
        mean = np.mean([read.on(self.heads, at) for read in reads], 0)
        intact = self.engine.intact.on(self.heads, at)
        return self.draw.change(mean, intact, self.intact_sink)

    def _margin(self, reads: list[Readout], at: int) -> Measured:
        return self.draw.mean(np.mean([self.margin_effect(read, at) for read in reads], 0))

    def _ce(self, read: Readout) -> Measured | None:
        if read.ce is None or self.engine.intact.ce is None:
            return None
        return self.draw.change(read.ce, self.engine.intact.ce)
