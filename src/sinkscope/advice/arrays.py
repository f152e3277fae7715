"""The arrays of `advise`, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinkscope.frame import Labels, labelled

if TYPE_CHECKING:
    import xarray

    from sinkscope.advice.bench import Bench

LABELS: Labels = {
    "cache_mass": (
        ("block", "key_head"),
        "attention on the first and the recent tokens, by queries behind the window",
        "share",
        "arXiv 2410.10819",
    ),
    "repeat_norm": (
        ("position",),
        "norm of a repeated token over that of position zero, mean over tokens",
        "ratio",
        "arXiv 2503.08908",
    ),
}


def advise_dataset(bench: Bench) -> xarray.Dataset:
    """What the questions left behind, labelled."""
    import xarray

    return xarray.Dataset(labelled(LABELS, bench.arrays))
