"""Configuration of a Llama with one change to its attention, or to what its blocks read of P0."""

from transformers import AutoConfig, LlamaConfig

# Kinds that are plain softmax attention between the projections, so that fused attention serves.
FUSED = ("softmax", "gated", "head-norm")
KINDS = (*FUSED, "softmax-plus-one", "learned-sink", "key-value-bias", "sigmoid")


class SinkscopeLabConfig(LlamaConfig):
    """A `LlamaConfig` with two more fields.

    attention   one of KINDS; see `attention.SinkscopeLabAttention` for what each computes
    force_sink  channels that position zero alone may use; 0 for none (see `modeling.ForceSink`)

    Raises ValueError for another kind, or channels that leave the other tokens none.
    """

    model_type = "sinkscope_lab"

    def __init__(self, attention: str = "softmax", force_sink: int = 0, **kwargs):
        self.attention = attention
        self.force_sink = force_sink
        super().__init__(**kwargs)
        if attention not in KINDS:
            raise ValueError(f"attention {attention!r} is not one of {', '.join(KINDS)}")
        if not 0 <= force_sink < self.hidden_size:
            raise ValueError(f"force_sink {force_sink} must be less than the hidden size")


AutoConfig.register(SinkscopeLabConfig.model_type, SinkscopeLabConfig, exist_ok=True)
