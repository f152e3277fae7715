"""`mix`: what the sink is for, with the sink, without it, and with a control instead."""

from __future__ import annotations

import dataclasses
from typing import Any

from sinkscope.frame import Progress, chosen_prompts, result_of, silent
from sinkscope.mixing.arrays import mix_dataset
from sinkscope.mixing.measured import measure
from sinkscope.mixing.summary import mix_summary
from sinkscope.progress import shown
from sinkscope.result import Result
from sinkscope.settings import MixSettings
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


@shown
def mix(
    subject: Subject,
    settings: MixSettings | None = None,
    *,
    prompts: Prompts | None = None,
    progress: Progress = silent,
    **changes: Any,
) -> Result:
    """Measure how much positions mix, and what becomes of that when the sink is taken away.

    settings, changes  a MixSettings, or its fields as keywords: mix(subject, pairs=16, bos="both")
    prompts            ready-made Prompts instead of what the settings describe
    progress           called as progress(label, done, total); by default a bar

    Returns a Result with one group for each BOS policy. Raises InputError, and Unsupported for a
    model whose attention cannot be reached.
    """
    settings = dataclasses.replace(settings or MixSettings(), **changes)
    chosen = chosen_prompts(subject, settings, prompts)
    found = [measure(subject, each, settings, progress) for each in chosen]
    return result_of("mix", subject, settings, chosen, found, mix_summary, mix_dataset)
