"""`sinkscope lab`: models whose sink is known."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.errors import InputError

app = typer.Typer(
    help="Models whose sink is known by construction.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    "list",
    epilog="Examples:\n\n  sinkscope lab list\n\n  sinkscope lab list --json",
)
def list_mechanisms(json: common.Json = False, debug: common.Debug = False) -> None:
    """The mechanisms that can be built, with their families and expected verdict."""
    from sinkscope.subject.constructed import MECHANISMS

    rows = {name: _described(name) for name in MECHANISMS}
    if json:
        typer.echo(jsonlib.dumps(rows, indent=2))
        return
    for name, row in rows.items():
        typer.echo(f"{name:24} {row['verdict']:20} {', '.join(row['families'])}")


@app.command(
    epilog="Examples:\n\n"
    "  sinkscope lab build --mechanism p0-two-block --seed 7 --out D\n\n"
    "  sinkscope scan D --prompts random --json      the truth is in D/truth.json"
)
def build(
    mechanism: Annotated[str, typer.Option(help="One of sinkscope lab list.")],
    out: Annotated[Path, typer.Option(help="Folder for the model and its truth.json.")],
    seed: common.Seed = 0,
    family: Annotated[str | None, typer.Option(help="llama, mixtral, gpt2 or gpt_oss.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise level, 0 to 0.1.")] = None,
    debug: common.Debug = False,
) -> None:
    """Build one model with the answer written into its weights."""
    from transformers.utils import logging

    from sinkscope.subject.constructed import MECHANISMS, build_model, draw_spec

    logging.disable_progress_bar()
    if mechanism not in MECHANISMS:
        raise InputError(f"{mechanism!r} is not a mechanism; see sinkscope lab list.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already: choose another --out or remove it.")
    asked = {"family": family, "noise": noise}
    spec = draw_spec(mechanism, seed, **{k: v for k, v in asked.items() if v is not None})
    typer.echo(f"Built {build_model(spec, out)}; the truth is in {out / 'truth.json'}.")


def _described(name: str) -> dict:
    from sinkscope.subject.constructed import MECHANISMS, build_in_memory, draw_spec

    _, _, truth = build_in_memory(draw_spec(name, 0))
    return {"verdict": truth.verdict, "families": list(MECHANISMS[name])}
