"""Which parts make which mechanism; every builder records what it wrote in the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

from sinkscope.known.constructed import beside, circuit, positions, several
from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.noise import fill
from sinkscope.known.constructed.phases import write_phases
from sinkscope.known.constructed.plan import BOS, DELIMITERS, MARK, Plan
from sinkscope.known.constructed.record import (
    all_experts,
    amplify,
    amplify_mark,
    massive,
    position_table,
    read,
    recognise,
    settle,
)
from sinkscope.known.constructed.truth import Truth

SECONDARY_SPIKE = 3.0  # cosine 0.95 to the sink direction
SECONDARY_TOKENS = 2


def write_mechanism(canvas: Canvas, plan: Plan) -> Truth:
    """Write all weights of a model whose canvas is cleared, and say what they do."""
    channels = plan.sink.nonzero().flatten()
    spec = plan.spec
    truth = Truth(
        mechanism=spec.mechanism,
        family=spec.family,
        seed=spec.seed,
        noise=spec.noise,
        verdict="none",
        spec=spec.as_dict(),
        channels=channels.tolist(),
        direction=plan.sink[channels].tolist(),
    )
    fill(canvas, plan, alike=spec.mechanism != "uniform")
    circuit.embed(canvas, plan)
    BUILDERS[spec.mechanism](canvas, plan, truth)
    return truth


def _p0_circuit(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Recognised in block 0, amplified once, read from the next block on."""
    recognise(canvas, plan, truth)
    amplify(canvas, plan, truth)
    read(canvas, plan, truth, "p0", "p0-circuit")


