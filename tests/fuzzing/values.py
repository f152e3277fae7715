"""Wrong values, and ways to put them into JSON and bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

HUGE = 10**12
DEEP = "[" * 3000 + "]" * 3000
WRONG = (
    *(
        None,
        True,
        "",
        "x",
        "\x1b[2J",
        "\0",
        "é" * 50,
        0,
        -1,
        1,
        3,
        7,
        2**31,
        2**63,
        HUGE,
        0.5,
        -1e9,
    ),
    *(1e308, [], [1], [[]], ["x"], {}, {"a": 1}, {"type": "junk"}, "kernels-community/x", [None]),
)
wrong_values = st.sampled_from(WRONG) | st.integers() | st.text(max_size=8) | st.floats()


def paths_of(value: Any, depth: int = 4) -> list[tuple[Any, ...]]:
    """Every place in plain data, as the keys that lead to it."""
    pairs = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        pairs = enumerate(value[:4])
    found: list[tuple[Any, ...]] = []
    for key, inner in pairs:
        found.append((key,))
        found += [(key, *rest) for rest in paths_of(inner, depth - 1)] if depth > 1 else []
    return found


def with_value(file: str, path: tuple[Any, ...], value: Any) -> Callable[[Path], None]:
    """Put a value at a place in a JSON file; `DROP` takes the place away."""

    def make(folder: Path) -> None:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        if value is DROP:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        (folder / file).write_text(json.dumps(content), encoding="utf-8", errors="replace")

    return make


DROP = object()


def with_bytes(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change the bytes of a file."""

    def make(folder: Path) -> None:
        path = folder / file
        path.write_bytes(change(path.read_bytes()))

    return make


@st.composite
def byte_changes(draw: Any, most: int) -> tuple[str, Callable[[bytes], bytes]]:
    """A cut, a flip, junk, nothing, or what is no UTF-8; with its words."""
    at, byte = draw(st.integers(0, max(1, most))), draw(st.integers(0, 255))
    changes: dict[str, Callable[[bytes], bytes]] = {
        f"cut at {at}": lambda b: b[: at % (len(b) + 1)],
        f"byte {at} is {byte}": lambda b: b[: at % len(b)] + bytes([byte]) + b[at % len(b) + 1 :],
        "empty": lambda b: b"",
        "not UTF-8": lambda b: b"\xff\xfe" + b,
        "deep JSON": lambda b: DEEP.encode(),
        "null": lambda b: b"null",
        "a list": lambda b: b"[1]",
        "zeros": lambda b: bytes(64),
        "a pointer": lambda b: (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        ),
    }
    what = draw(st.sampled_from(sorted(changes)))
    return what, changes[what]
