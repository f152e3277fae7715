"""How long a plain pass over one prompt takes, so that a budget can be shared out."""

from __future__ import annotations

import torch

from sinkscope.observe.attention import run_model
from sinkscope.observe.registry import evaluation
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.spread import clock_of


def seconds_a_prompt(subject: Subject, prompts: Prompts) -> float:
    """Seconds of a plain pass over one of these prompts, the second time it is run."""
    one = prompts.take(slice(0, 1))
    seconds, clock = 0.0, clock_of(subject.model)
    with torch.no_grad(), evaluation(subject.model):
        for _ in range(2):
            start = clock()
            logits = run_model(subject, one, logits=True)
            float(logits.flatten()[0])  # waits for the device
            seconds = clock() - start
    return seconds
