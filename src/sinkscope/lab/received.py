"""Attention of every head, reduced to what each key receives, while a model runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkscope.observe.late import first_late
from sinkscope.observe.registry import attention_functions
from sinkscope.observe.tap import as_shares, is_sigmoid, own_eager


@dataclass
class Received:
    """An attention function that keeps what each key receives, by block.

    late: [batch, head, key], mean over queries t >= T/2 of A_{t,k}. first: [batch, head], mean over
    all queries of A_{t,0}; of sigmoid attention, with each row divided by its sum. Small models
    only: it forms the whole map of a block.
    """

    late: dict[int, Tensor] = field(default_factory=dict)
    first: dict[int, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        **options,
    ) -> tuple[Tensor, None]:
        """The family's own attention."""
        out, attention = own_eager(module, query, key, value, attention_mask, options)
        if is_sigmoid(options):
            attention = as_shares(attention)
        block = int(module.layer_idx)  # type: ignore[arg-type]
        self.late[block] = attention[:, :, first_late(query.shape[2]) :].mean(2)
        self.first[block] = attention[..., 0].mean(2)
        return out, None


@contextmanager
def receiving(model: PreTrainedModel) -> Iterator[Received]:
    """Route the model's attention through a `Received`; on exit everything is as before."""
    received = Received()
    with attention_functions(model, received, masks="eager"):
        yield received
