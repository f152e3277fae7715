"""YAML files of whoever: read as plain data, held against a type, with names that are no paths."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from sinkscope.errors import InputError

LARGEST = 1_000_000  # bytes of a YAML file, and values in it
PLAIN_NAME = r"\w[\w.+=-]{0,79}"  # of what becomes the name of a folder or file: never a path


def yaml_names(folder: Any) -> list[str]:
    """Names of the YAML files in a folder."""
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if _is_yaml(p.name))


def read_yaml(folder: Any, name: str, kind: str, hint: str) -> Any:
    """What the YAML file of that name in a folder holds, or the one at that path, as plain data.

    Errors: InputError, with the kind of thing that was looked for, if there is none, or no YAML.
    """
    source: Any = folder / f"{name}.yaml"
    if name not in yaml_names(folder):
        if not _is_yaml(name):
            raise InputError(f"{name!r} is no {kind}; {hint} a .yaml file.")
        source = Path(name)
        if not source.is_file():
            raise InputError(f"No {kind} at {name}.")
    try:
        if not isinstance(source, Path) or source.stat().st_size <= LARGEST:
            held = yaml.load(source.read_text(encoding="utf-8"), _Reader)
            if _size(held, {}) <= LARGEST:
                return held
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{name} cannot be read as YAML: {first}.") from error
    raise InputError(f"{name} is too large for a {kind}.")


class _Reader(yaml.SafeLoader):
    """Plain data, in which no key stands twice: one of the two would be left out."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node. Errors: ConstructorError for a key that stands twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if double := next((key for key in keys if keys.count(key) > 1), None):
            said = f"{double} stands there twice"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
        return super().construct_mapping(node, deep)


def _size(held: Any, seen: dict[int, float]) -> float:
    """Values in plain data, an alias counted wherever it stands; infinite where it holds itself."""
    if not isinstance(held, (dict, list)):
        return 1
    if id(held) not in seen:
        seen[id(held)] = math.inf
        parts = [*held, *held.values()] if isinstance(held, dict) else held
        seen[id(held)] = 1 + sum(_size(part, seen) for part in parts)
    return seen[id(held)]


def validated(reader: TypeAdapter, settings: Any, where: str) -> Any:
    """Plain data as what a reader reads. Errors: InputError with the first thing that is wrong."""
    try:
        # By way of JSON, which pydantic reads strictly and yet takes lists for tuples.
        return reader.validate_json(json.dumps(settings), strict=True)
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: {_first_complaint(error)}.") from error


def refuse_path(name: Any, where: str) -> None:
    """Raise InputError for a name that is no plain one: files are written under it."""
    if not isinstance(name, str) or not re.fullmatch(PLAIN_NAME, name):
        raise InputError(
            f"{where}: {str(name)[:80]!r} is no plain name; use letters, digits and - _ . + =."
        )


def _first_complaint(error: Exception) -> str:
    """The first thing that pydantic finds wrong, as the end of a sentence."""
    if not isinstance(error, ValidationError):
        return str(error)
    unknown = [e for e in error.errors() if e["type"] == "unexpected_keyword_argument"]
    first = [*unknown, *error.errors()][0]
    where = ".".join(map(str, first["loc"]))
    if unknown:
        return f"{where} is not a setting"
    return f"{where}{': ' * bool(where)}{first['msg'][0].lower()}{first['msg'][1:]}"


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))
