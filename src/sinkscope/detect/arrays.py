"""The arrays of a scan, labelled: dimensions, units and references travel with the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sinkscope.detect.heads import CLASS_MEANINGS, classify
from sinkscope.detect.nulls import random_target_p99
from sinkscope.detect.record import Scan
from sinkscope.errors import Missing
from sinkscope.frame import Labels, labelled
from sinkscope.stats import nan_mean

if TYPE_CHECKING:
    import xarray

GU = "Gu et al., arXiv 2410.10781"
RAN_MILO = "Ran-Milo et al., arXiv 2604.14722"
SUN = "Sun et al., arXiv 2402.17762"
LAYER_HEAD = ("layer", "head")
# name -> (dimensions, long name, units, reference)
LABELS: Labels = {
    "p0_received": (("sequence", *LAYER_HEAD),
        "alpha of P0: mean attention it receives from the queries that see it, itself included",
        "1", GU),
    "p0_late": (("sequence", *LAYER_HEAD),
        "late share: mean attention on P0 by queries in the second half", "1", RAN_MILO),
    "received": ((*LAYER_HEAD, "position"),
        "mean attention received by the key at a position", "1", GU),
    "uniform_received": (("layer",), "alpha of P0 under uniform attention", "1", ""),
    "uniform_late": (("layer",), "late share of P0 under uniform attention", "1", ""),
    "untrained_received": (("seed", *LAYER_HEAD), "alpha of P0, architecture untrained", "1", ""),
    "untrained_late": (("seed", *LAYER_HEAD), "late share of P0, architecture untrained", "1", ""),
    "late_received": ((*LAYER_HEAD, "position"),
        "late share of the key at a position of the first half", "1", RAN_MILO),
    "random_target_p99": (LAYER_HEAD,
        "99th percentile of the late share over random keys of the first half", "1", ""),
    "sinking": (LAYER_HEAD, "whether the head sinks at P0", "1", ""),
    "sinking_elsewhere": (LAYER_HEAD, "whether the head sinks elsewhere, as `sink` says", "1", ""),
    "sinking_prompts": (("sequence",), "whether P0 sinks in the prompt", "1", ""),
    "selectivity": (LAYER_HEAD,
        "late share of P0 over its uniform value", "1", "Xu, arXiv 2606.02378"),
    "entropy": (LAYER_HEAD, "mean entropy of the attention rows", "nat", ""),
    "learned_mass": (LAYER_HEAD, "mass on the learned sink logit", "1", ""),
    "elsewhere_mass": (LAYER_HEAD, "mass on keys other than P0 with alpha above 0.3", "1", ""),
    "value_norm_ratio": (("layer", "key_head"),
        "norm of P0's value over the median of the others", "1", "Guo et al., arXiv 2410.13835"),
    "stable_rank": (LAYER_HEAD,
        "stable rank of the head's update", "1", "Fesser et al., arXiv 2606.08105"),
    "stable_rank_without_p0": (LAYER_HEAD,
        "stable rank of the update without P0's part", "1", "Fesser et al., arXiv 2606.08105"),
    "head_class": (LAYER_HEAD,
        "what the head does with the sink", "1", "Fesser et al., arXiv 2606.08105"),
    "qk_cos_p0": (LAYER_HEAD, "cosine of late queries with P0's key", "1", GU),
    "qk_cos_others": (LAYER_HEAD, "cosine of late queries with the other keys", "1", GU),
    "qk_logit_p0": (LAYER_HEAD, "score of late queries with P0's key", "nat", RAN_MILO),
    "qk_logit_others": (LAYER_HEAD, "mean score of late queries with the other keys", "nat", ""),
    "q_norm": (LAYER_HEAD, "norm of late queries", "1", ""),
    "k0_norm": (LAYER_HEAD, "norm of P0's key", "1", ""),
    "k_norm_others": (LAYER_HEAD, "mean norm of the keys of late positions", "1", ""),
    "qk_bias_part": (LAYER_HEAD, "part of P0's score that the query bias makes", "nat", RAN_MILO),
    "qk_rope_part": (LAYER_HEAD, "part of P0's score that the rotation makes", "nat", ""),
    "norm_ratio": (("sequence", "point"), "norm of P0 over the median norm of the others", "1", ""),
    "p0_cosine": (("point",), "mean pairwise cosine of P0 over different first tokens", "1", ""),
    "massive_p0": (("point",), "max|x| at P0 over the median |x| of the sequence", "1", SUN),
    "massive_others": (("point",),
        "max|x| elsewhere over the median |x| of the sequence", "1", SUN),
    "massive_channel": (("point", "rank"), "channels of P0 of largest mean magnitude", "1", SUN),
    "massive_value": (("point", "rank"), "mean |x| of P0 in those channels", "1", SUN),
    "secondary_share": (("point",),
        "share of later tokens within |cos| > 0.9 of the sink direction",
        "1", "Wong et al., arXiv 2512.22213"),
    "map": (("example", *LAYER_HEAD, "query", "key"),
        "attention of a few prompts, times 255", "1", ""),
    "map_tokens": (("example", "key"), "token texts of those prompts", "", ""),
}  # fmt: skip


def scan_dataset(scan: Scan) -> xarray.Dataset:
    """All arrays of one scan as an xarray Dataset."""
    import xarray

    values = {**_attention(scan), **_heads(scan), **_residual(scan), **_maps(scan)}
    dataset = xarray.Dataset(labelled(LABELS, values), coords=_coordinates(scan))
    if "head_class" in dataset:
        flags = {"flag_values": np.arange(4, dtype=np.int8), "flag_meanings": CLASS_MEANINGS}
        dataset["head_class"].attrs.update(flags)
    dataset.attrs.update(
        bos=scan.prompts.bos,
        length=scan.prompts.length,
        sequences=len(scan.prompts),
        row_zero_counts="yes",
        threshold="per sequence, then averaged",
    )
    return dataset


def _coordinates(scan: Scan) -> dict[str, Any]:
    blocks = scan.attention.blocks
    anatomy = scan.subject.anatomy.blocks
    return {
        "block": ("layer", np.array(blocks)),
        "layer_type": ("layer", np.array([anatomy[i].layer_type for i in blocks], dtype=object)),
        "reader": ("layer", np.array([r for r, _ in scan.attention.readers], dtype=object)),
        "reader_reason": ("layer", np.array([w for _, w in scan.attention.readers], dtype=object)),
    }


def _attention(scan: Scan) -> dict[str, Any]:
    stats = scan.attention
    uniform_received, uniform_late = stats.uniform
    late = stats.late
    with np.errstate(invalid="ignore", divide="ignore"):
        selectivity = nan_mean(late) / uniform_late[:, None]
    found = {
        "p0_received": stats.alpha0,
        "p0_late": late,
        "received": stats.curve,
        "uniform_received": uniform_received,
        "uniform_late": uniform_late,
        "late_received": stats.late_curve,
        "random_target_p99": random_target_p99(stats),
        "sinking": scan.sinks.heads.astype(np.int8),
        "sinking_elsewhere": scan.sinks.elsewhere.astype(np.int8),
        "sinking_prompts": scan.sinks.prompts.astype(np.int8),
        "selectivity": selectivity,
        "entropy": stats.mean("entropy"),
        "learned_mass": stats.mean("learned"),
        "elsewhere_mass": stats.mean("elsewhere"),
    }
    if not isinstance(scan.null, Missing):
        found["untrained_received"] = scan.null["received"]
        found["untrained_late"] = scan.null["late"]
    return found


def _heads(scan: Scan) -> dict[str, Any]:
    found: dict[str, Any] = dict(scan.qk or {})
    values = scan.heads.value_ratio
    layers, heads = scan.attention.alpha0.shape[1:]
    if len(values) != layers:
        return found
    key_heads = max(len(v) for v in values)
    found["value_norm_ratio"] = np.stack([_spread(v, key_heads) for v in values])
    ranks = scan.heads.stable_rank
    rank = np.stack([_spread(r[0], heads) for r in ranks])
    found["stable_rank"] = rank
    found["stable_rank_without_p0"] = np.stack([_spread(r[1], heads) for r in ranks])
    per_head = np.stack([_spread(v, heads) for v in values])
    found["head_class"] = classify(scan.sinks.heads, per_head, rank)
    return found


def _spread(row: np.ndarray, width: int) -> np.ndarray:
    """Repeat each key head's figure over the query heads that share it; NaN where there is none."""
    if len(row) == 0 or width % len(row):
        return np.full(width, np.nan)
    return np.repeat(row, width // len(row))


def _residual(scan: Scan) -> dict[str, Any]:
    stats = scan.residual
    if stats is None:
        return {}
    at_p0, elsewhere = stats.massive
    channels, values = stats.channels
    found = {
        "norm_ratio": stats.norm_ratio,
        "p0_cosine": scan.p0_cosine,
        "massive_p0": at_p0,
        "massive_others": elsewhere,
        "massive_channel": channels,
        "massive_value": values,
    }
    if stats.direction is not None:
        found["secondary_share"] = stats.aligned_share
    return found


def _maps(scan: Scan) -> dict[str, Any]:
    if not scan.maps:
        return {}
    width = min(m.shape[-1] for m in scan.maps)
    return {
        "map": np.stack([m[:, :, :width, :width] for m in scan.maps]),
        "map_tokens": np.array([row[:width] for row in scan.map_tokens], dtype=object),
    }
