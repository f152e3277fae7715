"""Generated pages are current, and the prose names only commands that exist."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "build.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page):
    file = ROOT / page if page == "README.md" else ROOT / "docs" / page
    for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), target


@pytest.mark.parametrize(
    ("room", "page"),
    [
        ("detect", "measures"),
        ("circuit", "measures"),
        ("mixing", "mixing"),
        ("training_runs", "timeline"),
        ("advice", "advise"),
    ],
)
def test_every_array_is_explained(room, page):
    labels = importlib.import_module(f"sinkscope.{room}.arrays").LABELS
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert not [name for name in labels if f"`{name}`" not in text]


def test_every_key_of_a_saved_run_stands_on_the_page(tmp_path):
    """Keys of dicts that have names of their own (tests, sublayers, bounds) are no keys."""
    from tests.circuit_fixture import build_circuit

    page = (ROOT / "docs" / "summary.md").read_text(encoding="utf-8")
    content = json.loads(build_circuit().to_json())
    for command in ("scan", "trace", "verify"):
        for part in content[command].values():
            assert not [key for key in part if f"| `{key}` |" not in page]


def test_a_key_without_a_comment_is_refused():
    sys.path.insert(0, str(ROOT / "docs"))
    import build

    from sinkscope.schema.base import Threshold

    assert [name for name, *_ in build.fields_of(Threshold)] == ["value", "reason"]
    assert build.fields_of(Threshold)[0][2] == "the bound"
    with pytest.raises(ValueError, match="unexplained"):
        build.fields_of(Settings)


class Settings:
    unexplained: int


def test_every_test_of_verify_is_explained():
    sources = (ROOT / "src" / "sinkscope" / "causal").rglob("*.py")
    ids = {
        id
        for file in sources
        for id in re.findall(r'"([NSIM][1-9]s?)"', file.read_text(encoding="utf-8"))
    }
    table = (ROOT / "docs" / "measures.md").read_text(encoding="utf-8").split("## The proof")[1]
    assert len(ids) >= 11
    assert not [id for id in ids if not re.search(rf"\b{id}\b", table)]


def test_every_edit_is_explained():
    from sinkscope.intervene import edits

    text = (ROOT / "docs" / "edits.md").read_text(encoding="utf-8")
    names = [name for name in edits.__all__ if name not in ("Context", "Edit", "from_json")]
    assert not [name for name in names if f"`{name}`" not in text]


def python_of(page):
    """The Python blocks of a page, or the code cells of a notebook, as one program."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))


@pytest.mark.parametrize("name", ["circuit.md", "edits.md", "mixing.md", "notebooks/circuit.ipynb"])
def test_code_of_the_docs_runs_offline_and_tells_the_truth(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = {}
    exec(compile(python_of(ROOT / "docs" / name), name, "exec"), names)
    said = capsys.readouterr().out
    if name == "edits.md":  # what the page says of the numbers
        changes = [float(n) for n in re.findall(r"^([+-]\d\.\d+) ", said, re.M)]
        assert changes[0] < -0.5 < changes[1]
        assert changes[-2] < -0.5 < changes[-1]
        assert float(re.search(r"gains (\S+) nats", said).group(1)) > 1
        assert re.findall(r"^(\S+) left", said, re.M)[:2] == ["0.000", "0.500"]
        assert len(re.findall(r"^spread ", said, re.M)) == 3
    elif name == "mixing.md":
        assert said.startswith("used more\n")
        assert (tmp_path / "run" / "report.html").exists()
    elif name == "circuit.md":
        assert names["found"].emergence_block == 1
        assert len(names["found"].writing_neurons) == 4
        assert (tmp_path / "run" / "report.html").exists()
    else:
        assert sorted(names["found"].writing_neurons) == sorted(names["truth"].writing_neurons)
        assert "p0-circuit" in said
        assert (tmp_path / "run" / "report.html").exists()
