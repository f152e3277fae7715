"""The schema of circuit.json: a tested circuit, by the names that MIB and EAP-IG give to nodes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt

from sinkscope.schema.base import Open, Threshold
from sinkscope.schema.verify import CircuitCurve, CircuitSize, TriedSet


class Shape(BaseModel):
    """Size of the model, as a TransformerLens configuration names it."""

    n_layers: NonNegativeInt
    n_heads: NonNegativeInt
    d_model: NonNegativeInt
    parallel_attn_mlp: bool


class Node(BaseModel):
    """A node or unit: whether it belongs to the circuit, and its score in nats."""

    model_config = ConfigDict(strict=True)

    in_graph: bool
    score: FiniteFloat | None = None  # None where it was not scored


class CircuitModel(BaseModel):
    """Which model the circuit is of."""

    id: str
    weights_sha256: str


class CircuitPrompts(BaseModel):
    """Which prompts it was found on."""

    bos: str
    sha256: str


class CircuitFile(Open):
    """What circuit.json holds.

    cfg, nodes, edges  the graph that MIB's and EAP-IG's loaders read: nodes input, a0.h3, m11 and
                       logits; no edges, since what was tested is nodes at position zero
    units              the writers by name: a0.h3, m11.n1229 (neuron), m3.s5 (neuron of a shared
                       expert), input (the embedding); those scored and left out, too
    reading_heads      [block, head] of the sink heads
    direction          u, unit length; None where P0 is not set apart
    read_point         block at whose input it was taken
    """

    format: Literal["sinkscope-circuit/1"]
    cfg: Shape
    nodes: dict[str, Node]
    edges: dict[str, Node]
    units: dict[str, Node]
    reading_heads: list[tuple[NonNegativeInt, NonNegativeInt]]
    direction: list[FiniteFloat] | None
    read_point: NonNegativeInt
    model: CircuitModel
    prompts: CircuitPrompts
    size: CircuitSize = {}
    curve: CircuitCurve = {}
    growth: list[TriedSet] = []
    thresholds: dict[str, Threshold] = {}
