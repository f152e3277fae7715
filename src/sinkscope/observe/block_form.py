"""How one block writes to its residual stream, fitted to what it did on real data.

Candidates are the outputs of its sublayers, and what norms behind them made of those outputs;
`x_in + Σ contributions = x_out` is asserted token by token.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch

TOLERANCE = 1e-4  # relative to the largest entry of the residual stream, fp32
MAX_TOKENS = 64  # tokens used for the fit: far more equations than unknowns, at small cost


@dataclass(frozen=True)
class BlockForm:
    """How one block writes to its residual stream.

    kind    sum (x_out = x_in + Σ scale·output), inside (sublayers add the residual themselves)
    writes  (module path within the block, scale), one for each sublayer, in order
    error   largest |x_in + Σ contributions − x_out|, relative to the largest |x_out|
    sources module path of each sublayer itself, where a norm behind it is what is added
    inside  whether the output of each already contains the stream it was added to
    """

    kind: str
    writes: tuple[tuple[str, float], ...]
    error: float
    sources: tuple[str, ...]
    inside: tuple[bool, ...]


@dataclass
class Recording:
    """Inputs and outputs of a block and of the modules in it, in order of completion.

    x_in, x_out  [B, T, d] the block's own
    steps        (module, input or None, output), each [B, T, d]
    norms        which of the modules are norms
    """

    x_in: torch.Tensor | None = None
    x_out: torch.Tensor | None = None
    steps: list[tuple[str, torch.Tensor | None, torch.Tensor]] = field(default_factory=list)
    norms: set[str] = field(default_factory=set)


def resolve(recording: Recording) -> BlockForm | None:
    """How a block wrote to its stream; None where no form adds up to what it did."""
    x_in, x_out = recording.x_in, recording.x_out
    if x_in is None or x_out is None or x_in.shape != x_out.shape:
        return None
    chains = _chains(recording)
    return _as_sum(x_in, x_out, chains) or _as_inside(recording)


def _chains(recording: Recording) -> list[list[tuple[str, torch.Tensor]]]:
    """For each sublayer its output, then what norms made of that output."""
    chains = []
    for at, (name, _, out) in enumerate(recording.steps):
        if name in recording.norms:
            continue
        chain, current = [(name, out)], out
        for later, given, result in recording.steps[at + 1 :]:
            if later in recording.norms and given is not None and torch.equal(given, current):
                chain.append((later, result))
                current = result
        chains.append(chain)
    return chains


def _as_sum(
    x_in: torch.Tensor, x_out: torch.Tensor, chains: list[list[tuple[str, torch.Tensor]]]
) -> BlockForm | None:
    """x_out = x_in + Σ scale·c, with one member c of each chain; extra chains may be left out."""
    target = _rows(x_out) - _rows(x_in)
    top = x_out.double().abs().max().item() or 1.0
    for count in range(1, min(len(chains), 4) + 1):
        for chosen in itertools.combinations(chains, count):
            for members in itertools.product(*chosen):
                design = torch.stack([_rows(c).flatten() for _, c in members], 1)
                scales = torch.linalg.lstsq(design, target.flatten()[:, None]).solution[:, 0]
                if not torch.isfinite(scales).all() or bool((scales.abs() < 1e-3).any()):
                    continue
                scales = _snap(scales)
                added = sum(s * _full(c) for s, (_, c) in zip(scales.tolist(), members))
                miss = (_full(x_in) + added - _full(x_out)).abs()
                if _explained(miss, x_in, x_out):
                    error = miss.max().item() / top
                    names = tuple((n, s) for (n, _), s in zip(members, scales.tolist()))
                    sources = tuple(chain[0][0] for chain in chosen)
                    return BlockForm("sum", names, error, sources, (False,) * count)
    return None


def _as_inside(recording: Recording) -> BlockForm | None:
    """Sublayers that return the residual stream itself: the last one returns x_out, and a norm
    reads the stream between the two."""
    x_in, x_out = recording.x_in, recording.x_out
    assert x_in is not None
    assert x_out is not None
    sublayers = [(n, out) for n, _, out in recording.steps if n not in recording.norms]
    if len(sublayers) < 2 or not torch.equal(sublayers[-1][1], x_out):
        return None
    top = x_out.double().abs().max().item() or 1.0
    reads = [given for n, given, _ in recording.steps if n in recording.norms and given is not None]
    for name, out in sublayers[:-1]:
        for middle, holds_stream in ((out, True), (x_in + out, False)):
            if any(_close(read, middle) for read in reads):
                error = _full(middle) + (_full(x_out) - _full(middle)) - _full(x_out)
                names = (name, sublayers[-1][0])
                return BlockForm(
                    "inside",
                    tuple((n, 1.0) for n in names),
                    error.abs().max().item() / top,
                    names,
                    (holds_stream, True),
                )
    return None


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a - b).abs().max().item() <= 1e-6 * (b.abs().max().item() or 1.0)


def _snap(scales: torch.Tensor) -> torch.Tensor:
    """A fitted scale within rounding of 1 is 1."""
    return torch.where((scales - 1).abs() < 1e-4, torch.ones_like(scales), scales)


def _explained(miss: torch.Tensor, x_in: torch.Tensor, x_out: torch.Tensor) -> bool:
    """Whether what is left over is rounding, token by token.

    Against each token's own stream and what was added to it: one huge token must not hide that a
    small write is missing elsewhere.
    """
    rounding, share = (1e-5, TOLERANCE) if x_out.dtype == torch.float32 else (1e-2, 2e-2)
    added = (_full(x_out) - _full(x_in)).abs().amax(-1)
    bound = rounding * _full(x_out).abs().amax(-1) + share * added
    return bool((miss.amax(-1) <= bound + 1e-30).all())


def _full(x: torch.Tensor) -> torch.Tensor:
    return x.double()


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])[:MAX_TOKENS].double()
