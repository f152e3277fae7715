"""The bench that all causal tests share: the engine, what is read, and how a test becomes a row.

An edit and its control are run on the same prompts (`causal.evidence` says what is compared). A
prompt in which p is a sink already, by its token, is left out of sufficiency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sinkscope.causal.evidence import NECESSITY, SUFFICIENCY, Test, in_words
from sinkscope.causal.thresholds import NEGLIGIBLE, ORDINARY
from sinkscope.circuit.model import Circuit
from sinkscope.errors import Missing, Unsupported
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.engine import Engine
from sinkscope.intervene.p0_path import KeyPath
from sinkscope.intervene.readout import Readout
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
    """

    engine: Engine
    circuit: Circuit
    heads: Sequence[tuple[int, int]]
    position: int
    draws: int
    seed: int
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

    def run(self, edits: Edits, full: bool = False) -> Readout:
        """A pass with the edits; the same edits are run once. full: cost and received mass too."""
        key = (tuple(edits), full)
        if key not in self._seen:
            self._seen[key] = self.engine.run(edits, want_logits=full, want_received=full)
        return self._seen[key]

    def sink_effect(self, read: Readout) -> np.ndarray:
        """Change of P0's late share over its mean intact: [n]."""
        change = read.on(self.heads) - self.intact_sink
        return change / max(float(np.nanmean(self.intact_sink)), 1e-9)

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
        extra: Mapping[str, Any] | None = None,
    ) -> Test:
        """Run an edit and its controls (several: random draws, of which the mean is taken).

        moved  the text moves along, so that logits speak of other positions than the intact ones
        """
        at = self.position if kind == SUFFICIENCY else 0
        read = self.run(edits, full=True)
        effect = self.effect(kind, read)
        against = self._against(kind, effect, [self.run(each) for each in controls], at)
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
            sink_change=self._sink([read], at),
            margin_change=self._margin([read], at),
            ce_change=self._ce(read),
            kl=None if moved or read.kl is None else self._change(read.kl),
            p0_norm=_finite(np.nanmean(read.norm[:, 0, -1])),
            p0_cosine=self._cosine(read),
            mass_moved_to=self._moved(read),
            effect=effect,
            note=note,
            extra=extra or {},
            **against,
        )

    def at_p0(self, id: str, make: Callable[[int], Edits], **how: Any) -> Test:
        """A necessity test of the edits at P0, against the same edits at p."""
        return self.test(id, NECESSITY, make(0), [make(self.position)], **how)

    def _against(
        self, kind: str, effect: np.ndarray, controls: list[Readout], at: int
    ) -> dict[str, Any]:
        """What the controls add to a row."""
        if not controls:
            return {}
        each = np.stack([self.effect(kind, read) for read in controls])
        mean, sign = each.mean(0), 1.0 if kind == SUFFICIENCY else -1.0
        return {
            "control_change": self._sink(controls, at),
            "control_margin_change": self._margin(controls, at),
            "p": sign_flip_p(sign * (effect - mean)),
            "control_p": sign_flip_p(sign * mean - NEGLIGIBLE),
            "control_effect": mean,
            "draws": np.nanmean(each, 1) if len(each) > 1 else None,
        }

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
        values = read.cosine[:, 0][:, points]
        return _finite(values.mean()) if np.isfinite(values).all() else None

    def _moved(self, read: Readout) -> dict[str, Any] | None:
        """Where the mass went: the position that gained most on the reading heads."""
        intact = self.engine.intact.received
        if read.received is None or intact is None:
            return None
        gain = (read.received - intact).mean(0)
        position = int(gain.argmax())
        tokens = self.engine.prompts.input_ids[:, position]
        tokenizer = self.engine.subject.tokenizer
        token = token_text(tokenizer, int(tokens.mode().values))
        return {"position": position, "token": token, "share": float(gain[position])}

    @cached_property
    def key_path(self) -> KeyPath | Missing:
        """Effects of edits of P0 through its key, or why they are not at hand."""
        engine = self.engine
        assert engine.sites is not None
        try:
            return KeyPath(
                engine.subject, engine.prompts, engine.sites,
                direction=engine.direction, heads=self.heads, seeds=(self.seed,),
            )  # fmt: skip
        except Unsupported as refusal:
            return Missing(str(refusal).rstrip("."))


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
