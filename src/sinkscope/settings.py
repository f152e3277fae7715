"""The settings of every command: each field once, with its default, its bounds and its meaning.

The meaning stands in the field list of the class docstring. The command line turns these fields
into its options and that list into their help (`cli/options.py`); every setting travels with the
result. Nothing heavy is imported here, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sinkscope.checked import Checked
from sinkscope.errors import InputError, OutOfResources

BUILTIN = "builtin"
ASSETS = Path(__file__).resolve().parent / "assets"  # the bundled model, series, excerpt, matrix
MOST_TOKENS = 1 << 28  # of prompts that are drawn, whose number a text does not bound
ONE_POLICY = ("as-is", "with", "without")  # of one set of prompts
BOS_POLICIES = (*ONE_POLICY, "both")
Settings = TypeVar("Settings")


def option(default: Any, **about: Any) -> Any:
    """A field whose option has an `at_least`, or another `name`; None: no option at all."""
    return field(default=default, metadata=about)


def field_docs(kind: type) -> dict[str, str]:
    """Field -> meaning, from the field lists in the docstrings of a class and of its bases.

    A field list has one field a line, or several that share a meaning: `name, name  meaning`, two
    spaces or more before the meaning. Lines that are indented further go on with it. Python 3.13
    strips the margin of a docstring, earlier ones do not.
    """
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        names: list[str] = []
        for line in inspect.cleandoc(vars(each).get("__doc__") or "").splitlines():
            entry = re.match(r"(\w+(?:, \w+)*) {2,}(\S.*)", line)
            if entry:
                names = entry[1].split(", ")
                found |= dict.fromkeys(names, entry[2].strip())
            elif names and line.startswith("  "):
                found |= dict.fromkeys(names, f"{found[names[0]]} {line.strip()}")
            else:
                names = []
    return found


def part_of(settings: Any, kind: type[Settings]) -> Settings:
    """The settings of one command out of those of several."""
    names = [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(settings, name) for name in names})


@dataclass(frozen=True)
class LoadSettings(Checked):
    """Which model, and how it is loaded.

    model              folder, .gguf file or Hub id of a causal model; default: the bundled model
    revision           Hub revision: branch, tag or commit
    dtype              dtype to compute in: float32, bfloat16 or float16
    device             where to run, such as cpu, cuda, cuda:1 or mps
    device_map         spread over devices, such as auto (needs accelerate)
    stream             hold one block in memory at a time, read from the folder when it runs
    tensor_parallel    spread every block over the processes of torchrun
    offline            never touch the network
    gguf_file          GGUF file in that folder or Hub repository
    allow_pickle       read pickle weights, which can run code
    trust_remote_code  run code that comes with the model
    """

    model: str | None = option(None, argument=True)
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    device_map: str | None = None
    stream: bool = False
    tensor_parallel: bool = False
    offline: bool = False
    gguf_file: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class PromptSettings(Checked):
    """Which prompts a command looks at; its own settings are added to these.

    text    text of the prompts: builtin, a .txt or .jsonl file, or hub:NAME for a Hub data set
    kind    kind of prompts: text, random (token ids) or repeat (one token repeated)
    n       number of prompts
    length  tokens in each prompt
    bos     BOS policy: as-is, with, without or both
    seed    seed of every random choice
    chat_template  render .jsonl lines with "messages" by the tokenizer's chat template

    Raises InputError for a BOS policy that there is not, OutOfResources for more drawn tokens than
    MOST_TOKENS.
    """

    text: str = BUILTIN
    kind: str = option("text", name="prompts")
    n: int = option(64, at_least=1)
    length: int = option(256, at_least=2)
    bos: str = "as-is"
    seed: int = option(0, at_least=0)
    chat_template: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bos not in BOS_POLICIES:
            raise InputError(f"BOS policy {self.bos!r} is not one of {', '.join(BOS_POLICIES)}.")
        if self.kind in ("random", "repeat") and self.n * self.length > MOST_TOKENS:
            raise OutOfResources(
                f"{self.n:,} prompts of {self.length:,} tokens are more than the {MOST_TOKENS:,} "
                "tokens that are drawn at a time."
            )


@dataclass(frozen=True)
class ScanSettings(PromptSettings):
    """What to scan with.

    reader     attention reader: auto, lean or exact
    untrained  compare with the same architecture untrained
    """

    reader: str = "auto"
    untrained: bool = True


@dataclass(frozen=True)
class TraceSettings(ScanSettings):
    """What to trace with.

    vocabulary  put the vocabulary at P0, item by item, or a random sample where it is large
    """

    vocabulary: bool = True


@dataclass(frozen=True)
class VerifySettings(PromptSettings):
    """What to verify with.

    rows      prompts that the tests are run on, the first of the n that the circuit is found on
    position  control position; also the target of sufficiency tests
    draws     random control sets per test
    budget    minutes to take at most; fewer prompts and tests where time is short, and it is said
    """

    rows: int = option(12, at_least=1)
    position: int = option(5, at_least=1)
    draws: int = option(20, at_least=1)
    budget: float | None = option(None, at_least=0)


@dataclass(frozen=True)
class RunSettings(VerifySettings, TraceSettings):
    """What to run with: the settings of `scan`, `trace` and `verify`.

    advise  answer what `advise` answers too, on eight of the prompts
    """

    advise: bool = False


@dataclass(frozen=True)
class MixSettings(PromptSettings):
    """What to measure mixing with.

    pairs        prompts in which a token is swapped, with every kind of swap
    swaps        what a token is replaced by: nearest, random
    paraphrases  a .jsonl file of paraphrase pairs, fields "text" and "paraphrase"
    longest      longest prompt of the length sweep; default: the model's maximum, at most 1,024
    circuit      trace the circuit and cut it
    jacobian     Jacobian norms by backward passes; on small models the path-sum bound too
    sweeps       sweep over length and over depth
    """

    pairs: int = option(32, at_least=1)
    swaps: tuple[str, ...] = option(("nearest", "random"), name=None)
    paraphrases: str | None = None
    longest: int | None = option(None, at_least=2)
    circuit: bool = True
    jacobian: bool = True
    sweeps: bool = True


@dataclass(frozen=True)
class AdviseSettings(PromptSettings):
    """What to advise on.

    length     tokens in each text; fewer where the positions of the model end before
    within     rise of the loss that is acceptable, nats a token
    questions  questions to answer, with commas between; default: all, which are bos, streaming,
               quantisation, fp16, repeats, heads, first-words, remedies
    """

    n: int = option(8, at_least=1)
    length: int = option(256, at_least=2)
    within: float = option(0.02, at_least=0)
    questions: str | None = None


@dataclass(frozen=True)
class TimelineSettings(PromptSettings):
    """What to measure in every checkpoint.

    bos           BOS policy: as-is, with or without
    first_blocks  blocks to load: a number, all, or auto (from the last checkpoint)
    dtype         dtype to compute in: float32, bfloat16 or float16; early checkpoints want float32
    device        where to run, such as cpu, cuda, cuda:1 or mps
    untrained     compare with the same architecture untrained

    Raises InputError for a number of blocks that is none.
    """

    n: int = option(16, at_least=1)
    length: int = option(128, at_least=8)
    first_blocks: str | int = "auto"
    dtype: str = "float32"
    device: str = "cpu"
    untrained: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        count = str(self.first_blocks)
        if count not in ("auto", "all") and not re.fullmatch("0*[1-9][0-9]*", count):
            raise InputError(f"--first-blocks {count!r} is neither auto, all nor a number above 0.")


@dataclass(frozen=True)
class CheckpointSettings(Checked):
    """Which checkpoints a timeline takes, and how it gets through them; no number depends on it.

    revisions    names of the checkpoints, in order, with commas between
    pattern      regular expression of the names, with a group (?P<step>..)
    workers      processes, or ray, or ray://address (needs sinkscope[ray])
    cache        folder of measured checkpoints; default: ~/.cache/sinkscope
    disk_budget  GB that downloaded weights may take at any time
    offline      never touch the network
    threads      torch threads of each task; results are equal byte for byte for equal threads
    """

    revisions: str | Sequence[str] | None = None
    pattern: str | None = None
    workers: str | int = "1"
    cache: str | Path | None = None
    disk_budget: float = option(20.0, at_least=0)
    offline: bool = False
    threads: int | None = option(None, name=None)


@dataclass(frozen=True)
class ReplicationSettings(Checked):
    """What a replication leaves open; length, BOS policy and kind of prompts are the paper's.

    text  text of the prompts, where the paper takes text
    n     number of prompts; None for as many as in the paper
    seed  seed of every random choice
    """

    text: str = BUILTIN
    n: int | None = None
    seed: int = 0
