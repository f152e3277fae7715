"""`sinkscope timeline`: when did the circuit form, and has it settled."""

from __future__ import annotations

from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, Out, Seed, Untrained

EPILOG = """Examples:\n
  sinkscope timeline bundled                        the bundled series\n
  sinkscope timeline runs/llama-20m --workers 2     a folder of checkpoint-500, ..\n
  sinkscope timeline EleutherAI/pythia-160m --revisions step0,step512,step1000,step143000\n
  sinkscope timeline runs/a runs/b --first-blocks all --out two-runs     with losses\n
  sinkscope timeline runs/a --pattern 'run-(?P<step>[0-9]+)' --workers ray"""


def command(
    sources: Annotated[
        list[str],
        typer.Argument(help="Run folders, Hub ids, or bundled; or folders that are checkpoints."),
    ],
    revisions: Annotated[
        str | None, typer.Option(help="Names of the checkpoints, in order, with commas between.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Regular expression of the names, with a group (?P<step>..).")
    ] = None,
    first_blocks: Annotated[
        str,
        typer.Option(help="Blocks to load: auto (from the last checkpoint), all, or a number."),
    ] = "auto",
    workers: Annotated[
        str, typer.Option(help="Processes, or ray, or ray://address (needs sinkscope[ray]).")
    ] = "1",
    cache: Annotated[
        str | None,
        typer.Option(help="Folder of measured checkpoints. Default: ~/.cache/sinkscope."),
    ] = None,
    disk_budget: Annotated[
        float, typer.Option(min=0, help="GB that downloaded weights may take at any time.")
    ] = 20.0,
    text: Annotated[
        str, typer.Option(help="builtin, a .txt or .jsonl file, or hub:NAME for a Hub data set.")
    ] = "builtin",
    kind: Annotated[
        str, typer.Option("--prompts", help="text, random (token ids) or repeat.")
    ] = "text",
    n: Annotated[int, typer.Option("--n", min=1, help="Number of prompts.")] = 16,
    length: Annotated[int, typer.Option(min=8, help="Tokens in each prompt.")] = 128,
    bos: Annotated[str, typer.Option(help="BOS policy: as-is, with or without.")] = "as-is",
    seed: Seed = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ..")] = "cpu",
    untrained: Untrained = True,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    out: Out = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """When the circuit formed, where it concentrated, and whether it has settled."""
    common.check(out)
    if offline:
        import os

        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is first imported
    from sinkscope.training_runs.pilot import TimelineSettings
    from sinkscope.training_runs.timeline import timeline

    looking = TimelineSettings(
        text=text,
        kind=kind,
        n=n,
        length=length,
        bos=bos,
        seed=seed,
        first_blocks=first_blocks,
        dtype=dtype,
        device=device,
        untrained=untrained,
    )
    with common.progress_bar() as progress:
        result = timeline(
            sources,
            looking,
            revisions=revisions.split(",") if revisions else None,
            pattern=pattern,
            workers=workers,
            cache=cache,
            disk_budget=disk_budget,
            offline=offline,
            progress=progress,
        )
    common.save_and_show(result, out, json)


command.__name__ = "timeline"
