"""What all questions share: the model, its text, what a scan says of it, and what edits cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from xarray import Dataset

from sinkscope.frame import Progress
from sinkscope.intervene.edits import Edit
from sinkscope.mixing.conditions import Condition
from sinkscope.mixing.dose import Cost, costs
from sinkscope.observe.sites import Sites
from sinkscope.schema import Measured, ScanSummary
from sinkscope.schema.advise import AdviceRow
from sinkscope.settings import AdviseSettings
from sinkscope.stats import LEAST_UNITS, bootstrap, paired_change
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

FEWEST, SHORTEST = 4, 16  # texts, and tokens in each, below which nothing is worth an answer
OTHER = 5  # position whose treatment is the control of P0's


@dataclass
class Bench:
    """A model on its text.

    prompts  right-padded rows as the tokenizer makes them
    scan     what a scan of the same rows found; scan_data its arrays
    arrays   what questions leave for the record: name -> array (labels in `advise.arrays`)
    """

    subject: Subject
    prompts: Prompts
    settings: AdviseSettings
    scan: ScanSummary
    scan_data: Dataset
    progress: Progress
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def within(self) -> float:
        """Rise of the loss that is acceptable, nats a token."""
        return self.settings.within

    @property
    def too_little(self) -> str:
        """Why this text is not enough for an answer; empty where it is."""
        length = int(self.prompts.lengths.min())
        if len(self.prompts) < FEWEST:
            return f"{len(self.prompts)} texts are too few for an interval; {FEWEST} are needed."
        if length < SHORTEST:
            return f"Texts of {length} tokens are too short; {SHORTEST} are needed."
        return ""

    @property
    def about_text(self) -> str:
        """What the intervals rest on, where several texts are windows of one document."""
        documents = self.prompts.documents
        count = len(self.prompts) if documents is None else len(documents.unique())
        if count >= min(LEAST_UNITS, len(self.prompts)):
            return ""
        of = "one document" if count == 1 else f"{count} documents"
        return f"The texts are windows of {of}: the intervals speak of no others."

    @property
    def sink_heads(self) -> tuple[tuple[int, int], ...]:
        """(block, head) of the heads that sink at position zero."""
        blocks = self.scan_data["block"].to_numpy()
        at = self.scan_data["sinking"].to_numpy().astype(bool).nonzero()
        return tuple((int(blocks[layer]), int(head)) for layer, head in zip(*at))

    @property
    def layers(self) -> list[str]:
        """The kind of attention of each block."""
        return [block.layer_type for block in self.subject.anatomy.blocks]

    def cost(
        self,
        edits: Mapping[str, Edit | tuple[Edit, ...]],
        first: int = 1,
        sites: Sites | None = None,
    ) -> dict[str, Cost]:
        """Loss and KL of each set of edits against the intact model, by prompt.

        first  predictions made at this position and later count
        sites  where blocks write, for edits of heads and neurons
        """
        if not edits:
            return {}
        asked = [
            Condition(name, edit if isinstance(edit, tuple) else (edit,))
            for name, edit in edits.items()
        ]

        def step(done: int, total: int) -> None:
            self.progress(f"advise: {asked[0].name}", done, total)

        found = costs(self.subject, self.prompts, asked, progress=step, first=first, sites=sites)
        return dict(zip(edits, found, strict=True))


def row_of(what: str, cost: Cost, control: bool = False) -> AdviceRow:
    """What an edit costs, as a row of the summary."""
    return {
        "what": what,
        "ce_change": bootstrap(cost.ce),
        "kl": bootstrap(cost.kl),
        "control": control,
    }


def saved(plain: Cost, better: Cost) -> Measured:
    """How much of a cost is saved, nats a token, paired by prompt."""
    return paired_change(plain.ce, better.ce)
