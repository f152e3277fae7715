"""`sinkscope mix`: what the sink is for."""

from __future__ import annotations

from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, OnModel, Out, on_model

EPILOG = """Examples:\n
  sinkscope mix                                    the bundled model\n
  sinkscope mix ./my-model --bos both --json       summary as JSON\n
  sinkscope mix ./my-model --pairs 64 --length 512 --out mixing-of-my-model\n
  sinkscope mix ./my-model --paraphrases pairs.jsonl --longest 4096"""


@on_model
def command(
    asked: OnModel,
    pairs: Annotated[int, typer.Option(min=1, help="Prompts in which a token is swapped.")] = 32,
    paraphrases: Annotated[
        str | None,
        typer.Option(help='A .jsonl file of pairs, fields "text" and "paraphrase".'),
    ] = None,
    longest: Annotated[
        int | None,
        typer.Option(min=2, help="Longest prompt of the length sweep. Default: at most 1,024."),
    ] = None,
    circuit: Annotated[
        bool, typer.Option("--circuit/--no-circuit", help="Trace the circuit and cut it.")
    ] = True,
    jacobian: Annotated[
        bool, typer.Option("--jacobian/--no-jacobian", help="Jacobian norms by backward passes.")
    ] = True,
    sweeps: Annotated[
        bool, typer.Option("--sweeps/--no-sweeps", help="Sweep over length and over depth.")
    ] = True,
    out: Out = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What the sink is for: mixing and loss, with the sink and without it."""
    common.check(out)
    subject = common.load_subject(asked)
    from sinkscope.mixing.mix import MixSettings, mix

    settings = MixSettings(
        **asked.prompts,
        pairs=pairs,
        paraphrases=paraphrases,
        longest=longest,
        circuit=circuit,
        jacobian=jacobian,
        sweeps=sweeps,
    )
    with common.progress_bar() as progress:
        result = mix(subject, settings, progress=progress)
    common.save_and_show(result, out, json)


command.__name__ = "mix"
