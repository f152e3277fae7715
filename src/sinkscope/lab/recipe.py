"""What is trained: shape, data, schedule and demand of one run, and how they are read from YAML."""

import math
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from sinkscope.checked import refuse_beyond
from sinkscope.errors import InputError
from sinkscope.lab.demand import Demand
from sinkscope.subject.variants.configuration import FUSED
from sinkscope.yaml_files import read_yaml, validated, yaml_names

CONFIGS = files("sinkscope.lab") / "configs"
BUNDLED_VOCABULARY = 2048
Attention = Literal[
    "softmax",
    "gated",
    "softmax-plus-one",
    "learned-sink",
    "sigmoid",
    "key-value-bias",
    "head-norm",
]


@dataclass(frozen=True)
class TrainingRecipe:
    """One training run; the defaults are the small base that the induced series share.

    supervision      one line for people: which heads the auxiliary loss supervises
    family           transformers' model type
    vocabulary       entries of the tokenizer
    blocks           number of blocks
    width            width of the residual stream
    heads            attention heads of each block
    hidden           neurons of each MLP, or of each expert
    experts, active  experts of each block, in families that route, and those a token goes to
    context          longest sequence that the positions allow
    attention        kind of attention (`sinkscope.subject.variants`); llama only
    force_sink       channels that position zero has to itself; llama only
    init             standard deviation of the untrained weights; about 1/sqrt(width), since with
                     the usual 0.02 a model this narrow stays at unigrams for most of a short run
    data             "text" or "bigram-backcopy" (`sinkscope.lab.backcopy`)
    tokenizer        "bundled" is the one of 2,048 entries that the series share, "own" is trained
                     on the run's text
    bos              a BOS before every window, or every paragraph that sees only itself
    first            "text" leaves a window's first token as it stands, "any" puts one drawn from
                     the whole vocabulary in its place
    first_loss       whether what is predicted from position zero counts in the loss; without it the
                     loss is TNLM's
    packing          "windows" start anywhere in the text, "paragraphs" fill a row and see only
                     themselves, "paragraphs-causal" fill a row and see whatever stands before them
    steps            optimiser steps
    tokens_per_step  windows per step times their length
    lengths          window lengths, drawn equally often
    learning_rate    the peak, after `warmup` steps and before a cosine decay to `floor`
    warmup           steps of linear warm-up
    floor            learning rate of the last step, over the peak
    weight_decay     of AdamW, on matrices
    clip             largest norm of the gradient
    precision        "bf16" runs matrix products in bfloat16 on the CPU too; on CUDA they always are
    seed             seed of every random choice
    demand           None trains with nothing asked or measured; a weight of 0 only measures
    checkpoints      steps after which the model is saved, 0 for the untrained model
    cpu_minutes      what the run takes on one CPU core, about
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    supervision: str = ""
    family: Literal["llama", "mixtral", "qwen3_next"] = "llama"
    vocabulary: int = BUNDLED_VOCABULARY
    blocks: int = 6
    width: int = 96
    heads: int = 4
    hidden: int = 256
    experts: int = 0
    active: int = 0
    context: int = 256
    attention: Attention = "softmax"
    force_sink: int = 0
    init: float = 0.1
    data: Literal["text", "bigram-backcopy"] = "text"
    tokenizer: Literal["bundled", "own"] = "bundled"
    bos: bool = False
    first: Literal["text", "any"] = "text"
    first_loss: bool = True
    packing: Literal["windows", "paragraphs", "paragraphs-causal"] = "windows"
    steps: int = 800
    tokens_per_step: int = 1024
    lengths: tuple[int, ...] = (32, 64, 128, 256)
    learning_rate: float = 3e-3
    warmup: int = 50
    floor: float = 0.02
    weight_decay: float = 0.1
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    demand: Demand | None = None
    checkpoints: tuple[int, ...] = ()
    cpu_minutes: float | None = None

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then cosine decay to `floor` times the peak at the last step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.floor + (1 - self.floor) * cosine)

    def supervised_heads(self) -> list[tuple[int, int]]:
        """The (block, head) pairs that the auxiliary loss supervises."""
        return self.demand.supervised(self.blocks) if self.demand else []

    def watched_heads(self) -> list[tuple[int, int]]:
        """The (block, head) pairs that are supervised or, at weight 0, only measured."""
        return self.demand.watched(self.blocks) if self.demand else []

    def shortened(self, steps: int) -> "TrainingRecipe":
        """The same run with another number of steps; later checkpoints fall away."""
        kept = tuple(step for step in self.checkpoints if step < steps)
        kept += (steps,) if self.checkpoints else ()
        return replace(self, steps=steps, warmup=min(self.warmup, steps), checkpoints=kept)

    def as_dict(self) -> dict[str, Any]:
        """All settings as plain data, for `sink_heads.json`."""
        return asdict(self)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return yaml_names(CONFIGS)


def read_recipe(name: str) -> TrainingRecipe:
    """The recipe of that name, or of a YAML file at that path.

    Errors: InputError for an unknown name, a file that is not YAML, an unknown key or a value that
    will not do.
    """
    return recipe_from(read_yaml(CONFIGS, name, "recipe", "see sinkscope lab list, or give"), name)


def recipe_from(settings: Any, where: str) -> TrainingRecipe:
    """A recipe from plain data, with defaults as in `TrainingRecipe`; unknown keys are refused."""
    recipe = validated(_READER, settings, where)
    if complaint := _complaint(recipe):
        raise InputError(f"{where}: {complaint}.")
    return recipe


MOST_PARAMETERS, MOST_STEPS = 10**15, 10**8  # beyond, sizes overflow and training has no end


def _complaint(recipe: TrainingRecipe) -> str:
    """What is wrong with the settings taken together, or nothing."""
    for name in (each.name for each in fields(recipe)):
        refuse_beyond(name, getattr(recipe, name))
    demand = recipe.demand
    sizes = ("vocabulary", "blocks", "width", "heads", "hidden", "context", "tokens_per_step")
    if small := [name for name in sizes if getattr(recipe, name) < 1]:
        return f"{small[0]} must be positive"
    rules = {
        "width must be a multiple of twice the heads": recipe.width % (2 * recipe.heads) != 0,
        "lengths must lie in 4 .. context and tokens_per_step": not all(
            4 <= n <= min(recipe.context, recipe.tokens_per_step) for n in recipe.lengths
        )
        or not recipe.lengths,
        f"no machine holds a model of these sizes, and none takes {MOST_STEPS:,} steps": (
            recipe.blocks * recipe.width * (recipe.width + recipe.hidden * max(1, recipe.experts))
            + recipe.vocabulary * recipe.width
            > MOST_PARAMETERS
            or recipe.steps >= MOST_STEPS
        ),
        "steps must be positive and checkpoints within them": recipe.steps < 1
        or not all(0 <= step <= recipe.steps for step in recipe.checkpoints),
        "mixtral wants experts, and active ones among them": recipe.family == "mixtral"
        and not 0 < recipe.active <= recipe.experts,
        f"the bundled tokenizer has a vocabulary of {BUNDLED_VOCABULARY}": recipe.data == "text"
        and recipe.tokenizer == "bundled"
        and recipe.vocabulary != BUNDLED_VOCABULARY,
        "first: any wants windows without BOS": recipe.first == "any"
        and (recipe.bos or recipe.packing != "windows"),
        "a demand wants heads and a block that the model has": demand is not None
        and not (
            demand.heads
            and all(0 <= h < recipe.heads for h in demand.heads)
            and 0 <= demand.from_block < recipe.blocks
        ),
        "attention and force_sink want the llama family": recipe.family != "llama"
        and (recipe.attention != "softmax" or recipe.force_sink != 0),
        "force_sink must leave channels for the other tokens": not (
            0 <= recipe.force_sink < recipe.width
        ),
        f"a demand wants attention to be one of {', '.join(FUSED)}": demand is not None
        and recipe.attention not in FUSED,
        "a demand wants windows that have one position zero": demand is not None
        and recipe.packing != "windows",
    }
    return next((rule for rule, broken in rules.items() if broken), "")


_READER = TypeAdapter(TrainingRecipe)
