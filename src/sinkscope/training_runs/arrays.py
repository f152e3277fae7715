"""The arrays of one run, labelled: a row for each checkpoint that could be measured."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from sinkscope.circuit.concentration import FIRST, concentration, log_norm_share
from sinkscope.errors import Missing
from sinkscope.frame import Labels, labelled
from sinkscope.stats import nan_mean
from sinkscope.training_runs import signals
from sinkscope.training_runs.checkpoint import Checkpoint
from sinkscope.training_runs.checkpoint_metrics import CheckpointMetrics
from sinkscope.training_runs.course import Curves
from sinkscope.training_runs.pilot import Pilot

if TYPE_CHECKING:
    import xarray

PENG = "Peng et al., arXiv 2603.06591"
STEP = ("step",)
RESAMPLES = 1000
# name -> (dimensions, long name, units, reference)
LABELS: Labels = {
    "tokens": (STEP, "tokens seen, where the checkpoint's name or the log says so", "1", ""),
    "sink_by_prompt": (("step", "sequence"),
        "late share of P0, mean over the heads that were looked at",
        "1", "Ran-Milo et al., arXiv 2604.14722"),
    "null": (STEP, "99th percentile of the null of the late share", "1", ""),
    "sink_rate": (STEP, "share of heads with a late share above 0.3", "1", "Gu, arXiv 2410.10781"),
    "sinking": (("step", "layer", "head"), "whether the head sinks at P0, as `scan` says", "1", ""),
    "late": (("step", "layer", "head"), "late share of P0, mean over prompts", "1", ""),
    "log_norm_by_prompt": (("step", "sequence"),
        "log of P0's norm over the median of the others, at the read point", "1", PENG),
    "log_norm": (("step", "point"), "log of P0's norm over the median of the others", "1", PENG),
    "along": (("step", "point"),
        "mean cosine of P0 to the sink direction, minus that of the others", "1", ""),
    "distance": (STEP, "distance of P0 along u, in standard deviations of the others", "1", ""),
    "concentration": (("step", "first"),
        "C_k: share of what blocks below k write along u", "1", PENG),
    "concentration_low": (("step", "first"), "C_k, 2.5th percentile over first tokens", "1", ""),
    "concentration_high": (("step", "first"), "C_k, 97.5th percentile over first tokens", "1", ""),
    "concentration_log_norm": (("step", "first"), "share of the rise of log r by point k", "1", ""),
    "turn": (STEP, "1 − cos between u and that of the checkpoint before", "1", ""),
    "to_last": (STEP, "cos between u and that of the last checkpoint", "1", ""),
    "emergence_block": (STEP, "l*: block after whose write P0 stands apart along u", "1", ""),
    "cosine": (STEP, "mean cosine of P0 between first tokens, at the read point", "1", ""),
    "head_jaccard": (STEP, "agreement of sinking heads with the checkpoint before", "1", ""),
    "neuron_jaccard": (STEP, "agreement of writing neurons with the checkpoint before", "1", ""),
    "channel_jaccard": (STEP,
        "agreement of P0's largest channels with the checkpoint before", "1", ""),
    "expert_jaccard": (STEP, "agreement of P0's experts with the checkpoint before", "1", ""),
    "loss": (STEP, "mean next-token loss on the prompts", "nat", ""),
    "stage": (STEP, "stage of training, by change points", "1", ""),
    "calm": (STEP, "whether nothing moved over the stretch that ends here", "1", ""),
    "validation_loss": (STEP, "validation loss that the run logged", "nat", ""),
    "training_loss": (STEP, "training loss that the run logged, mean of the last rows", "nat", ""),
    "gradient_norm": (STEP, "gradient norm that the run logged, mean of the last rows", "1", ""),
    "learning_rate": (STEP, "learning rate that the run logged", "1", ""),
}  # fmt: skip


def run_arrays(
    checkpoints: list[Checkpoint], lights: list[CheckpointMetrics], pilot: Pilot
) -> dict[str, np.ndarray]:
    """Every number of a run but stages and logs: name -> [step, ..], as in LABELS."""
    point = pilot.view.point
    low, high = zip(*(_bounds(light.write) for light in lights), strict=True)
    arrays = {
        "sink_by_prompt": np.stack([signals.sink_share(light) for light in lights]),
        "null": np.array([null_of(light, pilot) for light in lights]),
        "sink_rate": np.array([signals.sink_rate(light) for light in lights]),
        "sinking": np.stack([light.sinks.astype(np.int8) for light in lights]),
        "late": np.stack([nan_mean(light.late) for light in lights]),
        "log_norm_by_prompt": np.stack([light.log_ratio[:, point] for light in lights]),
        "log_norm": np.stack([light.log_ratio.mean(0) for light in lights]),
        "along": np.stack([light.p0_along.mean(0) - light.others_along[0] for light in lights]),
        "distance": np.array([signals.distance(light, point) for light in lights]),
        "concentration": np.stack([concentration(x.write.mean(0)) for x in lights]),
        "concentration_low": np.stack(low),
        "concentration_high": np.stack(high),
        "concentration_log_norm": np.stack(
            [log_norm_share(light.log_ratio.mean(0)) for light in lights]
        ),
        "to_last": np.array([1.0 - signals.turn(light, lights[-1]) for light in lights]),
        "emergence_block": np.array([signals.emergence_block(x, point) for x in lights], float),
        "cosine": np.array([light.cosine[point] for light in lights]),
        **_beside_the_last(lights),
    }
    if all(len(light.loss) for light in lights):
        arrays["loss"] = np.array([light.loss.mean() for light in lights])
    if any(one.tokens is not None for one in checkpoints):
        arrays["tokens"] = np.array(
            [np.nan if one.tokens is None else float(one.tokens) for one in checkpoints]
        )
    return arrays


def _beside_the_last(lights: list[CheckpointMetrics]) -> dict[str, np.ndarray]:
    """What is said of a checkpoint beside the one before it; NaN for the first."""
    sets: dict[str, list[set]] = {
        "head_jaccard": [signals.rows(np.argwhere(light.sinks)) for light in lights],
        "neuron_jaccard": [signals.rows(light.neurons) for light in lights],
        "channel_jaccard": [signals.rows(light.channels) for light in lights],
        "expert_jaccard": [signals.rows(light.experts) for light in lights],
    }
    found = {
        name: np.array([np.nan, *(signals.jaccard(b, a) for a, b in itertools.pairwise(each))])
        for name, each in sets.items()
    }
    turns = [signals.turn(b, a) for a, b in itertools.pairwise(lights)]
    return found | {"turn": np.array([np.nan, *turns])}


def null_of(light: CheckpointMetrics, pilot: Pilot) -> float:
    """The larger of two: random keys of this checkpoint, and untrained models."""
    untrained = 0.0 if isinstance(pilot.null, Missing) else pilot.null["sink"]
    return max(signals.random_target_p99(light), untrained)


def _bounds(write: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap interval of C_k over first tokens. write [token, block]."""
    generator = np.random.default_rng(0)
    picks = generator.integers(len(write), size=(RESAMPLES, len(write)))
    means = np.maximum(write[picks].mean(1), 0.0)
    total = means.sum(1, keepdims=True)
    shares = np.divide(means.cumsum(1), total, out=np.full_like(means, np.nan), where=total > 0)
    at = [min(k, means.shape[1]) - 1 for k in FIRST]
    if np.isnan(shares).all():
        empty = np.full(len(at), np.nan)
        return empty, empty
    low, high = np.nanpercentile(shares[:, at], [2.5, 97.5], axis=0)
    return low, high


