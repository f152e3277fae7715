"""`sinkscope trace`: how the sink is built."""

from __future__ import annotations

from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, OnModel, Out, Reader, Untrained, on_model

EPILOG = """Examples:\n
  sinkscope trace                                  the bundled model\n
  sinkscope trace ./my-model --out traced          with a report: the circuit drawn\n
  sinkscope trace ./my-model --bos both --no-vocabulary --json"""


@on_model
def command(
    asked: OnModel,
    reader: Reader = "auto",
    untrained: Untrained = True,
    vocabulary: Annotated[
        bool,
        typer.Option("--vocabulary/--no-vocabulary", help="Put every vocabulary item at P0."),
    ] = True,
    out: Out = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """How the sink is built: where P0 is recognised, who amplifies it, who reads it."""
    common.check(out)
    subject = common.load_subject(asked)
    from sinkscope.circuit.trace import TraceSettings, trace

    settings = TraceSettings(
        **asked.prompts, reader=reader, untrained=untrained, vocabulary=vocabulary
    )
    with common.progress_bar() as progress:
        result = trace(subject, settings, progress=progress)
    common.save_and_show(result, out, json)


command.__name__ = "trace"
