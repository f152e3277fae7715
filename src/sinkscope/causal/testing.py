"""What all causal tests share: the engine, what is read, and how a test becomes a row.

A row sets an edit beside its control on the same prompts. Necessity is the change of the sink at P0
on the reading heads, relative to intact (−1: gone). Sufficiency is the change of the margin at
another position p, with P0 left out of the keys, since P0 competes with p; in nats, and as a part
of the gap between P0's margin and that of p. A prompt in which p is a sink already, by its token,
is left out of sufficiency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sinkscope.causal.thresholds import ALPHA, INDUCED, NECESSARY, NEGLIGIBLE, ORDINARY, SPECIFIC
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.engine import Engine
from sinkscope.intervene.readout import Readout
from sinkscope.result import Measured
from sinkscope.stats import holm, nan_mean, paired_change, sign_flip_p
from sinkscope.subject.prompts import token_text

if TYPE_CHECKING:
    from sinkscope.circuit.model import Circuit

Edits = Sequence[Edit]
NECESSITY, SUFFICIENCY = "necessity", "sufficiency"
IDENTITY = "identity"  # judged as necessity: does the sink need that token, that position id
MEDIATION = "mediation"  # rows that `experiments.mediation` judges by itself


@dataclass
class Test:
    """One edit beside its control.

    kind            necessity (effect: relative change of the sink at P0) or sufficiency (effect:
                    change of the margin at the position over `Lab.gap`)
    claim           whether the row is evidence: doses and variants are shown and do not decide
    p               one-sided and paired: the edit does more than its control
    control_p       one-sided: the control itself does more than a negligible effect
    sink_change     change of the late share at the position, relative to the intact sink at P0
    p0_norm         norm of P0 over the median of the others, at the last read point
    p0_cosine       cosine of P0 to the sink direction, mean over the inputs of reading blocks
    effect, control_effect  [n] per prompt; draws [m] mean effect of each random control
    """

    __test__ = False  # not a test of pytest

    id: str
    kind: str
    arrow: str
    edit: str
    edit_json: list[dict[str, Any]]
    control: str
    block: int | None
    position: int
    dose: float | None
    claim: bool
    sink_change: Measured
    control_change: Measured | None
    margin_change: Measured
    control_margin_change: Measured | None
    p: float | None
    control_p: float | None
    ce_change: Measured | None
    kl: Measured | None
    p0_norm: float | None
    p0_cosine: float | None
    mass_moved_to: dict[str, Any] | None
    effect: np.ndarray
    control_effect: np.ndarray | None
    draws: np.ndarray | None = None
    p_holm: float | None = None
    control_p_holm: float | None = None
    passed: bool | None = None
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """Mean effect."""
        return float(np.nanmean(self.effect))

    @property
    def specificity(self) -> float | None:
        """Effect of the control over the effect; None where there is none."""
        if self.control_effect is None or abs(self.size) < 1e-9:
            return None
        return float(np.nanmean(self.control_effect)) / self.size


@dataclass
class CausalBench:
    """One model, one set of prompts, one circuit under test.

    heads     reading heads [(block, head)]
    position  p, the ordinary position that controls and sufficiency tests use
    draws     random controls where a test asks for them
    """

    engine: Engine
    circuit: Circuit
    heads: list[tuple[int, int]]
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

    def sink_effect(self, read: Readout, position: int = 0) -> np.ndarray:
        """Change of the late share at a position over the mean intact sink at P0: [n]."""
        change = read.on(self.heads, position) - self.engine.intact.on(self.heads, position)
        return change / max(float(np.nanmean(self.intact_sink)), 1e-9)

    def margin_effect(self, read: Readout, position: int) -> np.ndarray:
        """Change of the margin at a position in nats, P0 left out of the keys: [n].

        NaN for prompts in which that position is p, and p not ordinary.
        """
        intact = self.engine.intact.bare_margin_on(self.heads, position)
        change = read.bare_margin_on(self.heads, position) - intact
        return change if position != self.position else np.where(self.ordinary(), change, np.nan)

    def effect(self, kind: str, read: Readout, position: int) -> np.ndarray:
        """What a test of this kind is about: [n]."""
        if kind == NECESSITY:
            return self.sink_effect(read)
        return self.margin_effect(read, position) / self.gap

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
        position: int | None = None,
        dose: float | None = None,
        claim: bool = True,
        note: str = "",
    ) -> Test:
        """Run an edit and its controls (several: random draws, of which the mean is taken).

        position  where a sufficiency test looks (p by default); necessity looks at P0
        """
        at = 0 if kind == NECESSITY else self.position if position is None else position
        read = self.run(edits, full=True)
        effect = self.effect(kind, read, at)
        others = [self.run(each) for each in controls]
        sign = -1.0 if kind == NECESSITY else 1.0
        stack = np.stack([self.effect(kind, each, at) for each in others]) if others else None
        control_effect = None if stack is None else stack.mean(0)
        return Test(
            id=id,
            kind=kind,
            arrow=arrow,
            edit="; ".join(map(str, edits)),
            edit_json=[edit.to_json() for edit in edits],
            control=control or (str("; ".join(map(str, controls[0]))) if controls else ""),
            block=block,
            position=at,
            dose=dose,
            claim=claim,
            sink_change=self._sink(read, at),
            control_change=self._mean_sink(others, at),
            margin_change=self._margin(read, at),
            control_margin_change=self._mean_margin(others, at),
            p=None if control_effect is None else sign_flip_p(sign * (effect - control_effect)),
            control_p=None
            if control_effect is None
            else sign_flip_p(sign * control_effect - NEGLIGIBLE),
            ce_change=self._ce(read),
            kl=None if read.kl is None else paired_change(read.kl, 0 * read.kl, seed=self.seed),
            p0_norm=_finite(np.nanmean(read.norm[:, 0, -1])),
            p0_cosine=self._cosine(read),
            mass_moved_to=self._moved(read),
            effect=effect,
            control_effect=control_effect,
            draws=None if stack is None or len(stack) < 2 else np.nanmean(stack, 1),
            note=note,
        )

    def _sink(self, read: Readout, at: int) -> Measured:
        intact = self.engine.intact.on(self.heads, at)
        return paired_change(read.on(self.heads, at), intact, self.intact_sink, self.seed)

    def _mean_sink(self, reads: list[Readout], at: int) -> Measured | None:
        if not reads:
            return None
        mean = np.mean([read.on(self.heads, at) for read in reads], 0)
        intact = self.engine.intact.on(self.heads, at)
        return paired_change(mean, intact, self.intact_sink, self.seed)

    def _margin(self, read: Readout, at: int) -> Measured:
        change = self.margin_effect(read, at)
        return paired_change(change, 0 * change, seed=self.seed)

    def _mean_margin(self, reads: list[Readout], at: int) -> Measured | None:
        if not reads:
            return None
        mean = np.mean([self.margin_effect(read, at) for read in reads], 0)
        return paired_change(mean, 0 * mean, seed=self.seed)

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


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def judge(tests: list[Test]) -> None:
    """Adjust p over the rows of each id (Holm), and say which rows hold.

    A row holds if the edit does what the circuit predicts by enough, significantly more than its
    control, and the control has at most half of its effect.
    """
    tests = [test for test in tests if test.kind != MEDIATION]
    for id in sorted({test.id for test in tests}):
        family = [test for test in tests if test.id == id]
        for name in ("p", "control_p"):
            for test, p in zip(family, holm([getattr(test, name) for test in family])):
                setattr(test, f"{name}_holm", p)
    for test in tests:
        if test.p_holm is None or test.specificity is None:
            test.passed = None if test.p_holm is None else False
            continue
        wanted = -test.size >= NECESSARY if test.kind != SUFFICIENCY else test.size >= INDUCED
        test.passed = bool(wanted and test.p_holm < ALPHA and test.specificity <= SPECIFIC)
