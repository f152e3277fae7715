"""The residual stream of a constructed model: which channels hold what, and how large it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sinkscope.known.constructed.choices import SPLIT
from sinkscope.known.constructed.codes import LENGTH
from sinkscope.known.constructed.spec import Spec

CONSTANT = 8.0  # size of the component that all tokens share
FLAG = 6.0  # size of "this position is unmixed" at P0
SHARED = 8.0  # size along the sink direction that all tokens have, where the others lose it
MARK = 5.0  # size of "this token (or position) is marked"
BOS, EOS = 0, 1
DELIMITERS = (12, 48)  # newline and full stop: bytes 10 and 46 behind two special tokens


@dataclass
class Plan:
    """Channels and directions, all of them drawn.

    content, mixed  [32] channels of a token's code, and of what attention makes of the codes
    rest            channels that nothing but embedding and noise use
    constant, flag, mark, sink  [d] unit directions over channels of their own, each of mean zero,
                    since LayerNorm removes the mean
    first, second   [d] unit halves of the sink direction: sink = (first + second)/√2, or both the
                    sink direction itself where it is not split (those of SPLIT are, and
                    p0-two-phase with 4 channels or more: one half for each phase)
    shared          length along the sink direction that every token has from the embedding on
    """

    spec: Spec
    generator: torch.Generator
    content: torch.Tensor
    mixed: torch.Tensor
    rest: torch.Tensor
    constant: torch.Tensor
    flag: torch.Tensor
    mark: torch.Tensor
    sink: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    shared: float

    @property
    def base(self) -> float:
        """Norm of an unmarked token's embedding."""
        return math.sqrt(LENGTH + CONSTANT**2 + len(self.rest) + self.shared**2)

    @property
    def unit(self) -> float:
        """√d: a pre-norm divides the stream by norm/√d."""
        return math.sqrt(self.spec.width)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers [*shape] from the plan's own generator."""
        return torch.randn(shape, generator=self.generator)

    def pick(self, count: int, of: int) -> list[int]:
        """`count` different numbers below `of`, in order."""
        return sorted(torch.randperm(of, generator=self.generator)[:count].tolist())


def make_plan(spec: Spec) -> Plan:
    """Draw the channels and directions of a specification."""
    generator = torch.Generator().manual_seed(spec.seed)
    channels = torch.randperm(spec.width, generator=generator)
    sizes = [LENGTH, LENGTH, 2, 2, 2, spec.channels]
    parts = list(channels.split([*sizes, spec.width - sum(sizes)]))
    content, mixed, constant, flag, mark, sink, rest = parts
    if spec.mechanism in SPLIT or (spec.mechanism == "p0-two-phase" and spec.channels >= 4):
        halves = [_balanced(half, spec.width) for half in sink.chunk(2)]
    else:
        halves = [_balanced(sink, spec.width)] * 2
    whole = halves[0] + halves[1]
    directions = [_balanced(part, spec.width) for part in (constant, flag, mark)]
    return Plan(
        spec,
        generator,
        content,
        mixed,
        rest,
        constant=directions[0],
        flag=directions[1],
        mark=directions[2],
        sink=whole / whole.norm(),
        first=halves[0],
        second=halves[1],
        shared=SHARED if spec.mechanism == "p0-suppression" else 0.0,
    )


def _balanced(channels: torch.Tensor, width: int) -> torch.Tensor:
    """A unit direction over an even number of channels, half of them positive."""
    direction = torch.zeros(width)
    half = len(channels) // 2
    direction[channels[:half]] = 1.0
    direction[channels[half:]] = -1.0
    return direction / len(channels) ** 0.5
