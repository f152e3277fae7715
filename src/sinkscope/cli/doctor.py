"""`sinkscope doctor`: versions, kernels, and a self-check of the readers on this machine."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer

from sinkscope.cli.options import Debug, Json

EXAMPLES = """
  sinkscope doctor
  sinkscope doctor --device cuda --json"""


def command(
    device: Annotated[str, typer.Option(help="Device to check: cpu, cuda, ..")] = "cpu",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check versions, kernels and readers on this machine."""
    from sinkscope.observe.selfcheck import self_check

    report = self_check(device)
    if json:
        typer.echo(jsonlib.dumps(report, indent=2))
    else:
        for name, value in report["versions"].items():
            typer.echo(f"{name:14} {value}")
        for check in report["checks"]:
            typer.echo(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['detail']}")
    if not all(check["ok"] for check in report["checks"]):
        raise typer.Exit(1)
