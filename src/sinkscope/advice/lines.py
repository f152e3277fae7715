"""Lines for other tools, each from the table of settings that were read in those tools."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sinkscope.schema.advise import AdviceLine
from sinkscope.subject.load import Subject

TABLE = Path(__file__).with_name("settings.yaml")
# what a line does, where its entry in the table does not say otherwise
PURPOSES = {
    "bos": "BOS first: {lower}",
    "keep": "first tokens kept: {keep}",
    "cache_bits": "int{bits} KV cache",
    "skip_layers": "int4 KV cache, not in blocks {layers}",
    **dict.fromkeys(
        ("ignore_tensor", "ignore_token", "ignore_weights"), "{scheme}, not in maps with outliers"
    ),
    "dtype": "{dtype}",
    "learned": "learned sink",
}


@cache
def table() -> dict[str, list[dict[str, Any]]]:
    """What may be printed, by purpose."""
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def lines(purpose: str, **values: Any) -> list[AdviceLine]:
    """The lines for a purpose that these values can fill; others are left out."""
    found: list[AdviceLine] = []
    for entry in table()[purpose]:
        try:
            line = entry["line"].format(**values) if "line" in entry else ""
        except KeyError:
            continue
        if line:
            found.append(
                {
                    "tool": entry["tool"],
                    "purpose": entry.get("purpose", PURPOSES[purpose]).format(**values),
                    "line": line,
                    "version": entry["version"],
                    "source": entry["source"],
                    "note": entry["note"],
                }
            )
    return found


def loadable(subject: Subject) -> dict[str, str]:
    """{"model": name on the Hub, else MODEL} for lines that load it; nothing for a GGUF file."""
    name = str(subject.identity.get("id", ""))
    return {} if name.endswith(".gguf") else {"model": name if "/" in name else "MODEL"}


def without(purpose: str) -> list[str]:
    """Tools in which no such setting was found."""
    return [tool for entry in table()[purpose] for tool in entry.get("none", [])]
