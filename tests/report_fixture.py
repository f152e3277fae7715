"""A synthetic Result for the report: every variable, hostile tokens, NaNs, a sliding layer."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xarray as xr

from sinkscope.result import (
    Environment,
    Measured,
    ModelInfo,
    PromptInfo,
    Result,
    ScanSummary,
    Summary,
)

EPS = (0.2, 0.3, 0.5, 0.8)
HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    "<img src=x onerror=alert(2)>",
    "\"'`&amp;",
    "\x1b[2J\x07",
    "\ud800",
    "\u2028\u202e",
    "{{ 7 * 7 }}",
]
WORDS = re.findall(r"\S+", "the cat sat on a mat , and then it slept until noon .")
MINIMAL = {
    *("p0_received", "p0_late", "received", "uniform_received", "uniform_late"),
    *("random_target_p99", "selectivity", "entropy", "sinking"),
}


def build_result(
    layers: int = 6,
    heads: int = 4,
    positions: int = 64,
    policies: tuple[str, ...] = ("with", "without"),
    minimal: bool = False,
    sinks: bool = True,
    seed: int = 0,
    examples: int = 2,
    map_tokens: int = 24,
) -> Result:
    """A Result as `scan` would fill it; `sinks` False gives a model that spreads its attention."""
    rng = np.random.default_rng(seed)
    sets = {
        bos: _dataset(rng, layers, heads, positions, sinks, (examples, map_tokens))
        for bos in policies
    }
    if minimal:
        sets = {bos: data[sorted(MINIMAL)] for bos, data in sets.items()}
    scans = {bos: _scan(data, minimal, bos) for bos, data in sets.items()}
    tree = xr.DataTree.from_dict({f"scan/{bos}": data for bos, data in sets.items()})
    return Result(_summary(scans), tree)


def _summary(scans: dict[str, ScanSummary]) -> Summary:
    return Summary(
        model=ModelInfo(
            id="org/<b>tiny</b>-model",
            revision="main",
            architecture="LlamaForCausalLM",
            weights_sha256="ab" * 32,
            parameters=123_456_789,
        ),
        prompts=PromptInfo(kind="text", n=8, length=64, sha256=dict.fromkeys(scans, "cd" * 32)),
        environment=Environment(
            sinkscope="0.1.0",
            torch="2.9.0",
            transformers="5.0.0",
            python="3.11.2",
            platform="Linux",
            device="cpu",
            dtype="float32",
            seed=0,
            threads=1,
        ),
        command={"name": "scan", "reader": "auto", "text": "</script><script>alert(3)</script>"},
        scan=scans,
    )


def _measured(values: np.ndarray) -> Measured:
    if not np.isfinite(values).any():
        return Measured(value=None)
    value = float(np.nanmean(values))
    return Measured(value=value, low=max(0.0, value - 0.02), high=min(1.0, value + 0.02))


def _scan(data: xr.Dataset, minimal: bool, bos: str) -> ScanSummary:
    received = data["p0_received"]
    by_type = {
        kind: received.isel(layer=np.flatnonzero(data["layer_type"].values == kind))
        for kind in np.unique(data["layer_type"].values)
    }
    kinds = data["layer_type"].values
    count = int((data["p0_late"].mean("sequence") > 0.3).sum())
    return ScanSummary(
        p0_sink=count > 0,
        sink={
            "kind": "p0" if count else "none",
            "words": [],
            "heads": count,
            "of": data["p0_late"][0].size,
            "prompts": data.sizes["sequence"] if count else 0,
            "positions": [0] if count else [],
            "tokens": [],
        },
        sink_rate={str(e): _measured((received > e).values) for e in EPS},
        sink_rate_after_2={str(e): _measured((received[:, 2:] > e).values) for e in EPS},
        sink_rate_by_type={
            str(kind): {str(e): _measured((part > e).values) for e in EPS}
            for kind, part in by_type.items()
        },
        late_share=_measured(data["p0_late"].values),
        late_share_by_type={
            str(kind): _measured(data["p0_late"].values[:, kinds == kind])
            for kind in np.unique(kinds)
        },
        uniform_late_share=float(data["uniform_late"].mean()),
        reader={"lean": data.sizes["layer"]},
        position_zero=["'<s>' × 8"] if bos == "with" else [f"{t!r} × 1" for t in HOSTILE[:5]],
        notes=["Block 5 was read with the exact reader. <b>note</b>\x1b[31m"],
        sink_heads=[],
        sink_head_count=0,
        null={"untrained_late_share": [0.021, 0.022, 0.02], "random_target_p99": 0.05},
        residual_identity={"verified": True, "largest_error": 3.1e-6, "form": "pre-norm"},
        **(_absent() if minimal else _present()),
    )


def _absent() -> dict[str, Any]:
    """What a scan says of a model with several residual streams and no token away from P0."""
    reason = "the model has no single residual stream"
    return {
        "delimiters": [],
        "massive": {"reason": reason},
        "secondary": {"runs": [], "reason": reason},
    }


def _present() -> dict[str, Any]:
    return {
        "delimiters": [{"token": t, "id": 7, "hits": 3, "received": 0.08} for t in [".", *HOSTILE]],
        "massive": {
            "rule_met": True,
            "max_abs": 812.5,
            "ratio": 2310.0,
            "point": 3,
            "p0_ratio": 2200.0,
            "p0_point": 3,
            "channels": [[17, 812.5], [42, 300.0]],
        },
        "secondary": {"runs": [{"start": 2, "lifetime": 3, "tokens": 17}]},
    }


def _late(rng, layers: int, heads: int, sinks: bool) -> np.ndarray:
    strength = rng.beta(0.8, 0.7, size=(layers, heads)) * 0.97
    strength[:2] *= 0.1
    return (strength if sinks else 0.02 * strength + 0.015).astype(np.float32)


def _dataset(rng, n: int, heads: int, T: int, sinks: bool, maps: tuple[int, int]) -> xr.Dataset:
    L, sequences, kv = n, 8, max(1, heads // 2)
    late = _late(rng, n, heads, sinks)
    noisy = np.clip(late + rng.normal(0, 0.02, (sequences, n, heads)), 0, 1)
    noisy_late = noisy.copy()
    noisy_late[:, -1] = np.nan  # P0 is out of the window of a sliding layer
    tail = 0.6 / (np.arange(T) + 2.0)
    received = np.concatenate(
        [late[..., None], (1 - late)[..., None] * np.tile(tail[1:], (n, heads, 1))], -1
    )
    received[..., T // 3] *= 6
    amplified = 900.0 if sinks else 1.1
    curve = np.where((np.arange(L + 1) > 1) & (np.arange(L + 1) < L), amplified, 1.0)
    cosine = np.where(np.arange(L + 1) > 1, 0.99 if sinks else 0.2, 0.1)
    kinds = np.array(["full"] * n, dtype=object)
    kinds[-1] = "sliding"
    types = np.array([str(kind) for kind in kinds])
    examples, length = maps[0], min(T, maps[1])
    tokens = np.array(
        [[(HOSTILE + WORDS * 4)[e + i] for i in range(length)] for e in range(examples)],
        dtype=object,
    )
    lh, lhp, pt = ("layer", "head"), ("layer", "head", "position"), ("point",)

    def noise(scale: float = 1.0) -> np.ndarray:
        return (scale * rng.normal(size=(n, heads))).astype(np.float32)

    variables = {
        "p0_received": (("sequence", *lh), noisy),
        "p0_late": (("sequence", *lh), noisy_late),
        "received": (lhp, received),
        "uniform_received": (("layer",), np.full(n, np.mean(1 / (np.arange(T) + 1)))),
        "uniform_late": (("layer",), np.full(n, np.mean(1 / (np.arange(T // 2, T) + 1)))),
        "untrained_late": (("seed", *lh), 0.03 + 0.005 * rng.normal(size=(3, n, heads))),
        "untrained_received": (("seed", *lh), 0.08 + 0.005 * rng.normal(size=(3, n, heads))),
        "random_target_p99": (lh, 0.05 + 0.02 * rng.random((n, heads))),
        "sinking": (lh, np.nan_to_num(noisy_late.mean(0)) > 0.3),
        "selectivity": (lh, late / tail[1:].mean()),
        "entropy": (lh, 4 * (1 - late)),
        "learned_mass": (lh, 0.02 * rng.random((n, heads))),
        "elsewhere_mass": (lh, 0.1 * rng.random((n, heads))),
        "value_norm_ratio": (("layer", "key_head"), 0.05 + rng.random((n, kv))),
        "stable_rank": (lh, 1 + 3 * rng.random((n, heads))),
        "stable_rank_without_p0": (lh, 2 + 3 * rng.random((n, heads))),
        "head_class": (lh, np.where(late > 0.3, rng.integers(1, 4, (n, heads)), 0)),
        "qk_cos_p0": (lh, 0.6 + noise(0.05)),
        "qk_cos_others": (lh, 0.1 + noise(0.05)),
        "qk_logit_p0": (lh, 6 + noise()),
        "qk_logit_others": (lh, 1 + noise()),
        "q_norm": (lh, 8 + noise()),
        "k0_norm": (lh, 3 + noise(0.3)),
        "k_norm_others": (lh, 9 + noise()),
        "qk_bias_part": (lh, noise(0.1)),
        "qk_rope_part": (lh, 0.5 + noise(0.1)),
        "norm_ratio": (("sequence", "point"), curve * (1 + 0.1 * rng.random((sequences, L + 1)))),
        "p0_cosine": (pt, cosine),
        "massive_p0": (pt, 3 * curve),
        "massive_others": (pt, 4 + rng.random(L + 1)),
        "massive_channel": (("point", "rank"), np.tile([17, 42, 3, 8, 99], (L + 1, 1))),
        "massive_value": (("point", "rank"), curve[:, None] * np.array([3, 2, 0.5, 0.2, 0.1])),
        "secondary_share": (pt, np.linspace(0, 0.04, L + 1)),
        "map": (
            ("example", *lh, "query", "key"),
            _maps(late, length, examples),
        ),
        "map_tokens": (("example", "key"), tokens),
    }
    data = xr.Dataset(
        {
            name: (dims, np.asarray(v) if name in ("map", "map_tokens") else _fp32(v))
            for name, (dims, v) in variables.items()
        },
        coords={
            "block": ("layer", np.arange(n)),
            "layer_type": ("layer", types.astype(object)),
            "reader": ("layer", np.array(["lean"] * n)),
        },
    )
    for name in data.data_vars:
        data[name].attrs.update(long_name=str(name), units="1", reference="synthetic")
    data["head_class"].attrs["flag_meanings"] = "not_a_sink no_op broadcast undecided"
    return data


def _fp32(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    return values if values.dtype.kind == "i" else values.astype(np.float32)


def _maps(late: np.ndarray, length: int, examples: int) -> np.ndarray:
    causal = np.tril(np.ones((length, length)))
    spread = causal / causal.sum(1, keepdims=True)
    at_zero = np.zeros((length, length))
    at_zero[:, 0] = 1
    share = late[..., None, None]
    noise = np.random.default_rng(1).gamma(0.5, size=(examples, *share.shape[:2], length, length))
    spread = noise * causal + 1e-9 * spread
    spread /= spread.sum(-1, keepdims=True)
    one = share * at_zero + (1 - share) * spread
    return np.rint(255 * one).astype(np.uint8)
