"""`sinkscope scan`: is there a sink, and where."""

from __future__ import annotations

from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, Out, options
from sinkscope.settings import LoadSettings, ScanSettings

EPILOG = """Examples:\n
  sinkscope scan                                   the bundled model\n
  sinkscope scan EleutherAI/pythia-160m --json     a Hub model, summary as JSON\n
  sinkscope scan ./my-model --length 256 --n 64 --bos both --out scan-of-my-model\n
  sinkscope scan ./my-model --expect sink          exit code 1 if there is none"""


@options
def command(
    loading: LoadSettings,
    settings: ScanSettings,
    out: Out = None,
    expect: Annotated[
        str | None,
        typer.Option(help="sink or no-sink: exit with 1 if the model turns out otherwise."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Is there an attention sink, in which heads, and how sure is that."""
    common.check(out, expect, common.SINK)
    common.measure("scan", loading, settings, out, json, expect)
