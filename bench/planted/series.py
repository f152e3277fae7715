"""Known-answer series of real models: a constructed circuit that appears, moves and stops moving.

One constructed Llama is taken through the states of a training run. Block 0 recognises position
zero throughout; blocks EARLY and LATE write the sink direction u, of which EARLY writes a share;
heads from block LATE + 1 on read it. Planted are the moment at which the write appears, at once or
growing, and moments at which the circuit concentrates into EARLY (and u may turn). At every
checkpoint all weights carry fresh noise. What is found is then measured on the models themselves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from planted.curves import draw_grid, step_at
from sinkscope.known.constructed import circuit
from sinkscope.known.constructed.build import byte_tokenizer
from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.codes import LENGTH
from sinkscope.known.constructed.noise import fill
from sinkscope.known.constructed.plan import CONSTANT, FLAG, make_plan
from sinkscope.known.constructed.spec import draw_spec
from sinkscope.subject.load import Subject
from sinkscope.training_runs.checkpoint_metrics import light
from sinkscope.training_runs.pilot import Pilot
from sinkscope.training_runs.settling import QUIET
from sinkscope.training_runs.signals import margin

EARLY, LATE, DEPTH = 1, 3, 6
SIZES = {"width": 96, "heads": 4, "key_heads": 4, "head_size": 16, "vocab": 258}
PATIENCE = 1000  # draws of events until another grid is tried
FINE = 25  # places at which a growing write is looked at without noise
KINDS = {"settles": 0.55, "drifts": 0.15, "late": 0.2, "no sink": 0.1}


@dataclass(frozen=True)
class State:
    """Where a circuit stands.

    size   length of the write over that of the stream it is written to; 0: there is no circuit
    share  of it that EARLY writes
    angle  by which u has turned from where it began, in radians
    moved  part of their logit that the reading heads have handed over to other heads
    logit  that reading heads give to position zero
    """

    size: float
    share: float
    angle: float
    moved: float = 0.0
    logit: float = circuit.LOGIT


class Grown:
    """A model that is put into one state after another."""

    def __init__(self, seed: int) -> None:
        spec = draw_spec(
            "p0-deeper", seed, family="llama", blocks=(LATE,), from_block=LATE + 1, depth=DEPTH,
            noise=0.05, **SIZES,
        )  # fmt: skip
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            self.canvas = Canvas.empty(spec)
            self.canvas.clear()
            self.plan = plan = make_plan(spec)
            fill(self.canvas, plan)
            circuit.embed(self.canvas, plan)
            circuit.recognise(self.canvas, plan)
            for b in range(DEPTH):  # no head may write along what u turns to
                for group in range(self.canvas.groups):
                    rows = self.canvas.value(b, group)
                    rows -= torch.outer(rows @ plan.mark, plan.mark)
        self.neurons = {b: plan.pick(2, self.canvas.neurons) for b in (EARLY, LATE)}
        self.readers = {b: plan.pick(2, self.canvas.heads) for b in range(LATE + 1, DEPTH)}
        self.base = [p.detach().clone() for p in self.canvas.model.parameters()]
        identity = {
            "id": "planted", "revision": None, "dtype": "float32", "device": "cpu",
            "parameters": sum(p.numel() for p in self.base), "weights_sha256": "",
            "architecture": "LlamaForCausalLM",
        }  # fmt: skip
        whole = Subject.from_model(self.canvas.model.eval(), byte_tokenizer(spec.vocab))
        self.subject = Subject(whole.model, whole.tokenizer, whole.anatomy, identity)

    def put(self, state: State, jitter: float = 0.0, seed: int = 0) -> Subject:
        """The model in a state, every weight multiplied by 1 + jitter · a normal number."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter, base in zip(self.canvas.model.parameters(), self.base, strict=True):
                parameter.copy_(base)
            self._write(state)
            for parameter in self.canvas.model.parameters() if jitter else ():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.mul_(1 + jitter * noise)
        return self.subject

    def _write(self, state: State) -> None:
        plan, canvas = self.plan, self.canvas
        u = math.cos(state.angle) * plan.sink + math.sin(state.angle) * plan.mark
        written = state.size * math.sqrt(plan.base**2 + LENGTH + FLAG**2)
        early = written * state.share
        self._neurons(EARLY, early, 0.0, u)
        self._neurons(LATE, written - early, early, u)
        slow = circuit.slow(canvas)
        for part, handed in ((1 - state.moved, False), (state.moved, True)):
            gain = part * state.logit * math.sqrt(canvas.size) / plan.unit
            row = gain * plan.base / (plan.unit * CONSTANT) * plan.constant
            for b in self.readers if part else ():
                for head in self.reading(b, handed):
                    canvas.query(b, head)[slow] = torch.stack([row, torch.zeros_like(row)])
                    canvas.key(b, head)[slow] = torch.stack([u, torch.zeros_like(u)])

    def reading(self, b: int, handed: bool = False) -> list[int]:
        """Heads of a block that read at first, or those that they hand over to."""
        first = self.readers[b]
        others = [head for head in range(self.canvas.heads) if head not in first]
        return others[: len(first)] if handed else first

    def _neurons(self, b: int, size: float, before: float, u: torch.Tensor) -> None:
        """Neurons that write u, `size` long in all, onto a stream that holds `before` of it."""
        plan, canvas = self.plan, self.canvas
        threshold = circuit.flag_threshold(canvas, plan)
        stream = math.sqrt(plan.base**2 + LENGTH + FLAG**2 + before**2)
        gain = circuit.GATE * stream / (plan.unit * (FLAG - threshold))
        gate = gain * (plan.flag - threshold / CONSTANT * plan.constant)
        up = stream / (plan.unit * CONSTANT) * plan.constant
        top = float(canvas.activate(torch.tensor(circuit.GATE), torch.tensor(1.0)))
        for neuron in self.neurons[b]:
            down = size / top / len(self.neurons[b]) * u
            circuit.write_neuron(canvas, b, neuron, 0, gate, up, down)


