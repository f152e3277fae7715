"""Which entry of a file a library's error is about, since libraries seldom say."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sinkscope.checked import refuse_beyond
from sinkscope.errors import InputError


def refuse_wrong_values(config: dict[str, Any], where: str) -> None:
    """Refuse values of config.json that libraries take, and then fail on or make nothing of."""
    for name in ("quantization_config", "rope_parameters", "rope_scaling", "text_config"):
        value = config.get(name)
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{where}: config.json: {name} is {value!r:.80}, no JSON object.")
    if not isinstance(config.get("model_type", ""), str):
        raise InputError(
            f"{where}: config.json: model_type is {config['model_type']!r:.80}, no text."
        )
    for path, value in _leaves(config):
        refuse_beyond(f"{where}: config.json: {path}", value)
        if isinstance(value, float) and not _is_number(path, value):
            raise InputError(
                f"{where}: config.json: {path} is {value}; a finite number is expected."
            )
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


@contextlib.contextmanager
def rope_warnings() -> Iterator[list[str]]:
    """What transformers logs of rotary settings that it leaves out or takes though they are odd."""
    logger, said = logging.getLogger("transformers.modeling_rope_utils"), []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage().replace("`", "").rstrip("."))

    kept, before = Kept(), (logger.level, logger.propagate)
    logger.addHandler(kept)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(kept)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def odd_settings(model: Any, asked: Any, rope: list[str]) -> str:
    """Sentences on entries of config.json that do not suit the model that was made of it, or "".

    asked  the architectures that config.json names; rope  what `rope_warnings` kept
    """
    said = [f"config.json: {each}." for each in dict.fromkeys(rope)]
    names = [str(name) for name in asked] if isinstance(asked, list) else []
    if names and type(model).__name__ not in names:
        said.append(
            f"config.json names {', '.join(names)} as its class; its model_type makes it "
            f"{type(model).__name__}."
        )
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(model.config.get_text_config(decoder=True), "tie_word_embeddings", False)
    if tied and head is not None and getattr(head, "weight", None) is not embedding.weight:
        said.append(
            "config.json ties the head over the vocabulary to the embedding, and the files hold "
            "another head, which was used."
        )
    return " ".join(said)


def _is_number(path: str, value: float) -> bool:
    """Whether a value is one; a limit (`time_step_limit`) may be infinite, nothing may be NaN."""
    return math.isfinite(value) or (value == math.inf and "limit" in path)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def named_value(where: str, error: BaseException) -> str:
    """ "its hidden_act is 'x': " for an error that quotes a text of config.json, or ""."""
    try:
        content = json.loads((Path(where) / "config.json").read_text(encoding="utf-8"))
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
