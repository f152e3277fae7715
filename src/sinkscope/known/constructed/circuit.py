"""The parts of the circuits, each written into the weights of any family.

Sizes follow from the plan in closed form: an entry x of the stream reads x·√d/‖stream‖ behind a
pre-norm, and the norm of the stream at each stage is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.codes import LENGTH, OVERLAP, token_codes
from sinkscope.known.constructed.plan import CONSTANT, FLAG, MARK, Plan

LOGIT = 12.0  # of the sink, in a reading head
ALIKE = 3.0  # logit of a token on itself, in a head that looks for similar tokens
GATE = 12.0  # gate of a writing neuron where it writes; about the negative of it elsewhere


def embed(canvas: Canvas, plan: Plan) -> None:
    """Token embedding: code + constant + rest, and an unembedding that reads code and rest."""
    vocab = canvas.embedding.shape[0]
    canvas.embedding[:, plan.content] = token_codes(vocab, plan.generator)
    rest = plan.normal(vocab, len(plan.rest))
    size = math.sqrt(len(plan.rest))
    canvas.embedding[:, plan.rest] = size * rest / rest.norm(dim=1, keepdim=True)
    canvas.readout.copy_(canvas.embedding / plan.base + 0.02 * plan.normal(*canvas.readout.shape))
    canvas.embedding.add_(CONSTANT * plan.constant)


def recognise(canvas: Canvas, plan: Plan) -> tuple[list[list[int]], list[list[int]]]:
    """Make the unmixedness of a position readable; returns the heads and neurons that do it.

    Heads of block 0 attend uniformly and add the mean of the visible codes; their squared length,
    32·Σ_j A_tj² plus overlaps, is 32 at P0 alone (the mask leaves it one code) and at most
    32·(1 + 0.25)/2 where two different codes are mixed. Pairs of neurons compute it: with
    σ(g)·u − σ(−g)·u = g·u, the pair (gate z, up z), (gate −z, up −z) adds z².
    """
    needed = -(-LENGTH // canvas.size)
    heads = [
        _carry(canvas, plan, group, part)
        for part, group in enumerate(plan.pick(needed, canvas.groups))
    ]
    chosen = plan.pick(2 * LENGTH, canvas.neurons)
    entry = plan.unit / _norm(plan, LENGTH)
    weight = FLAG / (LENGTH * _pair(canvas, entry))
    for index, neuron in enumerate(chosen):
        row = torch.zeros(plan.spec.width)
        row[plan.mixed[index // 2]] = 1.0 - 2.0 * (index % 2)
        for expert in range(canvas.experts):
            write_neuron(canvas, 0, neuron, expert, row, row, weight * plan.flag)
    return [[0, head] for head in heads], [[0, neuron] for neuron in chosen]


def _carry(canvas: Canvas, plan: Plan, group: int, part: int) -> int:
    """Let one head of a group copy its part of the codes to the mixed channels."""
    per_group = canvas.heads // canvas.groups
    head = group * per_group + plan.pick(1, per_group)[0]
    low, high = part * canvas.size, min(LENGTH, (part + 1) * canvas.size)
    rows = torch.arange(high - low)
    canvas.value(0, group).zero_()
    canvas.value(0, group)[rows, plan.content[low:high]] = 1.0
    canvas.query(0, head).zero_()
    canvas.out(0, head)[plan.mixed[low:high], rows] = plan.base / plan.unit
    return head


def flag_threshold(canvas: Canvas, plan: Plan, *held: float) -> float:
    """Half way between the flag at P0 and the largest where two different tokens are mixed."""
    return (flag_at_p0(canvas, plan, *held) + flag_mixed(canvas, plan)) / 2


def flag_at_p0(canvas: Canvas, plan: Plan, *held: float) -> float:
    """The flag that recognition writes at P0 where its embedding holds some more squares.

    Behind the pre-norms these make the code shorter that P0 adds to itself, and the sum as well.
    """
    alone = _pair(canvas, plan.unit / _norm(plan, LENGTH))
    left = plan.base / _norm(plan, *held)
    entry = left * plan.unit / _norm(plan, LENGTH * left**2, *held)
    return FLAG * _pair(canvas, entry) / alone


def flag_mixed(canvas: Canvas, plan: Plan, *held: float) -> float:
    """The largest flag where two different tokens are mixed."""
    share = (1 + OVERLAP) / 2  # of entries in which two codes agree; elsewhere their mean is 0
    alone = _pair(canvas, plan.unit / _norm(plan, LENGTH))
    return FLAG * share * _pair(canvas, plan.unit / _norm(plan, LENGTH * share, *held)) / alone


def _pair(canvas: Canvas, entry: float) -> float:
    z = torch.tensor([entry, -entry])
    return float(canvas.activate(z, z).sum())


def _norm(plan: Plan, *squares: float) -> float:
    return math.sqrt(plan.base**2 + sum(squares))


def write_neuron(
    canvas: Canvas,
    b: int,
    neuron: int,
    expert: int,
    gate: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
) -> None:
    """Set one neuron's gate, up and down [d]; `up` is left out where the MLP has no gate."""
    canvas.gate(b, expert)[neuron] = gate
    rows = canvas.up(b, expert)
    if rows is not None:
        rows[neuron] = up
    canvas.down(b, expert)[:, neuron] = down


