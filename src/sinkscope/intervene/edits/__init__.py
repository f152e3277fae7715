"""Edits: small declarative objects that say where, which position, and what.

    from sinkscope.intervene.edits import SetWrite, Stream
    edits = [SetWrite(block=1, kind="mlp", position=0, how="mean"), Stream(point=3, how="norm")]

They are printed as one line, saved with `to_json`, read with `from_json`, and carried out together
by `sinkscope.intervene.engine.Engine.run`.
"""

from typing import Any

from sinkscope.errors import InputError
from sinkscope.intervene.edits.attention import FreezeAttention, QueryBias, SelfOnly, Transplant
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.intervene.edits.cache import RoundCache, SlidingCache
from sinkscope.intervene.edits.hold import HoldDirection, HoldKeys, KeepNorm
from sinkscope.intervene.edits.keep import KeepUnits
from sinkscope.intervene.edits.keys import (
    ClampAttention,
    RecordAttention,
    RemoveAttention,
    RemoveValue,
)
from sinkscope.intervene.edits.positions import PositionIds
from sinkscope.intervene.edits.rounding import RoundInputs, RoundWeights
from sinkscope.intervene.edits.stream import Stream
from sinkscope.intervene.edits.tokens import (
    DropToken,
    InsertToken,
    RandomTokens,
    RepeatToken,
    TokenAt,
)
from sinkscope.intervene.edits.units import Heads, Neurons
from sinkscope.intervene.edits.writes import MatchVariance, ScaleWrite, SetWrite

__all__ = [
    "ClampAttention",
    "Context",
    "DropToken",
    "Edit",
    "FreezeAttention",
    "Heads",
    "HoldDirection",
    "HoldKeys",
    "InsertToken",
    "KeepNorm",
    "KeepUnits",
    "MatchVariance",
    "Neurons",
    "PositionIds",
    "QueryBias",
    "RandomTokens",
    "RecordAttention",
    "RemoveAttention",
    "RemoveValue",
    "RepeatToken",
    "RoundCache",
    "RoundInputs",
    "RoundWeights",
    "ScaleWrite",
    "SelfOnly",
    "SetWrite",
    "SlidingCache",
    "Stream",
    "TokenAt",
    "Transplant",
    "from_json",
]


def from_json(data: dict[str, Any]) -> Edit:
    """Read an edit back from `Edit.to_json`. Raises InputError for anything else."""
    fields = {name: _as_tuple(value) for name, value in data.items()}
    kinds = {kind.__name__: kind for kind in _kinds(Edit)}
    name = fields.pop("edit", None)
    if name not in kinds:
        raise InputError(f"{name!r} is not an edit; known are {', '.join(sorted(kinds))}.")
    try:
        return kinds[name](**fields)
    except TypeError as error:
        raise InputError(f"{name} cannot be read back: {error}.") from None


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _kinds(base: type[Edit]) -> list[type[Edit]]:
    return [kind for sub in base.__subclasses__() for kind in (sub, *_kinds(sub))]
