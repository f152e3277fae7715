"""`sinkscope models`: which families are supported, and what was verified."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json
from sinkscope.errors import InputError
from sinkscope.files import expanded
from sinkscope.settings import ASSETS

EXAMPLES = """
  sinkscope models                          what the committed check found
  sinkscope models --json
  sinkscope models --verify llama gpt_oss   check these families here and now
  sinkscope models --verify --out m.json    check every family; takes minutes"""

MATRIX = ASSETS / "support.json"


def command(
    types: Annotated[
        list[str] | None, typer.Argument(help="Model types; default all.", show_default=False)
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check here and now, with tiny random models.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for the result of --verify.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Support matrix: family, reader, and what was verified."""
    common.check(None if out is None else expanded(out).parent)
    matrix = _verify(types) if verify else jsonlib.loads(MATRIX.read_text(encoding="utf-8"))
    if types:
        unknown = [name for name in types if name not in matrix["types"]]
        if unknown:
            raise InputError(
                f"{', '.join(unknown)} is not a causal model type known here; see sinkscope models."
            )
        matrix["types"] = {name: matrix["types"][name] for name in types}
    text = jsonlib.dumps(matrix, indent=1) + "\n"
    if out is not None:
        from sinkscope.files import write_whole

        write_whole(expanded(out), text.encode())
    if json:
        sys.stdout.write(text)
    else:
        _show(matrix)


def _verify(types: list[str] | None) -> dict:
    import warnings

    from transformers.utils import logging

    from sinkscope.observe.matrix import all_types, verify_types

    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    unknown = sorted(set(types or []) - set(all_types()))
    if unknown:
        raise InputError(f"{', '.join(unknown)} is not a causal model type of this transformers.")
    with common.progress_bar() as progress:
        return verify_types(types or all_types(), progress)


def _show(matrix: dict) -> None:
    """Families by reader; those of which something was not verified, with what and why."""
    from rich.console import Console
    from rich.text import Text

    from sinkscope.report.lines import hanging, print_lines
    from sinkscope.report.support import support_lines

    console = Console()
    for line in support_lines(matrix):
        indent = "  " if line.startswith("  ") else ""
        print_lines(map(Text, hanging(indent, line.strip(), console.width)), console)
