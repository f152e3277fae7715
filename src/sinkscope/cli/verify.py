"""`sinkscope verify`: is the circuit what makes the sink."""

from __future__ import annotations

from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, OnModel, Out, on_model

EPILOG = """Examples:\n
  sinkscope verify                                 the bundled model\n
  sinkscope verify ./my-model --out verified       every test beside its control\n
  sinkscope verify ./my-model --expect p0-circuit  exit code 1 for any other verdict"""


@on_model
def command(
    asked: OnModel,
    rows: Annotated[int, typer.Option(min=1, help="Prompts that the tests are run on.")] = 16,
    position: Annotated[
        int, typer.Option(min=1, help="The ordinary position of controls and of transfers.")
    ] = 5,
    draws: Annotated[
        int, typer.Option(min=1, help="Random sets in tests that compare with such.")
    ] = 20,
    out: Out = None,
    expect: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(common.VERDICTS)}: exit with 1 for any other verdict."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Test the circuit by intervention, beside controls, and reach a verdict."""
    common.check(out, expect, common.VERDICTS)
    subject = common.load_subject(asked)
    from sinkscope.causal.verify import VerifySettings, verify

    settings = VerifySettings(**asked.prompts, rows=rows, position=position, draws=draws)
    with common.progress_bar() as progress:
        result = verify(subject, settings, progress=progress)
    common.save_and_show(result, out, json)
    common.exit_on_expect(result, expect)


command.__name__ = "verify"