def amplify_flag(
    canvas: Canvas,
    plan: Plan,
    b: int,
    experts: list[int],
    size: float,
    direction: torch.Tensor | None = None,
    held: Sequence[float] = (),
    written: Sequence[float] = (),
    chosen: Sequence[int] | None = None,
) -> list[list[int]]:
    """Neurons of block b that write the sink direction, `size` long, where the flag is up.

    direction      [d] what they write instead of it
    held, written  squares of what else P0's stream holds, from its embedding on, and since
    chosen         the neurons, drawn where they are not given
    """
    level, threshold = flag_at_p0(canvas, plan, *held), flag_threshold(canvas, plan, *held)
    stream = _norm(plan, LENGTH, level**2, *held, *written)
    gain = GATE * stream / (plan.unit * (level - threshold))
    gate = gain * (plan.flag - threshold / CONSTANT * plan.constant)
    return writers(canvas, plan, b, experts, gate, stream, size, direction, chosen)


def amplify_mark(
    canvas: Canvas, plan: Plan, b: int, size: float, experts: list[int]
) -> list[list[int]]:
    """Neurons of block b that write the sink direction, `size` long, where the mark is up."""
    stream = _norm(plan, MARK**2)
    gain = 2 * GATE * stream / (plan.unit * MARK)
    gate = gain * (plan.mark - MARK / 2 / CONSTANT * plan.constant)
    return writers(canvas, plan, b, experts, gate, stream, size)


def amplify_again(
    canvas: Canvas, plan: Plan, b: int, experts: list[int], size: float
) -> list[list[int]]:
    """Neurons of block b that write the second half where the first half was written before."""
    shared = plan.base / CONSTANT * plan.constant  # is 1 at an ordinary token, little at P0
    gate = GATE / plan.unit * (plan.first - shared)
    return writers(canvas, plan, b, experts, gate, 0.0, size, plan.second)


def take_back(
    canvas: Canvas, plan: Plan, b: int, size: float, along: torch.Tensor
) -> list[list[int]]:
    """Neurons of block b that write −`size` along `along` [d] where as much was written along it.

    Behind the pre-norm a long stream shows its length only in how short the shared constant has
    become: r = base/‖stream‖ against the cosine c to the direction. With gate c − 2r and up
    α·c − β·r the write is exact at the expected length, and to first order around it, for what was
    written varies from token to token with the noise. No other position opens the gate.
    """
    shared = plan.base / CONSTANT * plan.constant  # reads r, which is 1 at an ordinary token
    length = math.hypot(size, _norm(plan, LENGTH, FLAG**2))
    c, r = size / length, plan.base / length
    open_ = 1 / (c - 2 * r)
    beta = open_ / r - 2 * open_**2
    alpha = (open_ + beta * r) / c
    gate = GATE / plan.unit * (along - 2 * shared)
    up = (alpha * along - beta * shared) / plan.unit
    return _neurons(canvas, plan, b, [0], gate, up, -size / GATE * along)


def writers(
    canvas: Canvas,
    plan: Plan,
    b: int,
    experts: list[int],
    gate: torch.Tensor,
    stream: float,
    size: float,
    direction: torch.Tensor | None = None,
    chosen: Sequence[int] | None = None,
) -> list[list[int]]:
    """Neurons of block b with one gate [d] that share a write along `direction` [d] unevenly.

    Their up row reads one: off the shared constant, in a stream of norm `stream`, or where that is
    0 off the first half of the sink direction.
    """
    if stream:
        up = stream / (plan.unit * CONSTANT) * plan.constant
    else:
        up = plan.first / plan.unit
    top = float(canvas.activate(torch.tensor(GATE), torch.tensor(1.0)))
    target = plan.sink if direction is None else direction
    return _neurons(canvas, plan, b, experts, gate, up, size / top * target, chosen)


