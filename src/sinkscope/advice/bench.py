"""What all questions share: the model, its text, what a scan says of it, and what edits cost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from xarray import Dataset

from sinkscope.frame import Progress, too_few
from sinkscope.intervene.cost import divergences, logit_batches, losses
from sinkscope.intervene.edits import Edit
from sinkscope.mixing.conditions import INTACT, Condition, run
from sinkscope.mixing.dose import Cost, costs
from sinkscope.observe.registry import hooks
from sinkscope.observe.sites import Sites
from sinkscope.observe.stream import first_hidden
from sinkscope.pace import ADVICE
from sinkscope.schema import Measured, ScanSummary
from sinkscope.schema.advise import Advice, AdviceRow
from sinkscope.settings import AdviseSettings
from sinkscope.stats import at_most, bootstrap, nan_mean, units_needed
from sinkscope.subject.at_hand import is_packed, lies_elsewhere
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

FEWEST, SHORTEST = 4, 16  # documents, and tokens in a text, below which no answer is given
OTHER = 5  # position whose treatment is the control of P0's
LEARNED = 0.1  # mass on a learned logit from which it counts as one
COPIED = 2_000_000_000  # parameters up to which a second copy of the model is made


Ask = Callable[["Bench"], Advice]


@dataclass
class Bench:
    """A model on its text.

    prompts  right-padded rows as the tokenizer makes them
    scan     what a scan of the same rows found; scan_data its arrays
    arrays   what questions leave for the record: name -> [...] (labels in `advice.arrays`)
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
        if self.count < FEWEST:
            return (
                f"{self.texts}: too few, as an answer takes {FEWEST} at least, and intervals that "
                f"cover 95 % take {units_needed(self._late, self.units)}."
            )
        if length < SHORTEST:
            return f"Texts of {length} tokens are too short; {SHORTEST} are needed."
        return ""

    @property
    def units(self) -> np.ndarray | None:
        """[n] the document of each text, over which intervals are taken; None where texts are."""
        return self.prompts.units

    @property
    def count(self) -> int:
        """How many documents the intervals rest on, or texts."""
        return len(self.prompts) if self.units is None else len(np.unique(self.units))

    @property
    def texts(self) -> str:
        """What the intervals rest on, in words."""
        if self.count == len(self.prompts):
            return f"{self.count} text{'s' * (self.count != 1)}"
        return f"Windows of {self.count} document{'s' * (self.count != 1)}"

    @property
    def about_text(self) -> str:
        """What is to be said of the intervals, where they rest on few documents."""
        unit = ("texts", "n") if self.units is None else ("documents", "text")
        return " ".join(too_few(self._late, self.units, *unit))

    @property
    def _late(self) -> np.ndarray:
        """[n] late share of P0, the figure by which few texts are told to be too few."""
        return nan_mean(self.scan_data["p0_late"].to_numpy(), (1, 2))

    def mean(self, values: np.ndarray) -> Measured:
        """Mean of a figure of each text [n], with its interval over documents."""
        return bootstrap(values, units=self.units)

    def saved(self, plain: Cost, better: Cost) -> Measured:
        """How much of a cost is saved, nats a token, paired by text."""
        return self.mean(plain.ce - better.ce)

    def affordable(self, cost: Cost) -> bool | None:
        """Whether a cost is within the bound; None where its interval lies across it."""
        return at_most(self.mean(cost.ce), self.within)

    def helps(self, plain: Cost, better: Cost, control: Cost) -> bool:
        """Whether one thing saves clearly more than `within`, and more than its control does."""
        gain, over = self.saved(plain, better), self.saved(control, better)
        if gain.low is None or over.low is None:
            return False
        return gain.low > self.within and over.low > 0

    def row(self, what: str, cost: Cost, control: bool = False) -> AdviceRow:
        """What an edit costs, as a row of the summary."""
        ce, kl = self.mean(cost.ce), self.mean(cost.kl)
        return {"what": what, "ce_change": ce, "kl": kl, "control": control}

    @property
    def sink_heads(self) -> tuple[tuple[int, int], ...]:
        """(block, head) of the heads that sink at position zero."""
        blocks = self.scan_data["block"].to_numpy()
        at = self.scan_data["sinking"].to_numpy().astype(bool).nonzero()
        return tuple((int(blocks[layer]), int(head)) for layer, head in zip(*at))

    @property
    def learned(self) -> bool:
        """Whether the sink is a learned logit: a head puts more than LEARNED on one."""
        mass = self.scan_data.get("learned_mass")
        return mass is not None and float(np.nanmax(mass.to_numpy())) > LEARNED

    @property
    def no_copy(self) -> str:
        """Why no second copy of the weights is made; empty where it can be."""
        packed = any(map(is_packed, self.subject.model.modules()))
        if packed or getattr(self.subject.model, "is_quantized", False):
            return "the model's weights are quantised"
        if any(map(lies_elsewhere, self.subject.anatomy.modules(self.subject.model))):
            return "the model's weights lie on disk, or in several processes"
        if sum(p.numel() for p in self.subject.model.parameters()) > COPIED:
            return "the model is too large for a second copy"
        return ""

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

        found = costs(self.subject, self.prompts, asked, first=first, sites=sites)
        return dict(zip(edits, found, strict=True))

    @contextmanager
    def counted(self, question: str) -> Iterator[None]:
        """Report what goes through the first block as the progress of a question."""
        whole = ADVICE[question][1] * self.prompts.input_ids.numel()
        done = 0

        def enter(module, args, kwargs):
            nonlocal done
            hidden = first_hidden(args, kwargs)
            done += hidden.shape[0] * hidden.shape[1]
            self.progress(question, min(done, int(whole)), int(whole))

        self.progress(question, 0, int(whole))
        first = self.subject.anatomy.modules(self.subject.model)[0]
        with hooks([first.register_forward_pre_hook(enter, with_kwargs=True)]):
            yield

    def cost_of(self, other: Subject) -> Cost:
        """Loss and KL of another form of the model, such as a quantised copy, by text."""
        return cost_between(
            self.subject,
            self.prompts,
            lambda rows: (logits_of(self.subject, rows), logits_of(other, rows)),
        )


