"""An edit of where the model is told that its tokens stand: the position ids."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.subject.load import Subject


def takes_position_ids(subject: Subject) -> bool:
    """Whether the model can be told where its tokens stand."""
    decoder = getattr(subject.model, "base_model", subject.model)
    return "position_ids" in inspect.signature(decoder.forward).parameters


@dataclass(frozen=True)
class PositionIds(Edit):
    """Add `shift` to every position id, then swap the ids of two positions, if any are given."""

    shift: int = 0
    swap: tuple[int, int] | None = None
    order = 0

    def __str__(self) -> str:
        parts = [f"position ids shifted by {self.shift}"] if self.shift else []
        if self.swap is not None:
            parts.append(f"position ids of {self.swap[0]} and {self.swap[1]} swapped")
        return ", ".join(parts) or "position ids as they are"

    def inputs(self, context: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        """Pass position ids, with a mask of ones that keeps them from being read as packing."""
        subject = context.subject
        if not takes_position_ids(subject):
            raise Unsupported(f"{subject.anatomy.model_type} takes no position ids.")
        ids = inputs["input_ids"]
        positions = torch.arange(ids.shape[1], device=ids.device) + self.shift
        limit = subject.max_length
        if limit is not None and int(positions.max()) >= limit:
            raise InputError(f"position id {int(positions.max())} is over the model's {limit}.")
        if self.swap is not None:
            a, b = self.swap
            context.check(max(a, b))
            positions[[a, b]] = positions[[b, a]]
        return {
            **inputs,
            "position_ids": positions.expand_as(ids),
            "attention_mask": torch.ones_like(ids),
        }