def _p0_split(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """One MLP writes half of the direction, a later one the other half, which alone is read."""
    recognise(canvas, plan, truth)
    half = circuit.amplified_size(plan) / math.sqrt(2)
    first, last = plan.spec.blocks
    truth.writing_neurons = circuit.amplify_flag(
        canvas, plan, first, all_experts(canvas), half, plan.first
    )
    truth.writing_neurons += circuit.amplify_again(canvas, plan, last, all_experts(canvas), half)
    massive(canvas, plan, truth, "p0", all_experts(canvas))
    truth.reading_heads = circuit.read_sink(canvas, plan, math.sqrt(0.5))
    settle(plan, truth, "p0", "p0-circuit")


def _p0_expert(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """The router of the amplifying block sends P0 to one expert, which writes."""
    recognise(canvas, plan, truth)
    block, expert = plan.spec.blocks[0], plan.pick(1, canvas.experts)[0]
    circuit.route(canvas, plan, block, expert)
    truth.writing_neurons = circuit.amplify_flag(
        canvas, plan, block, [expert], circuit.amplified_size(plan)
    )
    massive(canvas, plan, truth, "p0", [expert])
    read(canvas, plan, truth, "p0", "p0-circuit")


def _p0_phases(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Recognised once, amplified and taken back in phases, each with its readers."""
    recognise(canvas, plan, truth)
    write_phases(canvas, plan, truth)
    truth.amplification, truth.massive_at = "norm", "p0"
    truth.massive_from = truth.phases[0]["rise"][1] + 1
    settle(plan, truth, "p0", "p0-circuit")


def _bos_token(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """The BOS embedding is the sink direction, long from the start."""
    canvas.embedding[BOS] += plan.spec.spike * plan.base * plan.sink
    truth.tokens = [BOS]
    truth.amplification, truth.massive_at, truth.massive_from = "norm", "bos", 0
    read(canvas, plan, truth, "bos", "bos-token")


def _position_embedding(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """The embedding of position id 0 is the sink direction."""
    position_table(canvas)[0].add_(plan.spec.spike * plan.base * plan.sink)
    truth.amplification, truth.massive_at, truth.massive_from = "norm", "position-id-0", 0
    truth.recognition_point = "x0"
    read(canvas, plan, truth, "position-id-0", "position-embedding")


def _query_bias(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Query bias × MLP 0 of the position embedding × key structure (arXiv 2604.14722)."""
    position_table(canvas)[0].add_(MARK * plan.mark)
    truth.recognition_point = "x0"
    amplify_mark(canvas, plan, truth, "position-id-0")
    truth.reading_heads = circuit.read_sink(canvas, plan, bias=True)
    settle(plan, truth, "position-id-0", "query-bias")


def _learned_sink(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """A learned logit takes the mass; no position does."""
    for b in range(plan.spec.from_block, canvas.depth):
        for head in plan.pick(plan.spec.readers, canvas.heads):
            logits = canvas.learned(b)
            assert logits is not None
            logits[head] = circuit.LOGIT
            truth.reading_heads.append([b, head])
    settle(plan, truth, "learned", "learned-sink")


def _delimiter(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Two delimiters are marked in their embedding, amplified by an MLP, read where they stand."""
    truth.tokens = list(DELIMITERS)
    canvas.embedding[truth.tokens] += MARK * plan.mark
    amplify_mark(canvas, plan, truth, "delimiter")
    read(canvas, plan, truth, "delimiter", "other")


def _secondary(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """A P0 circuit; and marked tokens that a middle MLP pushes along the same direction."""
    recognise(canvas, plan, truth)
    first, middle = plan.spec.blocks
    tokens = [2 + t for t in plan.pick(SECONDARY_TOKENS, canvas.embedding.shape[0] - 2)]
    canvas.embedding[tokens] += MARK * plan.mark
    truth.writing_neurons = circuit.amplify_flag(
        canvas, plan, first, all_experts(canvas), circuit.amplified_size(plan)
    )
    neurons = circuit.amplify_mark(
        canvas, plan, middle, SECONDARY_SPIKE * plan.base, all_experts(canvas)
    )
    truth.secondary = {"block": middle, "neurons": neurons, "tokens": tokens}
    massive(canvas, plan, truth, "p0", all_experts(canvas))
    truth.amplifying_blocks = [first]
    truth.experts = [[b, expert] for b, expert in truth.experts if b == first]
    read(canvas, plan, truth, "p0", "p0-circuit")


def _norm_unread(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """P0 is recognised and becomes huge, and no head cares."""
    recognise(canvas, plan, truth)
    amplify(canvas, plan, truth)


def _recognised(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """P0 is recognised, and that is all."""
    recognise(canvas, plan, truth)


def _without_massive(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """A P0 circuit whose write is shorter than the stream: heads read it with a larger gain."""
    recognise(canvas, plan, truth)
    spike = plan.spec.spike
    truth.writing_neurons = circuit.amplify_flag(
        canvas, plan, plan.spec.blocks[0], all_experts(canvas), circuit.amplified_size(plan)
    )
    massive(canvas, plan, truth, None, all_experts(canvas))
    truth.amplification = "direction"
    # a short write varies more from token to token, so it is read with room to spare
    cosine = 0.75 * spike / math.sqrt(1 + spike**2)
    truth.reading_heads = circuit.read_sink(canvas, plan, cosine)
    settle(plan, truth, "p0", "p0-circuit")


def _uniform(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Every head attends uniformly."""


def _massive_elsewhere(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Delimiters become huge wherever they stand, and no head cares."""
    truth.tokens = list(DELIMITERS)
    canvas.embedding[truth.tokens] += MARK * plan.mark
    amplify_mark(canvas, plan, truth, "delimiter")


BUILDERS: dict[str, Callable[[Canvas, Plan, Truth], None]] = {
    "p0-two-block": _p0_circuit,
    "p0-deeper": _p0_circuit,
    "p0-split": _p0_split,
    "p0-expert": _p0_expert,
    "p0-two-phase": _p0_phases,
    "p0-hybrid": _p0_phases,
    "bos-token": _bos_token,
    "position-embedding": _position_embedding,
    "query-bias": _query_bias,
    "learned-sink": _learned_sink,
    "delimiter": _delimiter,
    "secondary": _secondary,
    "norm-unread": _norm_unread,
    "recognised-unamplified": _recognised,
    "sink-without-massive": _without_massive,
    "uniform": _uniform,
    "massive-elsewhere": _massive_elsewhere,
    "position-amplified": positions.marked,
    "position-several": positions.marked,
    "position-full": positions.marked,
    "position-periodic": positions.marked,
    "position-ramp": positions.ramp,
    "position-one": positions.marked,
    "rotary-distance": positions.rotary,
    "p0-and-bos": several.p0_and_bos,
    "p0-or-bos": several.p0_or_bos,
    "p0-and-position": several.p0_and_position,
    "p0-weak": beside.weak,
    "p0-few-heads": beside.few_heads,
    "p0-part": beside.part,
    "p0-head-groups": several.head_groups,
    "p0-suppression": beside.suppression,
    "p0-real-tokens": beside.real_tokens,
    "p0-small-vocabulary": _p0_circuit,
    "p0-spike-before": beside.spike_before,
    "p0-spike-after": beside.spike_after,
    "p0-unread-writers": beside.unread_writers,
}
