"""Small figures of a pass, and of several effects together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sinkscope.intervene.engine import Engine
from sinkscope.intervene.readout import Readout
from sinkscope.stats import nan_mean
from sinkscope.subject.prompts import token_text


def cosine_on(read: Readout, heads: Sequence[tuple[int, int]]) -> float | None:
    """Cosine of P0 to the sink direction, mean over the inputs of the blocks of these heads."""
    points = sorted({block for block, _ in heads})
    return finite(nan_mean(read.cosine[:, 0][:, points].mean(1)))


def mass_moved(engine: Engine, read: Readout) -> dict[str, Any] | None:
    """Where the mass went: the position that gained most on the reading heads."""
    intact = engine.intact.received
    if read.received is None or intact is None:
        return None
    gain = nan_mean(read.received - intact)
    position = int(gain.argmax())
    token = engine.prompts.input_ids[:, position].mode().values
    text = token_text(engine.subject.tokenizer, int(token))
    return {"position": position, "token": text, "share": float(gain[position])}


def finite(value: Any) -> float | None:
    """A number, or None where it is none."""
    return float(value) if np.isfinite(value) else None


def mean_of(each: np.ndarray) -> np.ndarray:
    """[n] mean over draws and heads of effects [m, n, heads]."""
    return nan_mean(nan_mean(each), 1)


def all_of(effects: list[np.ndarray | None]) -> np.ndarray | None:
    """[m, n, heads] effects of all, or None where one is missing."""
    found = [effect for effect in effects if effect is not None]
    return np.stack(found) if len(found) == len(effects) else None


def median_draw(effects: np.ndarray) -> int:
    """Index of the draw whose mean effect is the median one, of effects [draws, n]."""
    order = np.argsort(np.nanmean(effects, 1), kind="stable")
    return int(order[len(order) // 2])
