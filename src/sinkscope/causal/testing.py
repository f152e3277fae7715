"""The bench that all causal tests share: the engine, what is read, and how a test becomes a row.

An edit and its control are run on the same prompts (`causal.evidence` says what is compared). A
prompt in which p is a sink already, by its token, is left out of sufficiency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from sinkscope.causal.evidence import NECESSITY, SUFFICIENCY, Test, in_words
from sinkscope.causal.screen import Planned, Screen
from sinkscope.causal.thresholds import NEGLIGIBLE, ORDINARY
from sinkscope.circuit.model import Circuit
from sinkscope.errors import Missing
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.edits.hold import Intact
from sinkscope.intervene.engine import Engine
from sinkscope.intervene.p0_path import KeyPath
from sinkscope.intervene.readout import Readout
from sinkscope.pace import Budget
from sinkscope.result import Measured
from sinkscope.stats import nan_mean, paired_change, sign_flip_p
from sinkscope.subject.prompts import token_text

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

    @property
    def gap(self) -> float:
        """Nats between P0's margin and that of p, P0 left out of p's keys: what p could gain."""
        intact = self.engine.intact
        own = intact.margin_on(self.heads) - intact.bare_margin_on(self.heads, self.position)
        return max(float(nan_mean(np.where(self.ordinary(), own, np.nan))), 1e-6)

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
        scale = self._scale
        found = self.screen.changes(lists)
        return [None if change is None else change / scale for change in found]

    @property
    def _scale(self) -> float:
        return max(float(np.nanmean(self.intact_sink)), 1e-9)

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
        return (read.on(self.heads) - self.intact_sink) / self._scale

    def margin_effect(self, read: Readout, position: int) -> np.ndarray:
        """Change of the margin at a position in nats, P0 left out of the keys: [n].

        NaN for prompts in which that position is p, and p not ordinary.
        """
        intact = self.engine.intact.bare_margin_on(self.heads, position)
        change = read.bare_margin_on(self.heads, position) - intact
        return change if position != self.position else np.where(self.ordinary(), change, np.nan)

    def effect(self, kind: str, read: Readout) -> np.ndarray:
        """What a test of this kind is about: [n]."""
        if kind == SUFFICIENCY:
            return self.margin_effect(read, self.position) / self.gap
        return self.sink_effect(read)

    def test(
        self,
        id: str,
        kind: str,
        edits: Edits,
        controls: Sequence[Edits] = (),
        *,
        control: str = "",
        arrow: str = "",
        block: int | None = None,
        dose: float | None = None,
        claim: bool = True,
        note: str = "",
        moved: bool = False,
        few: bool | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Test:
        """Run an edit and its controls (several: random draws, of which the mean is taken).

        moved  the text moves along, so that logits speak of other positions than the intact ones
        few    on a few prompts only; by default where the row is no evidence

        Of a necessity test the effect is that through P0's key, where that path is at hand. The
        control's effect is that in all, but for random draws of edits of P0, which are screened
        too: of them the median one alone is run in full.
        """
        at = self.position if kind == SUFFICIENCY else 0
        key, of_control = None, None
        if kind == NECESSITY:
            key = self.key_effects([edits])[0]
            if key is not None and len(controls) > 1:
                of_control = _all(self.key_effects(controls))
        if of_control is not None:
            controls = [controls[_median(of_control)]]
        few = not claim if few is None else few
        read = self.run(edits, full=claim, few=few)
        total = self.effect(kind, read)
        effect = total if key is None else key
        reads = [self.run(each, few=few) for each in controls]
        return Test(
            id=id,
            kind=kind,
            arrow=arrow,
            edits=tuple(edits),
            control=control or (in_words(controls[0]) if controls else ""),
            block=block,
            position=at,
            dose=dose,
            claim=claim,
            key_change=None if key is None else self._share(key),
            others_change=None if key is None else self._share(total - key),
            sink_change=self._sink([read], at),
            margin_change=self._margin([read], at),
            ce_change=self._ce(read),
            kl=None if moved or read.kl is None else self._change(read.kl),
            p0_norm=_finite(np.nanmean(read.norm[:, 0, -1])),
            p0_cosine=self._cosine(read),
            mass_moved_to=self._moved(read),
            effect=effect,
            prompts=int(np.isfinite(total).sum()),
            note=note,
            extra=extra or {},
            **self._against(kind, effect, reads, at, of_control),
        )

    def screened(
        self, id: str, edits: Edits, key: np.ndarray, *, arrow: str = "", **how: Any
    ) -> Test:
        """A row of an edit of P0 that was not run in full: key [n] is its effect through the key.

        how  as for `test`; of it only block, dose and note are kept
        """
        return Test(
            id=id,
            kind=NECESSITY,
            arrow=arrow,
            edits=tuple(edits),
            control="",
            position=0,
            claim=False,
            confirmed=False,
            key_change=self._share(key),
            effect=key,
            prompts=0,
            block=how.get("block"),
            dose=how.get("dose"),
            note=how.get("note", ""),
        )

    def at_p0(self, id: str, make: Callable[[int], Edits], **how: Any) -> Planned:
        """A necessity test of the edits at P0, against the same edits at p."""
        return Planned(id, make(0), [make(self.position)], how)

    def _against(
        self,
        kind: str,
        effect: np.ndarray,
        controls: list[Readout],
        at: int,
        screened: np.ndarray | None,
    ) -> dict[str, Any]:
        """What the controls add to a row; screened [m, n]: effects of draws through P0's key."""
        if not controls:
            return {}
        each = screened
        if each is None:
            each = np.stack([self.effect(kind, read) for read in controls])
        mean, sign = each.mean(0), 1.0 if kind == SUFFICIENCY else -1.0
        return {
            "control_change": self._sink(controls, at),
            "control_margin_change": self._margin(controls, at),
            "control_key_change": None if screened is None else self._share(mean),
            "p": sign_flip_p(sign * (effect - mean)),
            "control_p": sign_flip_p(sign * mean - NEGLIGIBLE),
            "control_effect": mean,
            "draws": np.nanmean(each, 1) if len(each) > 1 else None,
        }

    def _share(self, effect: np.ndarray) -> Measured:
        """An effect relative to the mean intact sink, prompts resampled together."""
        change = effect * self._scale
        return paired_change(change, 0 * change, self.intact_sink, self.seed)

    def _sink(self, reads: list[Readout], at: int) -> Measured:
        mean = np.mean([read.on(self.heads, at) for read in reads], 0)
        intact = self.engine.intact.on(self.heads, at)
        return paired_change(mean, intact, self.intact_sink, self.seed)

    def _margin(self, reads: list[Readout], at: int) -> Measured:
        return self._change(np.mean([self.margin_effect(read, at) for read in reads], 0))

    def _change(self, change: np.ndarray) -> Measured:
        return paired_change(change, 0 * change, seed=self.seed)

    def _ce(self, read: Readout) -> Measured | None:
        if read.ce is None or self.engine.intact.ce is None:
            return None
        return paired_change(read.ce, self.engine.intact.ce, seed=self.seed)

    def _cosine(self, read: Readout) -> float | None:
        points = sorted({block for block, _ in self.heads})
        return _finite(nan_mean(read.cosine[:, 0][:, points].mean(1)))

    def _moved(self, read: Readout) -> dict[str, Any] | None:
        """Where the mass went: the position that gained most on the reading heads."""
        intact = self.engine.intact.received
        if read.received is None or intact is None:
            return None
        gain = nan_mean(read.received - intact)
        position = int(gain.argmax())
        tokens = self.engine.prompts.input_ids[:, position]
        tokenizer = self.engine.subject.tokenizer
        token = token_text(tokenizer, int(tokens.mode().values))
        return {"position": position, "token": token, "share": float(gain[position])}

    @property
    def key_path(self) -> KeyPath | Missing:
        """Effects of edits of P0 through its key, or why they are not at hand."""
        return self.screen.path


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _all(effects: list[np.ndarray | None]) -> np.ndarray | None:
    """[m, n] effects of all, or None where one is missing."""
    found = [effect for effect in effects if effect is not None]
    return np.stack(found) if len(found) == len(effects) else None


def _median(effects: np.ndarray) -> int:
    """The draw whose mean effect is the median one."""
    order = np.argsort(np.nanmean(effects, 1), kind="stable")
    return int(order[len(order) // 2])
