"""The options of every command that looks at a model, in one place.

    @on_model
    def command(asked: OnModel, reader: Reader = "auto", ...) -> None: ...

gives `command` the fields of OnModel as options of its own, before those it names itself.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for summary.json, arrays.nc and report.html.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
Reader = Annotated[str, typer.Option(help="Attention reader: auto, lean or exact.")]
Untrained = Annotated[
    bool,
    typer.Option(
        "--untrained/--no-untrained", help="Compare with the same architecture untrained."
    ),
]


@dataclass(frozen=True)
class OnModel:
    """Which model, and which prompts."""

    model: Annotated[
        str | None,
        typer.Argument(
            help="Folder, .gguf file or Hub id of a causal model. Default: the bundled model.",
            show_default=False,
        ),
    ] = None
    revision: Annotated[str | None, typer.Option(help="Hub revision: branch, tag or commit.")] = (
        None
    )
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32"
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ..")] = "cpu"
    device_map: Annotated[
        str | None, typer.Option(help="Spread over devices, such as auto (needs accelerate).")
    ] = None
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False
    gguf_file: Annotated[
        str | None, typer.Option(help="GGUF file in that folder or Hub repository.")
    ] = None
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pickle weights, which can run code.")
    ] = False
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False
    text: Annotated[
        str, typer.Option(help="builtin, a .txt or .jsonl file, or hub:NAME for a Hub data set.")
    ] = "builtin"
    kind: Annotated[
        str,
        typer.Option("--prompts", help="text, random (token ids) or repeat (one token repeated)."),
    ] = "text"
    n: Annotated[int, typer.Option("--n", min=1, help="Number of prompts.")] = 64
    length: Annotated[int, typer.Option(min=2, help="Tokens in each prompt.")] = 256
    bos: Annotated[str, typer.Option(help="BOS policy: as-is, with, without or both.")] = "as-is"
    seed: Seed = 0

    @property
    def loading(self) -> dict[str, Any]:
        """What says which model, as keywords."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in PROMPTS}

    @property
    def prompts(self) -> dict[str, Any]:
        """What says which prompts, as keywords; settings of a command are named alike."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k in PROMPTS}


PROMPTS = ("text", "kind", "n", "length", "bos", "seed")


def on_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, whose first parameter is an OnModel, the fields of OnModel as options."""
    hints = get_type_hints(OnModel, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(OnModel)
    ]
    own_hints = get_type_hints(command, include_extras=True)
    own = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=own_hints[one.name])
        for one in list(inspect.signature(command).parameters.values())[1:]
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(OnModel(**{one.name: given.pop(one.name) for one in shared}), **given)

    wrapped.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {}
    return wrapped
