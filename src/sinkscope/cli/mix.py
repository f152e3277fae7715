"""`sinkscope mix`: what the sink is for."""

from __future__ import annotations

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, Out, options
from sinkscope.settings import LoadSettings, MixSettings

EPILOG = """Examples:\n
  sinkscope mix                                    the bundled model\n
  sinkscope mix ./my-model --bos both --json       summary as JSON\n
  sinkscope mix ./my-model --pairs 64 --length 512 --out mixing-of-my-model\n
  sinkscope mix ./my-model --paraphrases pairs.jsonl --longest 4096"""


@options
def command(
    loading: LoadSettings,
    settings: MixSettings,
    out: Out = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What the sink is for: mixing and loss, with the sink and without it."""
    common.check(out)
    common.measure("mix", loading, settings, out, json)
