"""A synthetic trace and verification beside the scan of report_fixture: a circuit of two blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from sinkscope.result import Measured, Result, StageSummary, TestRow, TraceSummary, VerifySummary
from tests.report_fixture import build_result

NEURONS = [[1, 58], [1, 74], [1, 171], [1, 189]]
SHARES = [0.34, 0.27, 0.19, 0.11]


def build_circuit(
    layers: int = 6,
    heads: int = 4,
    experts: bool = False,
    verified: bool = True,
    scanned: bool = True,
    policies: tuple[str, ...] = ("with", "without"),
    **options: Any,
) -> Result:
    """A Result as `run` would fill it; without `scanned`, as `trace` alone would."""
    result = build_result(layers, heads, policies=policies, **options)
    groups = {path: data for path, data in result.data.to_dict().items() if data.variables}
    for bos in policies:
        late = np.nan_to_num(result.data[f"scan/{bos}"]["p0_late"].values.mean(0), nan=0.0)
        result.summary.trace[bos] = trace_summary(late, experts)
        groups[f"/trace/{bos}"] = trace_arrays(late)
        if verified:
            result.summary.verify[bos] = verify_summary(layers)
            groups[f"/verify/{bos}"] = xr.Dataset({"intact": ("sequence", np.full(8, 0.8))})
    if not scanned:
        result.summary.scan = {}
        groups = {path: data for path, data in groups.items() if not path.startswith("/scan")}
    return Result(result.summary, xr.DataTree.from_dict(groups))


def trace_summary(late: np.ndarray, experts: bool = False) -> TraceSummary:
    reading = [[int(b), int(h)] for b, h in np.argwhere(late > 0.3) if b > 1]
    return TraceSummary(
        emergence_block=1,
        emergence={"norm": {"block": 1}, "direction": {"block": 1}},
        amplification="norm",
        recognition_point="0.attention",
        recognition={"measures": ["norm"]},
        concentration={"1": 0.06, "2": 1.0, "3": 1.0, "4": 1.0},
        writing_neurons=NEURONS,
        writing_neuron_shares=SHARES,
        writing_heads=[[0, 2, 0.04]],
        writing_experts=[[1, 3, 0.91]] if experts else [],
        k90=4,
        write_shares={
            "embedding": 0.01,
            "0.attention": 0.05,
            "0.mlp": 0.002,
            "1.attention": -0.02,
            "1.mlp": 0.958,
        },
        reading_heads=reading,
        reading_block=2,
        spike_ratio=0.997,
        spike_vocabulary=32_000,
        margins={"mean": {"value": 4.2, "low": 4.0, "high": 4.4}},
        attribution={"parts": {"embedding": 0.1, "0.attention": 0.6, "1.mlp": 9.5}, "bias": 0.2},
        routing={"1": {"p0": sent(0, 0, 0, 1), "others": sent(0.4, 0.3, 0.3, 0)}}
        if experts
        else {},
    )


def sent(*share: float) -> dict[str, Any]:
    return {"share": list(share), "weight": [1.0] * len(share), "margin": 0.5}


def trace_arrays(late: np.ndarray) -> xr.Dataset:
    layers = late.shape[0]
    points = np.arange(layers + 1)
    rng = np.random.default_rng(3)
    return xr.Dataset(
        {
            "late": (("block", "head"), late),
            "margin": (("block", "head"), 8 * late - 3),
            "norm_ratio": (("point",), np.where(points > 1, 40.0, 1.1)),
            "distance": (("point",), np.where(points > 1, 1.2, 0.05)),
            "cosine": (("point",), np.where(points > 1, 0.99, 0.4)),
            "separability": (
                ("measure", "read_point"),
                np.tile(np.where(np.arange(2 * layers + 1) > 0, 1.0, 0.5), (2, 1)),
            ),
            "margin_from_direction": (("block", "head"), 6 * late - 3),
            "unmixedness": (("block", "position"), np.tile(1 / (1 + np.arange(48.0)), (layers, 1))),
            "attention_variance": (
                ("block", "position"),
                np.tile(1 + 9 / (1 + np.arange(48.0)), (layers, 1)),
            ),
            "neuron_write": (("block", "rank"), _neuron_writes(layers)),
            "vocabulary_along": (("token",), rng.normal(0.8, 0.02, 500)),
            "vocabulary_sinks": (("token",), rng.random(500) > 0.01),
            "direction": (("channel",), rng.normal(size=32)),
        },
        coords={"read_point": _read_points(layers), "measure": ["norm", "normalised"]},
    )


def _read_points(layers: int) -> list[str]:
    pairs = [name for block in range(layers) for name in (f"x{block}", f"{block}.attention")]
    return [*pairs, f"x{layers}"]


def _neuron_writes(layers: int) -> np.ndarray:
    writes = np.full((layers, 8), 0.001)
    writes[1, :4] = SHARES
    return writes


def measured(value: float, half: float = 0.03) -> Measured:
    return Measured(value=value, low=value - half, high=value + half)


def test_row(id: str, edit: str, effect: float, control: float, **more: Any) -> TestRow:
    sufficient = more.get("kind") == "sufficiency"
    margin, other = (effect, control) if sufficient else (6 * effect, 6 * control)
    return TestRow(
        id=id,
        edit=edit,
        control="the same at position 5",
        sink_change=measured(0.02 * effect if sufficient else effect),
        control_change=measured(0.02 * control if sufficient else control),
        margin_change=measured(margin, 0.3),
        control_margin_change=measured(other, 0.2),
        p=0.0005,
        p_holm=0.002,
        control_p_holm=0.8,
        ce_change=measured(0.4, 0.1),
        kl=measured(0.3, 0.1),
        p0_norm=2.0,
        p0_cosine=0.2,
        mass_moved_to={"position": 3, "token": "</script>", "share": 0.11},
        **{"passed": abs(effect) >= 0.5, "position": 0, **more},
    )


test_row.__test__ = False  # type: ignore[attr-defined]


def verify_summary(layers: int = 6) -> VerifySummary:
    tests = [
        test_row(
            "N1",
            "resample-ablate the attention output of block 0 at position 0",
            -0.81,
            -0.01,
            block=0,
        ),
        test_row(
            "N1",
            "resample-ablate the attention output of block 1 at position 0",
            -0.06,
            0.0,
            block=1,
        ),
    ]
    tests += [
        test_row(
            "N3",
            f"mean-ablate the MLP output of block {block} at position 0",
            -0.97 if block == 1 else -0.03,
            -0.01,
            block=block,
        )
        for block in range(layers - 1)
    ]
    for weight in (0.25, 0.5, 0.75, 1.0):
        tests.append(
            test_row(
                "N2",
                f"variance of the attention output of block 0 at position 0, weight {weight}",
                -0.9 * weight**2,
                -0.02,
                block=0,
                dose=weight,
                claim=weight == 1,
            )
        )
    for count, effect in ((1, -0.2), (2, -0.5), (4, -0.96)):
        tests.append(
            test_row(
                "N4",
                f"{count} neurons of block 1 at position 0: zero",
                effect,
                -0.01,
                dose=float(count),
                claim=count == 4,
            )
        )
    for how, effect in (("remove", -0.98), ("swap", -0.95), ("norm", -0.31)):
        tests.append(
            test_row("N5", f"stream at position 0: {how}", effect, -0.02, claim=how != "norm")
        )
    sufficient: dict[str, Any] = {"kind": "sufficiency", "position": 5}
    for step, effect in ((1, 1.9), (2, 4.6)):
        tests.append(
            test_row(
                "S1",
                f"position 5 attends only to itself in blocks 0..{step - 1}",
                effect,
                0.1,
                dose=float(step),
                passed=True,
                **sufficient,
            )
        )
    tests.append(test_row("S3", "key of P0 at position 5", 5.2, 0.3, passed=True, **sufficient))
    tests += [
        test_row("S4", "keep only 6 units of the circuit", -0.05, -0.97, passed=True, **sufficient),
        test_row(
            "S4", "mean-ablate 6 units of the circuit", -0.92, -0.0, passed=None, **sufficient
        ),
    ]
    tests[-1].control_change = None
    for row in tests[-2:]:
        row.sink_change = measured(-0.05 if row.passed else -0.92)
        row.margin_change = row.control_margin_change = None
    tests[-2].control_change = measured(-0.97)
    tests.append(
        test_row(
            "I1",
            "random token at position 0",
            -0.01,
            -0.01,
            kind="identity",
            passed=None,
            claim=False,
        )
    )
    return VerifySummary(
        verdict="p0-circuit",
        verdict_detail={"blocks": "two-block", "amplification": "norm"},
        stages=[
            StageSummary(
                stage=number,
                name=name,
                passed=passed,
                necessity=measured(-0.81) if passed is not None else None,
                sufficiency=measured(0.95 if number == 2 else 4.6) if passed is not None else None,
                specificity=0.01 if passed is not None else None,
                dose=0.99 if number < 3 else None,
                mediation=0.93 if number == 1 else None,
            )
            for number, name, passed in (
                (1, "recognition", True),
                (2, "amplification", True),
                (3, "induction", False),
                (4, "sink", None),
            )
        ],
        tests=tests,
        faithfulness=measured(0.95),
        completeness=measured(0.08),
        circuit_size={"components": 6, "share": 0.011, "of": 560, "traced": 4, "needed": 6},
        circuit_curve={"path": "key", "ranking": "path", "cpr": 0.981, "cmd": 0.021},
        circuit_growth=[
            {
                "components": n,
                "share": n / 560,
                "faithfulness": measured(f),
                "completeness": measured(c),
            }
            for n, f, c in ((4, 0.7, 0.5), (6, 0.95, 0.08))
        ],
        thresholds={"NECESSARY": {"value": 0.5, "reason": "half of the sink"}},
        what_would_change_it=["N3 on block 1 removing less than half of the sink."],
        cost={"passes": 31.2},
    )
