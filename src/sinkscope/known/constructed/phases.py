"""P0 circuits that come and go along depth: written, read, taken back, and written again."""

from __future__ import annotations

from typing import Any

from sinkscope.known.constructed import circuit
from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.plan import Plan
from sinkscope.known.constructed.truth import Truth


def write_phases(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Every phase of the specification; the truth's own keys are those of the most read one.

    The blocks of the specification write and take back in turn. The attention of a block that
    takes back still reads, since its MLP comes behind it.
    """
    depth, turns = plan.spec.depth, plan.spec.blocks
    size = circuit.amplified_size(plan)
    for number, rise in enumerate(turns[::2]):
        fall = turns[2 * number + 1] if 2 * number + 1 < len(turns) else None
        along = plan.second if number else plan.first
        writers = circuit.amplify_flag(canvas, plan, rise, [0], size, along)
        takers = [] if fall is None else circuit.take_back(canvas, plan, fall, size, along)
        last = depth - 1 if fall is None else fall
        heads = circuit.read_sink(canvas, plan, blocks=range(rise + 1, last + 1), along=along)
        channels = along.nonzero().flatten()
        truth.phases.append(
            {
                # recognition makes P0 longer by a fifth, and the norm counts that in
                "rise": [rise if number else 0, rise],
                "fall": None if fall is None else [fall, fall],
                "writers": [f"{rise}.mlp"],
                "takers": [] if fall is None else [f"{fall}.mlp"],
                "writing_neurons": writers,
                "taking_neurons": takers,
                "reading_heads": heads,
                "channels": channels.tolist(),
                "direction": along[channels].tolist(),
            }
        )
        truth.reading_heads += heads
    main = most_read(truth)
    truth.writing_neurons = main["writing_neurons"]
    truth.channels, truth.direction = main["channels"], main["direction"]
    truth.amplifying_blocks = main["rise"][1:]


def most_read(truth: Truth) -> dict[str, Any]:
    """The phase that most heads read, the first of equal ones."""
    return max(truth.phases, key=lambda phase: len(phase["reading_heads"]))