@dataclass(frozen=True)
class Script:
    """What is planted in one series.

    kind      settles, drifts, no sink, or late: its last event comes after a longer calm than the
              settling signal waits for
    steps     [c]
    states    one a checkpoint
    jitter    of the weights
    growth    (start, stop, power) of the write on the axis of checkpoint indices; stop = start
              where it appears at once; None where there is no sink
    whole     the state in which the write has appeared
    events    places at which the circuit appeared or concentrated
    """

    kind: str
    seed: int
    steps: np.ndarray
    states: list[State]
    jitter: float
    growth: tuple[float, float, float] | None
    whole: State
    events: list[float]

    @property
    def stages(self) -> int | None:
        """Stages that were planted; None where something grows or drifts, since that has none."""
        gradual = self.growth is not None and self.growth[1] > self.growth[0]
        return None if self.kind == "drifts" or gradual else 1 + len(self.events)

    @property
    def settled_at(self) -> float | None:
        """Step from which nothing moves any more; None: never, or there is nothing."""
        if self.growth is None or self.kind == "drifts":
            return None
        return step_at(self.steps, max(self.events[-1], self.growth[1]))


def draw_script(seed: int) -> Script:
    """Draw a series. The same seed always gives the same one."""
    g = np.random.default_rng(seed)
    kind = str(g.choice(list(KINDS), p=list(KINDS.values())))
    whole = State(float(g.choice([2.0, 4.0, 8.0])), float(g.uniform(0.0, 0.25)), 0.0)
    jitter = float(g.uniform(0.003, 0.015))
    steps = draw_grid(g)
    if kind == "no sink":
        nothing = [replace(whole, size=0.0)] * len(steps)
        return Script(
            kind=kind, seed=seed, steps=steps, states=nothing, jitter=jitter, growth=None,
            whole=whole, events=[],
        )  # fmt: skip
    for attempt in itertools.count(1):
        if attempt % PATIENCE == 0:
            steps = draw_grid(g)  # some grids are too short for a long calm
        start = float(g.uniform(4.0, 0.35 * len(steps)))
        stop = start + (float(g.uniform(5.0, 9.0)) if g.random() < 0.4 else 0.0)
        events, at = [start], stop
        for _ in range(int(g.integers(0, 3))):
            at += float(g.uniform(5.0, 9.0))
            events.append(at)
        if kind == "late":
            calm = (2.0 + g.random()) * QUIET * step_at(steps, at)
            events.append(float(np.interp(np.log1p(calm), np.log1p(steps), np.arange(len(steps)))))
        if events[-1] < len(steps) - 6 and (kind == "late" or _soon(steps, events, stop)):
            break
    growth = (start, stop, float(g.uniform(1.0, 4.0)))
    states = list(_states(g, kind, steps, whole, growth, events))
    return Script(
        kind=kind, seed=seed, steps=steps, states=states, jitter=jitter, growth=growth,
        whole=whole, events=events,
    )  # fmt: skip