def _neurons(
    canvas: Canvas,
    plan: Plan,
    b: int,
    experts: list[int],
    gate: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    chosen: Sequence[int] | None = None,
) -> list[list[int]]:
    """Split one write over the specification's number of neurons, in unequal shares."""
    chosen = plan.pick(plan.spec.writers, canvas.neurons) if chosen is None else chosen
    shares = 0.5 + torch.rand(len(chosen), generator=plan.generator)
    shares = shares / shares.sum()
    for neuron, share in zip(chosen, shares.tolist()):
        for expert in experts:
            write_neuron(canvas, b, neuron, expert, gate, up, share * down)
    return [[b, neuron] for neuron in chosen]


def route(canvas: Canvas, plan: Plan, b: int, expert: int) -> None:
    """Send positions whose flag is up to one expert, and no other position there."""
    threshold = flag_threshold(canvas, plan)
    gain = GATE * _norm(plan, LENGTH, FLAG**2) / (plan.unit * (FLAG - threshold))
    router = canvas.router(b)
    assert router is not None
    router[expert] = gain * (plan.flag - threshold / CONSTANT * plan.constant)


def amplified_size(plan: Plan) -> float:
    """Length of what the writing neurons write: `spike` times the stream they write to."""
    return plan.spec.spike * _norm(plan, LENGTH, FLAG**2)


def read_sink(
    canvas: Canvas,
    plan: Plan,
    cosine: float = 1.0,
    bias: bool = False,
    blocks: Sequence[int] | None = None,
    along: torch.Tensor | None = None,
    chosen: Sequence[Sequence[int]] | None = None,
    logit: float = LOGIT,
) -> list[list[int]]:
    """Let heads attend to `along` [d], the second half of the sink direction by default.

    Those chosen, else some drawn in each of `blocks` (all from `from_block` on); returns them.
    Query: the shared constant (or the query bias), key: the stream's part along the sink; logit
    `logit` where the stream's cosine to what is read is `cosine`. Both lie in the two dimensions of
    a head that rotary positions turn least. The values of all heads are blind to the sink, and
    carry the codes of tokens where the specification asks for it.
    """
    spec = plan.spec
    gain = logit * math.sqrt(canvas.size) / (plan.unit * cosine)
    read = plan.second if along is None else along
    heads = [list(head) for head in chosen] if chosen else pick_heads(canvas, plan, blocks)
    for b, head in heads:
        canvas.query(b, head)[slow(canvas)] = 0.0
        if bias:
            offset = canvas.query_bias(b, head)
            assert offset is not None
            offset[slow(canvas)[0]] = gain
        else:
            row = gain * plan.base / (plan.unit * CONSTANT) * plan.constant
            canvas.query(b, head)[slow(canvas)[0]] = row
        key = canvas.key(b, head * canvas.groups // canvas.heads)
        key[slow(canvas)] = torch.stack([read, torch.zeros(spec.width)])
        if spec.carry:
            _pass_on(canvas, plan, b, head)
    return heads


def pick_heads(
    canvas: Canvas, plan: Plan, blocks: Sequence[int] | None = None, times: int = 1
) -> list[list[int]]:
    """`times` the specification's number of heads in each block (in all from `from_block` on)."""
    spec = plan.spec
    blocks = range(spec.from_block, spec.depth) if blocks is None else blocks
    return [[b, head] for b in blocks for head in plan.pick(times * spec.readers, canvas.heads)]


def _pass_on(canvas: Canvas, plan: Plan, b: int, head: int) -> None:
    """Let a head add the codes of what it attends to, so that tokens mix where it has no sink.

    Behind the pre-norm P0's code is as short as its stream is long, so P0's value is near zero.
    """
    rows = torch.arange(min(canvas.size, LENGTH))
    codes = plan.content[: len(rows)]
    value = canvas.value(b, head * canvas.groups // canvas.heads)
    value.zero_()
    value[rows, codes] = 1.0
    share = plan.spec.carry / (plan.spec.readers * (plan.spec.depth - plan.spec.from_block))
    canvas.out(b, head)[codes, rows] = share * plan.base / plan.unit


def slow(canvas: Canvas) -> list[int]:
    """The two dimensions of a head that rotary positions turn least; kept for the sink."""
    return [canvas.size // 2 - 1, canvas.size - 1]
