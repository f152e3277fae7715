"""Everything that a verification measures, before it is put into arrays and a summary."""

from __future__ import annotations

from dataclasses import dataclass, field

from sinkscope.causal.evidence import Test
from sinkscope.causal.families.faithfulness import Kept
from sinkscope.causal.verdict import Verdict
from sinkscope.circuit.model import Circuit
from sinkscope.intervene.engine import Engine
from sinkscope.schema.verify import PhaseNeed
from sinkscope.subject.prompts import Prompts


@dataclass(frozen=True, eq=False)
class Verified:
    """What was measured under one BOS policy.

    whole    the prompts that the circuit was found on
    prompts  those of them that the tests were run on
    passes   plain passes over `whole` that all tests took
    needs    whether each phase of P0 needs the one before it
    """

    whole: Prompts
    prompts: Prompts
    circuit: Circuit
    engine: Engine
    verdict: Verdict
    passes: float
    notes: list[str]
    tests: list[Test] = field(default_factory=list)
    kept: Kept | None = None
    needs: list[PhaseNeed] = field(default_factory=list)
