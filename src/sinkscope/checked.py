"""Settings that are what their fields say: types, bounds, and room in 64 bits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from sinkscope.errors import InputError

MOST = 2**63 - 1  # of a whole number
KINDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", bool: "True or False", Path: "a path",
    tuple: "a tuple of texts", Sequence: "a list of texts",
}  # fmt: skip


def refuse_beyond(name: str, value: Any) -> None:
    """Raise InputError for a whole number that libraries have no room for."""
    if isinstance(value, int) and abs(value) > MOST:
        raise InputError(f"{name} is a whole number beyond 64 bits.")


def _of_kind(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    """A setting as one of the types that it may have; numbers of numpy and paths are turned.

    Raises InputError for a value of another type, and for NaN.
    """
    if value is None and NoneType in kinds:
        return None
    if isinstance(value, os.PathLike):
        value = value if Path in kinds else os.fspath(value)
    elif isinstance(value, list) and any(get_origin(kind) is tuple for kind in kinds):
        value = tuple(value)
    elif int in kinds and isinstance(value, Integral) and not isinstance(value, bool):
        value = int(value)
    elif float in kinds and isinstance(value, Real) and _is_number(value):
        return value if isinstance(value, int) else float(value)
    plain = tuple(get_origin(kind) or kind for kind in kinds)
    if isinstance(value, plain) and (bool in kinds or _is_number(value)):
        return value
    wanted = " or ".join(KINDS.get(kind, "None") for kind in dict.fromkeys(plain))
    raise InputError(f"{name} is {value!r:.80}; {wanted} is expected.")


def _is_number(value: Any) -> bool:
    """Whether a value is neither a truth value nor NaN."""
    return not isinstance(value, bool) and value == value


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


@dataclass(frozen=True)
class Checked:
    """Settings that have the types and the bounds that their fields are declared with.

    Raises InputError for a value of another type, beyond 64 bits, or below its least.
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for each in dataclasses.fields(self):
            kinds = get_args(hints[each.name]) if _is_union(hints[each.name]) else ()
            value = _of_kind(each.name, getattr(self, each.name), kinds or (hints[each.name],))
            object.__setattr__(self, each.name, value)
            least = each.metadata.get("at_least")
            if least is not None and value is not None and value < least:
                raise InputError(f"{each.name} is {value!r}; the least is {least}.")
            refuse_beyond(each.name, value)
