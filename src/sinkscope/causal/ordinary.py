"""The ordinary position p that controls and sufficiency tests use, and the prompts it is in."""

from __future__ import annotations

import dataclasses

from sinkscope.circuit.model import Circuit
from sinkscope.errors import InputError
from sinkscope.settings import VerifySettings
from sinkscope.subject.prompts import Prompts

SHORTEST = 24  # tokens; below that there is no room for an ordinary position and late queries


def ordinary_position(
    prompts: Prompts, circuit: Circuit, settings: VerifySettings
) -> tuple[VerifySettings, list[str]]:
    """The settings with a position p that has no part in the sink, and a note where that is new.

    What is given to p, or exchanged with it, says nothing where p is a sink as P0 is.
    """
    asked = settings.position
    behind = range(asked, int(prompts.lengths.min()) // 2)
    at = next((p for p in behind if p not in circuit.positions), asked)
    if at == asked:
        return settings, []
    note = f"Position {asked} shares the sink with position zero; position {at} was taken instead."
    return dataclasses.replace(settings, position=at), [note]


def rows_to_test(prompts: Prompts, settings: VerifySettings) -> Prompts:
    """As many prompts as are asked for. Raises InputError where they have no room for p."""
    shortest = int(prompts.lengths[: settings.rows].min())
    if shortest < SHORTEST or settings.position >= shortest // 2 or settings.position < 1:
        raise InputError(
            f"prompts of {shortest} tokens are too short to verify on: at least {SHORTEST} are "
            f"needed, and position {settings.position} must lie in their first half behind P0."
        )
    return prompts.take(slice(0, settings.rows))
