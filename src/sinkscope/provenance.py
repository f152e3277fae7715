"""What every result says of where its numbers come from: model, prompts, versions, settings."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

import sinkscope
from sinkscope.result import Environment, ModelInfo, PromptInfo, Summary
from sinkscope.schema import Made
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

IDENTITY = ("id", "revision", "architecture", "weights_sha256", "parameters")


def new_summary(
    subject: Subject, prompts: Sequence[Prompts], command: dict[str, Any], seed: int = 0
) -> Summary:
    """A summary that holds no finding yet.

    prompts  one for each BOS policy: the whole set, also where a command uses a part of it, so
             that the results of several commands on the same prompts can be merged
    command  name and settings
    """
    first = prompts[0]
    return Summary(
        model=ModelInfo(
            **{key: subject.identity[key] for key in IDENTITY},
            weights=subject.identity.get("weights"),
            adapter_of=subject.identity.get("adapter_of"),
        ),
        prompts=PromptInfo(
            kind=first.kind,
            n=len(first),
            length=first.length,
            sha256={each.bos: each.sha256 for each in prompts},
            positions={each.bos: each.positions for each in prompts},
            source=first.source,
        ),
        environment=environment(subject.identity, seed),
        command=command,
    )


def made(started: float, arguments: Sequence[str]) -> Made | None:
    """What repeats a command, and what it took.

    started    seconds since the epoch
    arguments  of the command line, without the program

    None where SOURCE_DATE_EPOCH is set: two runs of a command then write the same bytes.
    """
    if os.environ.get("SOURCE_DATE_EPOCH"):
        return None
    date = datetime.datetime.fromtimestamp(started, datetime.timezone.utc)
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return Made(
        date=date.isoformat(timespec="seconds"),
        seconds=round(time.time() - started, 1),
        peak_memory=_peak(),
        peak_gpu_memory=gpu,
        command=shlex.join(["sinkscope", *arguments]),
    )


def _peak() -> int | None:
    """Most memory that this process held, bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def conditions(dtype: str, device: str, threads: int) -> str:
    """What a number depends on beside content and settings, as text: for the keys of caches."""
    import transformers

    return json.dumps([dtype, device, threads, torch.__version__, transformers.__version__])


def environment(identity: dict[str, Any], seed: int) -> Environment:
    """Versions and settings that numbers depend on."""
    import transformers

    return Environment(
        sinkscope=sinkscope.__version__,
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=sys.version.split()[0],
        platform=f"{platform.system()} {platform.machine()}",
        device=identity["device"],
        dtype=identity["dtype"],
        seed=seed,
        threads=torch.get_num_threads(),
    )
