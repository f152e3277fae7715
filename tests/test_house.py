"""The house as CONTRIBUTING.md describes it: rooms, direction of imports, size of modules."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sinkscope"
# `Result.table`, `.plot` and `.save` render; everything else of the report reads a result
BACK = ("sinkscope.result", "report")
LONG, LONGEST, MOST_LONG = 300, 400, 4  # lines


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(text: str) -> set[str]:
    """Modules of the package that a source imports anywhere: at its head, lazily, or for types."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules() else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules().keys()


@cache
def imports() -> dict[str, set[str]]:
    """Module -> modules it imports, but for the one arrow that runs back."""
    return {
        name: {
            other
            for other in imported(path.read_text(encoding="utf-8")) - {name}
            if (name, room_of(other)) != BACK
        }
        for name, path in modules().items()
    }


def room_of(module: str) -> str:
    """First part behind the package: a folder, or a module on the ground floor."""
    return module.split(".")[1] if "." in module else ""


def rooms() -> set[str]:
    """Folders of the package that hold code."""
    return {path.parent.name for path in SOURCE.glob("*/__init__.py")}


def listed(text: str) -> list[str]:
    """What the map in CONTRIBUTING.md names, in its order: `room/` or `module.py`."""
    [block] = re.findall(r"^src/sinkscope/\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^ {2}(\w+(?:/|\.py))", block, re.MULTILINE)


def the_map() -> list[str]:
    return listed((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def test_every_room_and_every_module_beside_them_is_on_the_map():
    beside = {path.name for path in SOURCE.glob("[!_]*.py")}
    assert {f"{room}/" for room in rooms()} | beside <= set(the_map())


def test_no_room_imports_one_that_stands_below_it_on_the_map():
    order = [name[:-1] for name in the_map() if name.endswith("/")]
    back = {
        (name, other)
        for name, others in imports().items()
        for other in others
        if room_of(name) in order
        and room_of(other) in order
        and order.index(room_of(other)) > order.index(room_of(name))
    }
    assert not back


def test_no_circle_of_imports():
    try:
        list(TopologicalSorter(imports()).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_modules_are_short():
    lines = {name: path.read_text().count("\n") for name, path in modules().items()}
    long = {name: count for name, count in lines.items() if count > LONG}
    assert len(long) <= MOST_LONG, long
    assert max(lines.values()) <= LONGEST, long


def test_lazy_imports_and_those_for_types_are_seen():
    text = "if TYPE_CHECKING:\n    from sinkscope.errors import Missing\n"
    text += "def f():\n    import sinkscope.stats\n    from sinkscope import schema\n"
    assert imported(text) == {"sinkscope.errors", "sinkscope.stats", "sinkscope.schema"}
    assert listed("```\nsrc/sinkscope/\n  a/   room\n  b.py a module\n```\n") == ["a/", "b.py"]
