"""The answer that lies beside a constructed model."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError

FILE = "truth.json"
SCHEMA = 1
FIRST_TOKENS = ("p0-part", "p0-real-tokens", "p0-small-vocabulary")  # about what stands first


@dataclass
class Truth:
    """What was written into the weights. Blocks, heads and neurons count from 0.

    verdict             class that an analysis should arrive at
    position            where the sink is: p0, bos, position-id-0, position-ids, delimiter, learned,
                        or None
    at                  positions that hold it together, where that is not position zero alone
    share               late share on it that the reading heads were made for, at 64 tokens
    tokens              ids that attract by themselves, or that are written to where they stand
    recognition_point   first read point at which P0 is separable (0.attention: behind the
                        attention of block 0); None where no part does it, the noise of GPT-2's
                        position embeddings apart
    recognising_heads   [block, head] that make P0's unmixedness readable
    recognising_neurons [block, neuron] that turn it into one number
    amplifying_blocks   blocks whose MLP writes the sink direction
    writing_neurons     [block, neuron] that do
    experts             [block, expert] that hold the writing neurons, in routed families
    amplification       norm (a massive activation), direction (no more than 1.5 times the others'
                        norm), or None
    massive_at          where a massive activation is: p0, bos, position-id-0, delimiter or None
    massive_from        read point from which it is there (read point l is the input of block l)
    channels, direction channels of the sink direction, and its unit components there
    reading_heads       [block, head] that attend to the sink
    from_block          first block with reading heads, None without a sink
    secondary           the second sink: block, neurons, tokens; None without one
    phases              where P0 is set apart more than once: of each phase rise and fall (first and
                        last block, None where it lasts), writers and takers (sublayers), writing
                        and taking neurons, reading heads, channels and direction; the keys above
                        are then those of the phase that most heads read, but for reading_heads
    groups              where heads read different things: of each group what carries its sink (p0,
                        bos, position-id-0), its writing neurons and reading heads
    unread              [block, neuron] that write at P0 what no head reads
    spec                the specification
    """

    mechanism: str
    family: str
    seed: int
    noise: float
    verdict: str
    spec: dict[str, Any]
    channels: list[int]
    direction: list[float]
    position: str | None = None
    at: list[int] = field(default_factory=list)
    share: float = 1.0
    tokens: list[int] = field(default_factory=list)
    recognition_point: str | None = None
    recognising_heads: list[list[int]] = field(default_factory=list)
    recognising_neurons: list[list[int]] = field(default_factory=list)
    amplifying_blocks: list[int] = field(default_factory=list)
    writing_neurons: list[list[int]] = field(default_factory=list)
    experts: list[list[int]] = field(default_factory=list)
    amplification: str | None = None
    massive_at: str | None = None
    massive_from: int | None = None
    reading_heads: list[list[int]] = field(default_factory=list)
    from_block: int | None = None
    secondary: dict[str, Any] | None = None
    phases: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    unread: list[list[int]] = field(default_factory=list)
    schema: int = SCHEMA

    @property
    def bos(self) -> str:
        """BOS policy of prompts that show it all; without where it is about other first tokens."""
        return "without" if self.mechanism in FIRST_TOKENS else "with"

    def verdict_on(self, bos: str) -> str:
        """The verdict due on prompts of a BOS policy: without a BOS nothing is carried by it."""
        parts = self.verdict.split("+")
        return "+".join(part for part in parts if bos == "with" or part != "bos-token") or "none"

    def save(self, folder: Path) -> None:
        """Write `truth.json` into a folder."""
        text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def load_truth(folder: str | Path) -> Truth:
    """Read `truth.json` from a model folder. Raises InputError where there is none that fits."""
    file = Path(folder) / FILE
    try:
        return Truth(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{file} is not a truth file ({error}).") from None
