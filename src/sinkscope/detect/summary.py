"""The headline numbers of a scan, each with its interval over prompts."""

from __future__ import annotations

from typing import Any

import numpy as np

from sinkscope.detect.attention import SINK
from sinkscope.detect.decision import beside_p0
from sinkscope.detect.nulls import random_target_p99
from sinkscope.detect.record import Scan
from sinkscope.errors import NOT_ASKED, Missing
from sinkscope.frame import opening_notes, too_few
from sinkscope.result import Measured, ScanSummary
from sinkscope.schema.scan import (
    Massive,
    ResidualIdentity,
    ScanNull,
    Secondary,
    SinkBeside,
    SinkFinding,
)
from sinkscope.stats import Draw, nan_mean
from sinkscope.subject.prompts import token_text

EPS = (0.2, 0.3, 0.5, 0.8)
AFTER = 2  # "[2:]": blocks after the two in which the circuit is said to form


def scan_summary(scan: Scan) -> ScanSummary:
    """Reduce one scan to its summary."""
    alpha0, late = scan.attention.alpha0, scan.attention.late
    blocks = np.array(scan.attention.blocks)
    types = np.array([scan.subject.anatomy.blocks[i].layer_type for i in blocks])
    draw = Draw(_units(scan), scan.settings.seed)
    everywhere = np.ones(len(blocks), dtype=bool)
    _, uniform_late = scan.attention.uniform
    sinks = scan.sinks
    return ScanSummary(
        p0_sink=sinks.answer if scan.prompts.enough else None,
        sink=_sink(scan),
        beside=_beside(scan),
        sink_rate=sink_rates(alpha0, everywhere, draw),
        sink_rate_after_2=sink_rates(alpha0, blocks >= AFTER, draw),
        sink_rate_by_type={
            str(kind): sink_rates(alpha0, types == kind, draw) for kind in np.unique(types)
        },
        late_share=draw.mean(_per_prompt(late)),
        late_share_by_type={
            str(kind): draw.mean(_per_prompt(late[:, types == kind])) for kind in np.unique(types)
        },
        uniform_late_share=_finite(uniform_late),
        reader=_reader_counts(scan),
        position_zero=scan.prompts.position_zero,
        notes=_notes(scan),
        sink_head_count=int(sinks.heads.sum()),
        sink_heads=_sink_heads(blocks, nan_mean(late), sinks.heads),
        null=_null(scan),
        delimiters=scan.attention.delimiters(scan.subject.tokenizer),
        massive=_massive(scan),
        secondary=_secondary(scan),
        residual_identity=_identity(scan),
    )


def _units(scan: Scan) -> np.ndarray | None:
    """The document of each prompt; None where prompts are apart, or hold several segments."""
    units = scan.prompts.units
    return units if units is not None and len(units) == len(scan.attention.late) else None


def _enough(scan: Scan) -> list[str]:
    """A sentence where the interval of the late share rests on too little."""
    units, shares = _units(scan), _per_prompt(scan.attention.late)
    unit = ("prompts", "n") if units is None else ("documents", "text")
    return too_few(shares, units, *unit)


def sink_rates(alpha0: np.ndarray, layers: np.ndarray, draw: Draw) -> dict[str, Measured]:
    """Share of heads whose alpha exceeds eps: thresholded for each prompt, then averaged (Gu).

    alpha0 [sequence, layer, head]; layers: boolean [layer], those that count.
    """
    chosen = alpha0[:, layers]
    if chosen.size == 0:
        return {str(eps): Measured(value=None) for eps in EPS}
    return {
        str(eps): draw.mean(_per_prompt(np.where(np.isfinite(chosen), chosen > eps, np.nan)))
        for eps in EPS
    }


def _per_prompt(values: np.ndarray) -> np.ndarray:
    """Mean over layers and heads for each prompt: [sequence]."""
    return nan_mean(values.reshape(values.shape[0], -1), axis=1)


def _finite(values: np.ndarray) -> float | None:
    mean = float(nan_mean(values))
    return mean if np.isfinite(mean) else None


def _reader_counts(scan: Scan) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reader, _ in scan.attention.readers:
        counts[reader] = counts.get(reader, 0) + 1
    return counts


def _sink_heads(blocks: np.ndarray, late: np.ndarray, sinking: np.ndarray) -> list[list[Any]]:
    """[block, head, late share] of the sinking heads, largest first."""
    layers, heads = np.nonzero(sinking)
    order = np.argsort(-late[layers, heads], kind="stable")
    return [
        [int(blocks[layers[i]]), int(heads[i]), round(float(late[layers[i], heads[i]]), 6)]
        for i in order
    ]


