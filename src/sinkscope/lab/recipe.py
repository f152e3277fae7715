"""What is trained: shape, schedule and demand of one run, and the model they make."""

import math
from dataclasses import asdict, dataclass, field

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sinkscope.lab.demand import Demand


@dataclass(frozen=True)
class Recipe:
    """One training run; the defaults make the bundled reference model.

    init: standard deviation of the untrained weights; about 1/sqrt(width), since with the usual
    0.02 a model this narrow stays at unigrams for most of a short run.
    lengths: window lengths, drawn equally often. tokens_per_step: windows per step times their
    length. learning_rate: the peak, after `warmup` steps and before a cosine decay to
    `floor` times the peak. precision: "bf16" runs matrix products in bfloat16, "fp32" nothing.
    demand: None trains the control. checkpoints: steps after which the model is saved,
    0 for the untrained model.
    """

    vocabulary: int = 4096
    blocks: int = 6
    width: int = 192
    heads: int = 4
    hidden: int = 512
    context: int = 1024
    init: float = 0.06
    steps: int = 2400
    tokens_per_step: int = 1024
    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    learning_rate: float = 3e-3
    warmup: int = 100
    floor: float = 0.02
    weight_decay: float = 0.1
    clip: float = 1.0
    precision: str = "bf16"
    seed: int = 0
    demand: Demand | None = field(default_factory=Demand)
    checkpoints: tuple[int, ...] = ()

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then cosine decay to `floor` times the peak at the last step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.floor + (1 - self.floor) * cosine)

    def asked(self) -> list[tuple[int, int]]:
        """The (block, head) pairs that are asked for a sink."""
        return self.demand.asked(self.blocks) if self.demand else []

    def as_dict(self) -> dict:
        """All settings as plain data, for `sink_heads.json`."""
        return asdict(self)


def build_model(recipe: Recipe, bos: int = 0, eos: int = 1) -> LlamaForCausalLM:
    """The untrained model of a recipe, float32; the seed fixes its weights."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.hidden,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        initializer_range=recipe.init,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
    )
    return LlamaForCausalLM(config)
