"""What the trace keeps of one softmax block in its pass over the prompts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from sinkscope.observe.reads import AttentionCall
from sinkscope.observe.scores import Scores
from sinkscope.observe.softmax import attend, squared_lse
from sinkscope.observe.stream import unit
from sinkscope.observe.tap import fold_learned


@dataclass
class HeadRead:
    """What is kept of one softmax block.

    query     [n, H, D] mean late query of each prompt
    others    [n, H] mean over late queries of logsumexp over the keys other than P0
    logit     [n, H] mean over late queries of the score on P0
    unmixed   [T, H] c_t = Σ_j A_tj² (sum over prompts); `counted` prompts
    mixed_norm  [T, H] ‖o_t‖² when every value has length one (sum over prompts)
    unit_value, unit_square  [G, D], [G, D, D] sums of unit values and of their outer products
    """

    scale: float = 1.0
    softcap: float | None = None
    query: list[torch.Tensor] = field(default_factory=list)
    others: list[torch.Tensor] = field(default_factory=list)
    logit: list[torch.Tensor] = field(default_factory=list)
    unmixed: torch.Tensor | None = None
    mixed_norm: torch.Tensor | None = None
    unit_value: torch.Tensor | None = None
    unit_square: torch.Tensor | None = None
    unit_values: int = 0
    counted: int = 0

    def of(self, rows: torch.Tensor) -> HeadRead:
        """The same of some prompts [k] alone; the sums stay those of all."""
        query, others, logit = (
            torch.cat(each)[rows] for each in (self.query, self.others, self.logit)
        )
        return replace(self, query=[query], others=[others], logit=[logit])

    def add_unmixed(self, call: AttentionCall, mass: torch.Tensor | None, rows: slice) -> None:
        """Add how unmixed the attention of some rows is, and the cone of their unit values."""
        s = call.scores
        mask = s.mask if s.mask is None or s.mask.shape[0] == 1 else s.mask[rows]
        one = Scores(s.q[rows], s.k[rows], mask, s.causal, s.scale, s.softcap)
        unit_values = unit(call.values[rows].float()).to(call.values.dtype)
        out, total = attend(one, unit_values)
        if call.s_aux is not None:
            learned, _ = fold_learned(total, call.s_aux)
            out = out * (total - learned).exp().unsqueeze(-1).to(out.dtype)
            total = learned
        elif mass is not None:  # a learned key whose logit depends on the query
            kept = (1.0 - mass[rows]).clamp_min(1e-30)
            out = out * kept.unsqueeze(-1).to(out.dtype)
            total = total - kept.log()
        twice = squared_lse(one, unit_values)
        unmixed = (twice - 2 * total).exp().sum(0).transpose(0, 1).cpu()
        mixed = out.float().square().sum(-1).sum(0).transpose(0, 1).cpu()
        values = unit_values.float().sum((0, 2)).cpu()
        square = torch.einsum("bgtd,bgte->gde", unit_values.float(), unit_values.float()).cpu()
        new = {"unmixed": unmixed, "mixed_norm": mixed, "unit_value": values, "unit_square": square}
        if self.unmixed is not None and self.unmixed.shape != unmixed.shape:
            return
        for name, value in new.items():
            old = getattr(self, name)
            setattr(self, name, value if old is None else old + value)
        self.unit_values += unit_values.shape[0] * unit_values.shape[2]
        self.counted += unit_values.shape[0]