def _soon(steps: np.ndarray, events: list[float], stop: float) -> bool:
    """Whether every event begins within QUIET times the step at which the one before it ended."""
    ends = [stop, *events[1:]]
    return all(
        step_at(steps, later) <= QUIET * step_at(steps, end)
        for later, end in zip(events[1:], ends, strict=False)
    )


def _states(
    g: np.random.Generator,
    kind: str,
    steps: np.ndarray,
    whole: State,
    growth: tuple[float, float, float],
    events: list[float],
) -> Iterator[State]:
    """The state at each checkpoint."""
    moves = len(events) - 1
    shares = np.sort(g.uniform(0.3, 0.9, moves)) if moves < 2 else np.linspace(0.35, 0.9, moves)
    turns = g.choice([0.0, 0.5], moves).cumsum()
    grows, turning = float(g.uniform(0.3, 0.5)), g.random() < 0.5
    for i in range(len(steps)):
        done = sum(i >= event for event in events[1:])
        share = float(shares[done - 1]) if done else whole.share
        angle = float(turns[done - 1]) if done else 0.0
        size = whole.size * grown(i, growth)
        if kind == "drifts":  # from the emergence on, in e-folds of steps
            since = max(math.log1p(steps[i]) - math.log1p(step_at(steps, growth[0])), 0.0)
            if turning:
                angle += 0.6 * grows * 2 * since
            else:
                size *= math.exp(2 * grows * since)
        yield State(size, share, angle)


def grown(place: float, growth: tuple[float, float, float]) -> float:
    """Share of the write that is there at a place."""
    start, stop, power = growth
    if stop <= start:
        return float(place >= start)
    return float(np.clip((place - start) / (stop - start), 0.0, 1.0) ** power)


def subjects(model: Grown, script: Script) -> Iterator[Subject]:
    """The same model as it was at each checkpoint; each is gone when the next is asked for."""
    for i, state in enumerate(script.states):
        yield model.put(state, script.jitter, seed=1000 * script.seed + i)


def emerged_at(model: Grown, script: Script, pilot: Pilot) -> float | None:
    """Step at which the model begins to sink by the rule of `scan`, on the models without noise.

    Where the write appears at once that is its moment; where it grows it is looked for on a fine
    grid of places.
    """
    if script.growth is None:
        return None
    start, stop, _ = script.growth
    if stop <= start:
        return step_at(script.steps, start)
    over = []
    places = np.linspace(start, stop, FINE)
    for place in places:
        size = script.whole.size * grown(float(place), script.growth)
        found = light(model.put(replace(script.whole, size=size)), pilot.view)
        over.append(margin(found))
    i = int(np.argmax(np.array(over) > 0))
    place = float(np.interp(0.0, over[i - 1 : i + 1], places[i - 1 : i + 1])) if i else start
    return step_at(script.steps, place)
