"""`sinkscope trace`: how the sink is built."""

from __future__ import annotations

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, Out, options
from sinkscope.settings import LoadSettings, TraceSettings

EPILOG = """Examples:\n
  sinkscope trace                                  the bundled model\n
  sinkscope trace ./my-model --out traced          with a report: the circuit drawn\n
  sinkscope trace ./my-model --bos both --no-vocabulary --json"""


@options
def command(
    loading: LoadSettings,
    settings: TraceSettings,
    out: Out = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """How the sink is built: where P0 is recognised, who amplifies it, who reads it."""
    common.check(out)
    common.measure("trace", loading, settings, out, json)
