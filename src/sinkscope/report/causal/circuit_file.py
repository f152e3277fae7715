"""circuit.json: the circuit that was tested, for other tools and for `sinkscope.load_circuit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sinkscope.schema.circuit import CircuitFile, CircuitModel, CircuitPrompts, Node, Shape

if TYPE_CHECKING:
    import xarray

    from sinkscope.result import Result


def circuit_files(result: Result) -> dict[str, str]:
    """File name -> text, for each BOS policy under which a circuit was tested."""
    files: dict[str, str] = {}
    groups = result.data.to_dict()
    for bos in result.summary.verify:
        data = groups.get(f"/verify/{bos}")
        if data is not None and "unit_score" in data:
            name = f"circuit-{bos}.json" if files else "circuit.json"
            files[name] = _file(result, bos, data).model_dump_json(indent=1) + "\n"
    return files


def _file(result: Result, bos: str, data: xarray.Dataset) -> CircuitFile:
    summary = result.summary
    verified = summary.verify[bos]
    heads = [(int(block), int(head)) for block, head in data["sink_head"].values]
    u = data["sink_direction"].values.tolist() if "sink_direction" in data else None
    units = {
        str(name): Node(in_graph=bool(kept), score=None if np.isnan(score) else float(score))
        for name, score, kept in zip(
            data["unit"].values, data["unit_score"].values, data["unit_kept"].values
        )
    }
    shape = Shape(
        n_layers=data.sizes["layer"],
        n_heads=data.sizes["head"],
        d_model=0 if u is None else len(u),
        parallel_attn_mlp=bool(data["parallel"]),
    )
    content: dict[str, Any] = {
        "size": verified.circuit_size,
        "curve": verified.circuit_curve,
        "growth": verified.circuit_growth,
        "thresholds": verified.thresholds,
    }
    return CircuitFile(
        format="sinkscope-circuit/1",
        cfg=shape,
        nodes=_nodes(shape, units, heads),
        edges={},
        units=units,
        reading_heads=heads,
        direction=u,
        read_point=int(data["read_point"]),
        model=CircuitModel(id=summary.model.id, weights_sha256=summary.model.weights_sha256),
        prompts=CircuitPrompts(bos=bos, sha256=summary.prompts.sha256[bos]),
        **content,
    )


def _nodes(shape: Shape, units: dict[str, Node], heads: list[tuple[int, int]]) -> dict[str, Node]:
    """Heads and MLPs: in the graph if one of their units writes in it, or if the head reads.

    The score of a node is the sum over its units that were scored.
    """
    names = ["input"]
    for block in range(shape.n_layers):
        names += [f"a{block}.h{head}" for head in range(shape.n_heads)] + [f"m{block}"]
    nodes = {name: Node(in_graph=name == "input", score=0.0) for name in [*names, "logits"]}
    for name, unit in units.items():
        node = nodes[name.split(".")[0] if name.startswith("m") else name]
        node.in_graph |= unit.in_graph
        node.score = (node.score or 0.0) + (unit.score or 0.0)
    for block, head in heads:
        nodes[f"a{block}.h{head}"].in_graph = True
    return nodes
