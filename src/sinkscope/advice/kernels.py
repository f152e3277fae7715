"""int8 by a library's own kernels, beside the simulation of the same scheme.

The scheme is torchao's Int8DynamicActivationInt8WeightConfig: activations with a scale a token,
weights with a scale an output. torchao takes 127.5 steps either side of zero and clips the last
half, the simulation 127: both round alike, but not to the same grid.
"""

from __future__ import annotations

import copy
import logging
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from torch import nn

from sinkscope.advice.bench import Bench
from sinkscope.intervene.edits import RoundInputs, RoundWeights
from sinkscope.intervene.edits.rounding import linear_maps
from sinkscope.mixing.dose import Cost
from sinkscope.subject.load import Subject

SIMULATED = "int8 weights and activations, a scale a token"


def beside(bench: Bench) -> tuple[dict[str, Cost], str]:
    """What int8 costs in the simulation and in torchao; without torchao nothing, and why."""
    reason = _refusal(bench)
    if reason:
        return {}, f"No kernel was run beside the simulation: {reason}."
    costs = bench.cost({SIMULATED: (RoundInputs(8, "token"), RoundWeights(8))})
    try:
        real = bench.cost_of(quantised(bench.subject))
    except (RuntimeError, NotImplementedError, AssertionError) as error:  # no kernel for it here
        return costs, f"torchao {version('torchao')} could not run it ({str(error)[:80]})."
    costs[f"the same by torchao {version('torchao')}"] = real
    return costs, ""


def _refusal(bench: Bench) -> str:
    """Why torchao is not asked; empty where it is."""
    if find_spec("torchao") is None:
        return "torchao is not installed"
    if not all(isinstance(module, nn.Linear) for _, module in linear_maps(bench.subject)):
        return "torchao quantises nn.Linear only"
    return bench.no_copy


def quantised(subject: Subject) -> Subject:
    """A copy of a model with the linear maps of its blocks in torchao's int8.

    The copy shares all weights that are not quantised with the model.
    """
    quantization = _torchao()
    names = {name for name, _ in linear_maps(subject)}
    shared: dict[int, Any] = {id(p): p for p in subject.model.parameters()}
    model = copy.deepcopy(subject.model, shared)
    config = quantization.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    quantization.quantize_(model, config, lambda module, name: name in names)
    return type(subject)(model, subject.tokenizer, subject.anatomy, subject.identity)


def _torchao() -> Any:
    """torchao's quantisation, imported without its chatter on kernels for other machines."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import torchao.quantization

        return torchao.quantization
    finally:
        logging.disable(before)
