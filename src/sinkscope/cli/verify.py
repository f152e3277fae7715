"""`sinkscope verify`: is the circuit what makes the sink."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, Out, options
from sinkscope.errors import InputError
from sinkscope.settings import LoadSettings, ReplicationSettings, VerifySettings, part_of

EPILOG = """Examples:\n
  sinkscope verify                                 the bundled model\n
  sinkscope verify ./my-model --out verified       every test beside its control\n
  sinkscope verify ./my-model --expect p0-circuit  exit code 1 for any other verdict\n
  sinkscope verify gpt2 --replication ran-milo-2026     published numbers beside measured ones"""


@options
def command(
    loading: LoadSettings,
    settings: VerifySettings,
    replication: Annotated[
        str | None,
        typer.Option(
            help="A published experiment instead, such as ran-milo-2026; docs/replications.md "
            "lists them. Length, BOS policy and kind of prompts are then the paper's."
        ),
    ] = None,
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
    if replication is not None:
        _replicate(replication, loading, settings, out, expect, json)
        return
    common.measure("verify", loading, settings, out, json, expect)


def _replicate(
    name: str,
    loading: LoadSettings,
    settings: VerifySettings,
    out: Path | None,
    expect: str | None,
    json: bool,
) -> None:
    """Run a published experiment; there is no verdict to expect of it."""
    from sinkscope.replications.run import replication_of, run

    if expect is not None:
        raise InputError("--replication reaches no verdict, so it takes no --expect.")
    replication_of(name)  # before a model is loaded for an unknown one
    subject = common.load_subject(loading)
    with common.progress_bar() as progress:
        result = run(name, subject, part_of(settings, ReplicationSettings), progress=progress)
    common.save_and_show(result, out, json)