def curves_of(
    checkpoints: list[Checkpoint], arrays: dict[str, np.ndarray], lights: list[CheckpointMetrics]
) -> Curves:
    """What a run is judged by, from its arrays: name -> [step, ..], as in LABELS."""
    return Curves(
        steps=[one.step for one in checkpoints],
        sink=arrays["sink_by_prompt"],
        null=arrays["null"],
        log_norm=arrays["log_norm_by_prompt"],
        c2=np.nan_to_num(arrays["concentration"][:, 1]),
        directions=np.stack([light.direction for light in lights]),
        margin=np.array([signals.margin(light) for light in lights]),
        heads=np.nan_to_num(arrays["late"]).reshape(len(lights), -1),
    )


def run_dataset(
    checkpoints: list[Checkpoint], arrays: dict[str, np.ndarray], attributes: dict[str, Any]
) -> xarray.Dataset:
    """The arrays of a run, name -> [step, ..], labelled by LABELS."""
    import xarray

    coordinates = {
        "step": ("step", np.array([one.step for one in checkpoints], dtype=np.int64)),
        "checkpoint": ("step", [one.name for one in checkpoints]),
        "commit": ("step", [one.commit or "" for one in checkpoints]),
        "first": ("first", list(FIRST)),
    }
    return xarray.Dataset(labelled(LABELS, arrays, double=True), coordinates, attributes)