def _sink(scan: Scan) -> SinkFinding:
    found = scan.sinks
    return {
        "kind": found.kind,
        "words": list(found.words),
        "heads": int((found.heads | found.elsewhere).sum()),
        "of": found.of,
        "prompts": int(found.prompts.sum()),
        "positions": list(found.positions),
        "tokens": _texts(scan, found.tokens),
    }


def _beside(scan: Scan) -> list[SinkBeside]:
    return [
        {
            "kind": one.kind,
            "heads": int(one.heads.sum()),
            "positions": list(one.places) if one.kind == "positions" else [],
            "tokens": _texts(scan, one.places) if one.kind == "tokens" else [],
        }
        for one in beside_p0(scan.attention, scan.sinks)
    ]


def _texts(scan: Scan, tokens: tuple[int, ...]) -> list[str]:
    return [token_text(scan.subject.tokenizer, token) for token in tokens]


def _null(scan: Scan) -> ScanNull:
    stats = scan.attention
    received, late = stats.uniform
    p99 = random_target_p99(stats)
    seen = np.isfinite(p99)
    null: ScanNull = {
        "uniform_alpha": _finite(received),
        "uniform_late_share": _finite(late),
        "random_target_p99": float(np.median(p99[seen])) if seen.any() else None,
        "heads_above_random_target_p99": _finite((nan_mean(stats.late) > p99)[seen]),
    }
    if isinstance(scan.null, dict):
        over_heads = nan_mean(scan.null["late"].reshape(len(scan.null["late"]), -1), axis=1)
        null["untrained_late_share"] = [float(value) for value in over_heads]
        null["untrained_sink_rate"] = {str(SINK): float(np.mean(scan.null["received"] > SINK))}
    else:
        null["untrained"] = scan.null.reason
    return null


def _massive(scan: Scan) -> Massive:
    stats = scan.residual
    if stats is None:
        return {"reason": scan.no_residual}
    at_p0, _ = stats.massive
    point = int(np.argmax(at_p0))
    ids, values = stats.channels
    return {
        **stats.rule,
        "p0_ratio": float(at_p0[point]),
        "p0_point": point,
        "channels": [[int(i), float(v)] for i, v in zip(ids[point], values[point], strict=True)],
    }


def _secondary(scan: Scan) -> Secondary:
    stats = scan.residual
    if stats is None:
        return {"runs": [], "reason": scan.no_residual}
    common = sorted(stats.lifetimes.items(), key=lambda item: -item[1])[:10]
    return {
        "runs": [
            {"start": start, "lifetime": life, "tokens": count} for (start, life), count in common
        ]
    }


def _identity(scan: Scan) -> ResidualIdentity:
    proof = scan.proof
    found: ResidualIdentity = {"verified": proof.verified, "largest_error": proof.largest_error}
    if proof.verified and proof.blocks[0] is not None:
        form = proof.blocks[-1]
        assert form is not None
        found["form"] = form.kind
        found["writes"] = [[name, scale] for name, scale in form.writes]
    else:
        found["reason"] = proof.reason()
    return found


def _notes(scan: Scan) -> list[str]:
    """What a reader must know to read the numbers rightly."""
    notes = opening_notes(scan.subject, scan.prompts)
    notes += _enough(scan)
    if len(scan.prompts) < 2:
        notes.append(
            "Sinks away from position zero are not looked for on one prompt: none can be found on "
            "some prompts and judged on others."
        )
    seen = set(scan.attention.blocks)
    silent = [
        block.index
        for block in scan.subject.anatomy.blocks
        if block.layer_type not in ("linear", "none") and block.index not in seen
    ]
    if silent:
        notes.append(
            f"Blocks {silent} made no softmax attention over the prompt and are not counted."
        )
    reasons = sorted({f"{reader} ({why})" for reader, why in scan.attention.readers if why})
    notes += [f"Some blocks were read by {reason}." for reason in reasons]
    if isinstance(scan.null, Missing) and scan.null != NOT_ASKED:
        notes.append(scan.null.sentence)
    if scan.residual is None:
        notes.append(
            f"Norms, directions and massive activations of position zero are not reported: "
            f"{scan.no_residual}. Attribution is refused for the same reason."
        )
    elif not scan.proof.verified:
        notes.append(
            f"The residual identity does not hold: {scan.proof.reason()}; attribution "
            "is refused, attention figures are not touched by it."
        )
    notes += [scan.prefill.note] if scan.prefill.note else []
    return notes
