"""What a replication is: the rows of a published experiment, measured on any model.

A row says what is edited, what is measured, and which numbers were published for which checkpoint.
Marks tell where a published number was read:

    [S]     the paper itself
    [2nd]   notes of others on the paper
    [COMM]  an independent replication, not the authors'
    [CODE]  the authors' code
    [MEM]   from memory, not looked up again
    [INF]   inferred here
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sinkscope.intervene.edits.base import Edit
from sinkscope.result import Measured

if TYPE_CHECKING:
    from sinkscope.replications.bench import Bench
    from sinkscope.subject.load import Subject


@dataclass(frozen=True)
class PublishedModel:
    """A published model, told by its name and its size: a name alone may be anyone's."""

    id: str
    blocks: int
    width: int

    def is_of(self, subject: Subject) -> bool:
        """Whether the subject bears this name (its last part) and has this size."""
        name = str(subject.identity.get("id", "")).rstrip("/").rpartition("/")[2]
        anatomy = subject.anatomy
        size = len(anatomy.blocks), anatomy.hidden_size
        return name.lower() == self.id.rpartition("/")[2].lower() and size == (
            self.blocks,
            self.width,
        )


@dataclass(frozen=True)
class Published:
    """One published number: of which quantity, for which checkpoint, and how it is known."""

    value: float | str
    of: str
    checkpoint: PublishedModel
    mark: str


@dataclass
class RowResult:
    """What a row measured: quantity -> value, the edits, and a remark."""

    values: dict[str, Measured]
    edits: list[Edit] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class ReplicationRow:
    """One row of a replication. `measure` raises Unsupported where a model cannot be asked this."""

    key: str
    name: str
    measure: Callable[[Bench], RowResult]
    published: tuple[Published, ...] = ()
    control: bool = False


@dataclass(frozen=True)
class Replication:
    """One published experiment.

    prompts  n, length, bos and kind as published; text is the user's
    metric   what is measured, in one sentence
    differs  what is not as published, in one sentence
    """

    name: str
    paper: str
    title: str
    prompts: dict[str, Any]
    metric: str
    rows: tuple[ReplicationRow, ...]
    differs: str = ""

    @property
    def checkpoints(self) -> list[PublishedModel]:
        """The models that numbers were published for, in order."""
        named = [one.checkpoint for row in self.rows for one in row.published]
        return list(dict.fromkeys(named))


def published(
    of: str, mark: str, numbers: Mapping[PublishedModel, float | str]
) -> tuple[Published, ...]:
    """Published numbers of one quantity for several checkpoints."""
    return tuple(Published(value, of, one, mark) for one, value in numbers.items())


GPT2 = PublishedModel("openai-community/gpt2", 12, 768)
GPT2_MEDIUM = PublishedModel("openai-community/gpt2-medium", 24, 1024)
GPT2_LARGE = PublishedModel("openai-community/gpt2-large", 36, 1280)
GPT2_XL = PublishedModel("openai-community/gpt2-xl", 48, 1600)
NEO_125M = PublishedModel("EleutherAI/gpt-neo-125m", 12, 768)
NEO_1_3B = PublishedModel("EleutherAI/gpt-neo-1.3B", 24, 2048)
NEO_2_7B = PublishedModel("EleutherAI/gpt-neo-2.7B", 32, 2560)
OPT_125M = PublishedModel("facebook/opt-125m", 12, 768)
OPT_1_3B = PublishedModel("facebook/opt-1.3b", 24, 2048)
OPT_2_7B = PublishedModel("facebook/opt-2.7b", 32, 2560)
OPT_6_7B = PublishedModel("facebook/opt-6.7b", 32, 4096)
OPT_13B = PublishedModel("facebook/opt-13b", 40, 5120)
QWEN25_0_5B = PublishedModel("Qwen/Qwen2.5-0.5B", 24, 896)
QWEN25_1_5B = PublishedModel("Qwen/Qwen2.5-1.5B", 28, 1536)
QWEN25_3B = PublishedModel("Qwen/Qwen2.5-3B", 36, 2048)
QWEN25_7B = PublishedModel("Qwen/Qwen2.5-7B", 28, 3584)
QWEN25_14B = PublishedModel("Qwen/Qwen2.5-14B", 48, 5120)
LLAMA2_7B = PublishedModel("meta-llama/Llama-2-7b-hf", 32, 4096)
LLAMA2_13B = PublishedModel("meta-llama/Llama-2-13b-hf", 40, 5120)
LLAMA3_8B = PublishedModel("meta-llama/Meta-Llama-3-8B", 32, 4096)
LLAMA31_8B = PublishedModel("meta-llama/Llama-3.1-8B", 32, 4096)
LLAMA31_70B = PublishedModel("meta-llama/Llama-3.1-70B", 80, 8192)
LLAMA31_405B = PublishedModel("meta-llama/Llama-3.1-405B", 126, 16384)
MISTRAL_7B_01 = PublishedModel("mistralai/Mistral-7B-v0.1", 32, 4096)
MISTRAL_7B_03 = PublishedModel("mistralai/Mistral-7B-v0.3", 32, 4096)
PYTHIA_410M = PublishedModel("EleutherAI/pythia-410m", 24, 1024)