def on_enough_text(question: str) -> Callable[[Ask], Ask]:
    """Marks what answers a question: on too little text its answer is undetermined."""

    def marked(ask: Ask) -> Ask:
        @functools.wraps(ask)
        def asked(bench: Bench) -> Advice:
            if bench.too_little:
                return Advice(question=question, answer="undetermined", sentence=bench.too_little)
            return ask(bench)

        return asked

    return marked


def cost_between(
    subject: Subject,
    prompts: Prompts,
    both: Callable[[Prompts], tuple[torch.Tensor, torch.Tensor]],
) -> Cost:
    """Rise of the loss and KL from one form of a model to another, by text.

    both  the logits [B, T, V] that either form gives for some texts
    """
    found = []
    for rows in logit_batches(subject, prompts):
        intact, changed = both(rows)
        rise = losses(changed, rows) - losses(intact, rows)
        found.append((rise, divergences(intact, changed, rows)))
    ce, kl = (torch.cat(column).numpy() for column in zip(*found))
    none = np.full(len(ce), np.nan)
    return Cost(INTACT, ce, kl, none, none)


def logits_of(subject: Subject, rows: Prompts, condition: Condition = INTACT) -> torch.Tensor:
    """Logits [B, T, V] under a condition."""
    logits = run(subject, rows, condition, logits=True).logits
    assert logits is not None
    return logits


def three(value: float | None, sign: str = "") -> str:
    """A number in three decimals for a sentence; what rounds to zero has no minus."""
    return f"{round(value or 0.0, 3) + 0.0:{sign}.3f}"


def in_nats(change: Measured) -> str:
    """A change of the loss with its interval, without its unit."""
    ends = "" if change.low is None else f" ({three(change.low)} to {three(change.high)})"
    return three(change.value) + ends


def told(change: Measured) -> str:
    """A change of the loss with its interval, for a sentence."""
    ends = in_nats(change).partition(" ")[2]
    return f"{three(change.value)} nats a token {ends}".rstrip()
