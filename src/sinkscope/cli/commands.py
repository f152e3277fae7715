"""The commands that look at a model: `run`, `scan`, `trace`, `verify`, `mix`, .."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.expect import FIGURES, SINK, VERDICTS
from sinkscope.cli.options import Showing, options
from sinkscope.errors import InputError
from sinkscope.pace import stages_of
from sinkscope.settings import (
    AdviseSettings,
    CheckpointSettings,
    LoadSettings,
    MixSettings,
    ReplicationSettings,
    RunSettings,
    ScanSettings,
    TimelineSettings,
    TraceSettings,
    VerifySettings,
    part_of,
)

if TYPE_CHECKING:
    from sinkscope.frame import Progress
    from sinkscope.result import Result

# in the order of the help; each is a function below
EXAMPLES = {
    "run": """
  sinkscope run                                  the bundled model
  sinkscope run path/to/model --out D            a local model
  sinkscope run path/to/model --budget 10        ten minutes at most
  sinkscope run Qwen/Qwen2.5-0.5B --bos both --dtype bfloat16 --device cuda
  sinkscope run ./my-model --expect p0-circuit   exit code 1 for another verdict""",
    "scan": """
  sinkscope scan                                 the bundled model
  sinkscope scan EleutherAI/pythia-160m --json   a Hub model, summary as JSON
  sinkscope scan ./my-model --length 256 --n 64 --bos both --out my-scan
  sinkscope scan ./my-model --expect sink        exit code 1 if there is none""",
    "trace": """
  sinkscope trace                                the bundled model
  sinkscope trace ./my-model --out traced        with a report, circuit drawn
  sinkscope trace ./my-model --bos both --no-vocabulary --json""",
    "verify": """
  sinkscope verify                               the bundled model
  sinkscope verify ./my-model --out verified     every test beside its control
  sinkscope verify ./my-model --expect p0-circuit
  sinkscope verify gpt2 --replication ran-milo-2026""",
    "timeline": """
  sinkscope timeline bundled                     the bundled series
  sinkscope timeline runs/my-run --workers 2     a folder of checkpoint-500, ..
  sinkscope timeline EleutherAI/pythia-160m --revisions step0,step512,step1000
  sinkscope timeline runs/a runs/b --first-blocks all --out two-runs
  sinkscope timeline runs/a --pattern 'run-(?P<step>[0-9]+)' --workers ray""",
    "mix": """
  sinkscope mix                                  the bundled model
  sinkscope mix ./my-model --bos both --json     summary as JSON
  sinkscope mix ./my-model --pairs 64 --length 512 --out mixed
  sinkscope mix ./my-model --paraphrases pairs.jsonl --longest 4096""",
    "advise": """
  sinkscope advise                               the bundled model
  sinkscope advise ./my-model --out advice --model-card CARD.md
  sinkscope advise ./my-model --questions bos,streaming
  sinkscope advise ./my-model --gate 'kv-keep<=4' --gate bos=needed""",
}


@options
def run(
    loading: LoadSettings,
    settings: RunSettings,
    showing: Showing,
    expect: Annotated[
        str | None,
        typer.Option(
            help="sink, no-sink, a verdict, or a bound such as late-share<0.3 or heads>=8: exit "
            "with 1 if it turns out otherwise."
        ),
    ] = None,
) -> None:
    """Scan a model, trace its circuit, test it, and write a report."""
    if showing.out is None:
        out = Path(f"sinkscope-run-{common.name_of(loading.model)}")
        showing = dataclasses.replace(showing, out=out)
    known = (*SINK, *VERDICTS, *FIGURES)
    common.measure("run", loading, settings, showing, expect, known)


@options
def scan(
    loading: LoadSettings,
    settings: ScanSettings,
    showing: Showing,
    expect: Annotated[
        str | None,
        typer.Option(
            help="sink, no-sink, or a bound such as late-share<0.3 or heads>=8: exit with 1 if it "
            "turns out otherwise."
        ),
    ] = None,
) -> None:
    """Is there an attention sink, in which heads, and how sure is that."""
    common.measure("scan", loading, settings, showing, expect, (*SINK, *FIGURES))


@options
def trace(
    loading: LoadSettings,
    settings: TraceSettings,
    showing: Showing,
) -> None:
    """How the sink is built: where P0 is recognised, who amplifies it, who reads it."""
    common.measure("trace", loading, settings, showing)


@options
def verify(
    loading: LoadSettings,
    settings: VerifySettings,
    showing: Showing,
    replication: Annotated[
        str | None,
        typer.Option(
            help="A published experiment instead, such as ran-milo-2026; docs/replications.md "
            "lists them. Length, BOS policy and kind of prompts are then the paper's."
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(VERDICTS)}; several with + between: exit with 1 for any other "
            "verdict."
        ),
    ] = None,
) -> None:
    """Test the circuit by intervention, beside controls, and reach a verdict."""
    if replication is None:
        common.measure("verify", loading, settings, showing, expect, VERDICTS)
        return
    common.check_showing(showing)
    from sinkscope.replications.run import replication_of
    from sinkscope.replications.run import run as replicate

    if expect is not None:
        raise InputError("--replication reaches no verdict, so it takes no --expect.")
    replication_of(replication)  # before a model is loaded for an unknown one
    prompts = part_of(settings, ReplicationSettings)

    def work(progress: Progress) -> Result:
        subject = common.opened(loading, showing, progress)
        return replicate(replication, subject, prompts, progress=progress)

    common.carry_out(work, showing)


@options
def timeline(
    sources: Annotated[
        list[str],
        typer.Argument(help="Run folders, Hub ids, or bundled; or folders that are checkpoints."),
    ],
    checkpoints: CheckpointSettings,
    settings: TimelineSettings,
    showing: Showing,
) -> None:
    """When the circuit formed, where it concentrated, and whether it has settled."""
    common.check_showing(showing)
    common.stay_offline(checkpoints.offline)
    from sinkscope.training_runs.timeline import timeline as follow

    stages = stages_of("timeline", vars(settings), len(sources), writes=showing.out is not None)
    common.carry_out(
        lambda progress: follow(sources, settings, checkpoints, progress=progress), showing, stages
    )


@options
def mix(
    loading: LoadSettings,
    settings: MixSettings,
    showing: Showing,
) -> None:
    """What the sink is for: mixing and loss, with the sink and without it."""
    common.measure("mix", loading, settings, showing)


@options
def advise(
    loading: LoadSettings,
    settings: AdviseSettings,
    showing: Showing,
    gate: Annotated[
        list[str] | None,
        typer.Option(help="What an answer must be, such as 'kv-keep<=4'; exit with 1 if not."),
    ] = None,
    model_card: Annotated[
        Path | None, typer.Option(help="File for a section of a model card, in Markdown.")
    ] = None,
) -> None:
    """What to do about the sink: BOS, short caches, quantisation, float16, and lines to paste."""
    from sinkscope.advice import gates
    from sinkscope.advice.advise import questions
    from sinkscope.ranks import rank

    wanted = gates.parse(gate or (), questions(settings.questions))
    result = common.measure("advise", loading, settings, showing)
    if model_card is not None and not rank():
        from sinkscope.files import write_whole
        from sinkscope.report.advise.card import model_card as card

        write_whole(model_card, card(result).encode())
    failures = [why for each in wanted if (why := each.failure(result.summary.advise))]
    if failures:
        print(f"sinkscope: not met: {'; '.join(failures)}.", file=sys.stderr)
        raise typer.Exit(1)
