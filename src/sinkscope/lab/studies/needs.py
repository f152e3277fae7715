"""What a plan would take: parameters, tokens, memory, and the command line; nothing is trained."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import torch

from sinkscope.errors import InputError
from sinkscope.lab.model import build_model
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.lab.studies.plan import StudyPlan
from sinkscope.subject.variants.configuration import FUSED

GIB = 2**30
GPU_GIB = 75  # what may be filled of a GPU with 80
NODE = 8  # GPUs of one machine
MOST = 64 * NODE


@dataclass(frozen=True)
class Need:
    """What one run of a cell takes; gib is an estimate, for each of the processes."""

    cell: str
    parameters: int
    steps: int
    tokens: int
    gib: float


def processes_for(plan: StudyPlan) -> int:
    """GPUs to train on: one, or at size paper as few machines of eight as hold every cell.

    Errors: InputError where no number of them does.
    """
    if plan.size != "paper":
        return 1
    count, sizes = NODE, _parameters(plan)
    while count <= MOST and all(_shared(recipe, count) for recipe in plan.cells.values()):
        gib = [memory_gib(recipe, sizes[cell], count) for cell, recipe in plan.cells.items()]
        if max(gib) <= GPU_GIB:
            return count
        count *= 2
    raise InputError(f"{plan.name} at size {plan.size} does not fit {count // 2} GPUs of 80 GB.")


def _shared(recipe: TrainingRecipe, count: int) -> bool:
    return all(recipe.tokens_per_step // n % count == 0 for n in recipe.lengths)


def needs(plan: StudyPlan, processes: int) -> list[Need]:
    """One row a cell."""
    found = []
    for cell, parameters in _parameters(plan).items():
        recipe = plan.cells[cell]
        tokens = recipe.steps * recipe.tokens_per_step
        gib = memory_gib(recipe, parameters, processes)
        found.append(Need(cell, parameters, recipe.steps, tokens, gib))
    return found


def _parameters(plan: StudyPlan) -> dict[str, int]:
    """Parameters of each cell's model, which is built without memory."""
    with torch.device("meta"):
        return {cell: build_model(recipe).num_parameters() for cell, recipe in plan.cells.items()}


def memory_gib(recipe: TrainingRecipe, parameters: int, processes: int) -> float:
    """Memory of one training process, about.

    Weights, gradients and AdamW's two moments in float32 (and DDP's buckets); logits in bfloat16,
    in float32 and their gradient; and of each block what the backward pass wants, with matrix
    products in bfloat16: 22 bytes a channel of the stream and 8 a hidden channel of the MLP for
    each token, and the maps where attention is not fused.
    """
    copies = 4 + (processes > 1)
    tokens = recipe.tokens_per_step / processes
    block = 22 * recipe.width + 8 * recipe.hidden * max(1, recipe.active)
    if recipe.attention not in FUSED:
        block += 8 * recipe.heads * max(recipe.lengths)
    held = 10 * recipe.vocabulary + recipe.blocks * block
    return (4 * parameters * copies + tokens * held) / GIB


def command_line(
    plan: StudyPlan, out: Path, corpus: Path | None, device: str, processes: int
) -> str:
    """The exact command that runs the plan, under torchrun where there are several processes."""
    arguments = ["lab", "run", plan.name, *plan.options.split()]
    arguments += ["--corpus", str(corpus)] if corpus is not None else []
    arguments += ["--device", "cuda" if processes > 1 else device, "--out", str(out)]
    if processes == 1:
        return shlex.join(["sinkscope", *arguments])
    nodes = max(1, processes // NODE)
    launch = ["torchrun", "--nnodes", str(nodes), "--nproc-per-node", str(processes // nodes)]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint"]
    return f"{shlex.join([*launch, *meeting])} {HEAD} -m {shlex.join(['sinkscope', *arguments])}"


HEAD = '"${HEAD:-localhost}:29500"'
SCRIPT = """#!/bin/sh
# {name} at size {size}: {runs} trainings one after the other, each on {processes} GPUs.
# Start it once on each of {nodes} machines, with HEAD set to the name of one of them; all must see
# the same folders. Started again, it goes on where it stopped.
set -e
exec {command}
"""


def launch_script(plan: StudyPlan, out: Path, corpus: Path | None, processes: int) -> str:
    """A shell script for a cluster."""
    return SCRIPT.format(
        name=plan.name,
        size=plan.size,
        runs=len(plan.runs),
        processes=processes,
        nodes=max(1, processes // NODE),
        command=command_line(plan, out, corpus, "cuda", processes),
    )
