"""Which entry of a file a library's error is about, since libraries seldom say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError
from sinkscope.settings import refuse_beyond


def first_line(error: BaseException) -> str:
    """The first line of an error's text, as the end of a sentence; a heading takes the next too."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    if isinstance(error, KeyError):
        lines = [f"there is no {lines[0]}"]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return said[:400].rstrip(".") + "."


def refuse_wrong_values(config: dict[str, Any], where: str) -> None:
    """Refuse values of config.json that libraries take, and then fail on or make nothing of."""
    for name in ("quantization_config", "rope_parameters", "rope_scaling", "text_config"):
        value = config.get(name)
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{where}: config.json: {name} is {value!r:.80}, no JSON object.")
    for path, value in _leaves(config):
        refuse_beyond(f"{where}: config.json: {path}", value)
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if isinstance(window, int) and not isinstance(window, bool) and window < 1:
        raise InputError(
            f"{where}: config.json: sliding_window is {window}, so that no position is seen; a "
            "positive number or null is expected."
        )
    for name in ("rope_parameters", "rope_scaling"):
        for key, value in (config.get(name) or {}).items():
            if key in ("rope_theta", "factor") and not _positive(value):
                raise InputError(
                    f"{where}: config.json: {name}.{key} is {value!r:.80}; a positive number is "
                    "expected."
                )


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def named_value(where: str, error: BaseException, name: str = "config.json") -> str:
    """ "its hidden_act is 'x': " for an error that quotes a text that a JSON file holds, or ""."""
    try:
        content = json.loads((Path(where) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    said = str(error)
    for path, value in _leaves(content):
        if isinstance(value, str) and value and repr(value) in said and path not in said:
            return f"its {path} is {value!r}: "
    return ""


def _leaves(content: Any) -> Iterator[tuple[str, Any]]:
    """Every value in plain data that holds no others, with the keys that lead to it."""
    held = [("", content)]
    while held:
        before, inner = held.pop()
        if isinstance(inner, (dict, list)):
            pairs = inner.items() if isinstance(inner, dict) else enumerate(inner)
            held += [(f"{before}.{key}" if before else str(key), value) for key, value in pairs]
        else:
            yield before, inner
