"""Linear maps with outliers left out of quantisation: what that saves, and lines that do it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np

from sinkscope.advice.bench import Bench
from sinkscope.advice.lines import lines
from sinkscope.advice.weights import NAMES
from sinkscope.intervene.edits import Edit, RoundInputs, RoundWeights
from sinkscope.intervene.edits.rounding import linear_maps
from sinkscope.mixing.dose import Cost
from sinkscope.schema.advise import AdviceLine

MAPS, OTHER_MAPS = ", maps with outliers left alone", ", as many other maps left alone"
TENSOR, TOKEN = "int8 activations, a scale a tensor", "int8 activations, a scale a token"
# scheme -> the lines that are for it; an engine that knows it not has none
PURPOSES = {
    TENSOR: "ignore_tensor",
    TOKEN: "ignore_token",
    **dict.fromkeys(NAMES.values(), "ignore_weights"),
}
# module inside a block -> its tensor in a GGUF file
GGUF = {
    "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}


def maps_left_alone(
    bench: Bench, schemes: Iterable[str], names: tuple[str, ...]
) -> dict[str, Edit]:
    """Edits that round as schemes do but in these maps, and but in as many others."""
    others = _others(bench, names)
    if not names or not others:
        return {}
    every = [name for name, _ in linear_maps(bench.subject)]

    def weights(bits: int) -> Callable[[tuple[str, ...]], Edit]:
        return lambda left: RoundWeights(bits, modules=tuple(x for x in every if x not in left))

    rounding: dict[str, Callable[[tuple[str, ...]], Edit]] = {
        TENSOR: lambda left: RoundInputs(8, "tensor", without=left),
        TOKEN: lambda left: RoundInputs(8, "token", without=left),
        NAMES["int8"]: weights(8),
        NAMES["int4"]: weights(4),
    }
    return {
        scheme + end: rounding[scheme](left)
        for scheme in schemes
        if scheme in rounding
        for end, left in ((MAPS, names), (OTHER_MAPS, others))
    }


def _others(bench: Bench, names: tuple[str, ...]) -> tuple[str, ...]:
    """As many other maps, of the same kind where there are such, drawn at random."""
    rest = [name for name, _ in linear_maps(bench.subject) if name not in names]
    rest = [rest[at] for at in np.random.default_rng(bench.settings.seed).permutation(len(rest))]
    drawn: list[str] = []
    for name in names:
        left = [each for each in rest if each not in drawn]
        alike = [each for each in left if each.endswith(name.rpartition(".")[2])]
        drawn += (alike or left)[:1]
    return tuple(drawn)


def maps_help(bench: Bench, costs: dict[str, Cost]) -> list[str]:
    """The schemes that clearly cost less with the maps with outliers left alone."""
    tried = [name for name in PURPOSES if name + MAPS in costs]
    return [n for n in tried if bench.helps(costs[n], costs[n + MAPS], costs[n + OTHER_MAPS])]


def lines_that_ignore(names: tuple[str, ...], schemes: Iterable[str]) -> list[AdviceLine]:
    """A line for each tool that quantises by one of these schemes and can leave these maps alone.

    names  their paths
    """
    escaped = [re.escape(name) for name in names]
    values = {
        "regexes": ", ".join(f'r"re:{name}$"' for name in escaped),
        "dynamic": ", ".join(f'r"-:{name}$": {{}}' for name in escaped),
        "names": ", ".join(f'"{name}"' for name in names),
    }
    tensors = [tensor for name in names if (tensor := _tensor_of(name))]
    if len(tensors) == len(names):
        values["tensors"] = " ".join(f'--tensor-type "{t}=q8_0"' for t in tensors)
    found: dict[str, AdviceLine] = {}
    for scheme in schemes:
        own = {k: v for k, v in values.items() if k != "tensors" or scheme == NAMES["int4"]}
        for one in lines(PURPOSES[scheme], scheme=scheme, **own):
            same = found.setdefault(one["line"], one)
            if same is not one:  # one line for several schemes
                same["purpose"] = f"{scheme}; {same.get('purpose', '')}"
    return list(found.values())


def _tensor_of(name: str) -> str:
    """The name of a map's weight in a GGUF file, as a pattern; empty where it is not known."""
    found = re.search(r"layers\.(\d+)\.(\w+\.\w+)$", name)
    if not found or found[2] not in GGUF:
        return ""
    return rf"blk\.{found[1]}\.{GGUF[found[2]]}"
