"""The support matrix: what was verified for every causal model type, or why not.

Each type is built from a tiny configuration with random weights, so nothing is downloaded, and put
through the checks of `parity`, `residual` and `p0_stream`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

import torch
import transformers

import sinkscope
from sinkscope.errors import SinkscopeError, first_line
from sinkscope.observe.p0_stream import p0_identity
from sinkscope.observe.parity import (
    exact_difference,
    half_precision_errors,
    lean_difference,
    left_padded,
    packed,
    token_prompts,
)
from sinkscope.observe.residual import prove_residual
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import CannotBuild, causal_types, tiny_model

LENGTH = 24
LEAN, LEAN_HALF, P0, CAUSAL = 1e-5, 5e-3, 1e-4, 1e-4


def verify_types(types: Iterable[str], progress=None) -> dict[str, Any]:
    """Verify each type: {date, versions, types: {name: row}}."""
    names = list(types)
    rows = {}
    for done, name in enumerate(names):
        if progress:
            progress("families", done, len(names))
        rows[name] = verify_type(name)
    return {
        "date": datetime.date.today().isoformat(),
        "sinkscope": sinkscope.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "types": rows,
    }


def verify_type(name: str) -> dict[str, Any]:
    """One row: reader, and for each property its largest error or the reason it was not verified.

    Keys: built, read, causal, exact (0.0 = bit-equal logits), lean, lean_bf16 and exact_bf16 (both
    against fp32 arithmetic on the same queries and keys), left_padding, packing, residual,
    residual_form, p0_stream, p0_logits, readers, reasons.
    """
    row: dict[str, Any] = {"built": False, "read": False, "reasons": {}}
    try:
        subject = Subject.from_model(tiny_model(name), name=name)
        row["built"] = True
    except CannotBuild as error:
        row["reasons"]["built"] = str(error)
        return row
    except SinkscopeError as error:
        row["built"] = True
        row["reasons"]["read"] = str(error)
        return row
    generator = torch.Generator().manual_seed(1)
    size = min(100, subject.model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(3, size, (2, LENGTH), generator=generator)
    _attempt(row, "causal", lambda: _leak(subject, ids))
    _attempt(row, "exact", lambda: exact_difference(subject, token_prompts(ids)))
    _attempt(row, "lean", lambda: _lean(row, subject, ids))
    row["read"] = "exact" in row
    if row["read"]:
        _attempt(row, "left_padding", lambda: lean_difference(subject, left_padded(ids)).difference)
        _attempt(row, "packing", lambda: lean_difference(subject, packed(ids)).difference)
    _attempt(row, "residual", lambda: _residual(row, subject, ids))
    _attempt(row, "p0_stream", lambda: _p0(row, subject, ids))
    if row["read"]:
        _attempt(row, "lean_bf16", lambda: _half(row, subject, ids))
    return row


def _attempt(row: dict[str, Any], key: str, measure) -> None:
    """Store a figure, or in one sentence why there is none."""
    try:
        row[key] = float(f"{measure():.2e}")
    except Exception as error:  # noqa: BLE001 - a family may fail in any way; the reason is kept
        row["reasons"][key] = first_line(error)[:200]


def _leak(subject: Subject, ids: torch.Tensor) -> float:
    """How much earlier logits change with the last token: 0 for a causal model."""
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] - 2) % 90 + 3
    with torch.no_grad():
        a, b = (subject.model(input_ids=x, use_cache=False).logits[:, :-1] for x in (ids, changed))
    return (a - b).abs().max().item()


def _lean(row: dict[str, Any], subject: Subject, ids: torch.Tensor) -> float:
    parity = lean_difference(subject, token_prompts(ids))
    row["readers"] = sorted(set(parity.readers))
    row["lean_blocks"] = parity.lean_blocks
    row["blocks_read"] = len(parity.readers)
    row["blocks"] = len(subject.anatomy.blocks)
    if parity.lean_blocks == 0:
        raise ValueError("no block is read by the lean reader")
    return parity.difference


def _residual(row: dict[str, Any], subject: Subject, ids: torch.Tensor) -> float:
    proof = prove_residual(subject, token_prompts(ids))
    if not proof.verified or proof.largest_error is None or proof.blocks[-1] is None:
        raise ValueError(proof.reason())
    row["residual_form"] = proof.blocks[-1].kind
    return proof.largest_error


def _p0(row: dict[str, Any], subject: Subject, ids: torch.Tensor) -> float:
    stream, logits = p0_identity(subject, ids)
    row["p0_logits"] = float(f"{logits:.2e}")
    return stream


def _half(row: dict[str, Any], subject: Subject, ids: torch.Tensor) -> float:
    if not row.get("lean_blocks") or row["lean_blocks"] < row["blocks_read"]:
        raise ValueError("not every block is read by the lean reader")
    half = Subject(subject.model.to(torch.bfloat16), None, subject.anatomy, subject.identity)
    lean, exact = half_precision_errors(half, token_prompts(ids))
    row["exact_bf16"] = float(f"{exact:.2e}")
    return lean


def verified(row: dict[str, Any]) -> dict[str, bool]:
    """Which properties of a row hold, by the thresholds of this module."""
    causal = row.get("causal", 1.0) <= CAUSAL
    return {
        "exact": causal and row.get("exact") == 0.0,
        "lean": causal and row.get("lean", 1.0) <= LEAN,
        "lean_bf16": causal
        and row.get("lean", 1.0) <= LEAN
        and row.get("lean_bf16", 1.0) <= LEAN_HALF,
        "left_padding": causal and row.get("left_padding", 1.0) <= LEAN,
        "packing": causal and row.get("packing", 1.0) <= LEAN,
        "residual": causal and "residual" in row,
        "p0": causal and max(row.get("p0_stream", 1.0), row.get("p0_logits", 1.0)) <= P0,
    }


def all_types() -> list[str]:
    """Every causal model type of the installed transformers."""
    return causal_types()
