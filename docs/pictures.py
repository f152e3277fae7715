"""Make the pictures of the docs' pages and the outputs of the notebook.

python docs/pictures.py             all of them, a few minutes on a laptop
python docs/pictures.py circuit     one page only: circuit, mixing, measure, or notebook
python docs/pictures.py real RUN    those of docs/real-models.md, from a run folder of that model

Nothing is downloaded. The notebook's cells are run in order in one namespace; what they print and
the value of their last line are stored in it, charts as PNG.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
NOTEBOOK = DOCS / "notebooks" / "circuit.ipynb"
MECHANISM = ("--mechanism", "p0-two-block", "--seed", "7")
# page -> options of lab build, the command, and its pictures by the names that
# `sinkscope report --figures` gives them
PAGES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "circuit": (
        [],
        ["run", "model", "--prompts", "random", "--n", "16", "--length", "64"],
        [
            *("circuit", "auroc", "variance", "trace-norm", "neurons", "attribution"),
            *("necessity-tests", "dose-n2", "sufficiency-tests", "kept"),
        ],
    ),
    "mixing": (
        ["--carry", "1", "--noise", "0"],
        ["mix", "model", "--prompts", "random", "--n", "16", "--length", "64"],
        [
            *("spread-with", "spread-without", "spread-depth", "jacobian-with"),
            *("jacobian-without", "mix-loss", "mix-mediation", "mix-length", "mix-repeat"),
            "collapse-effective-rank",
        ],
    ),
}


@contextlib.contextmanager
def inside(folder: str) -> Iterator[None]:
    """Work in a folder, and come back."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def pictures(page: str) -> None:
    """The commands of one page, and its pictures."""
    from sinkscope.cli.app import main

    build, command, names = PAGES[page]
    with tempfile.TemporaryDirectory() as folder, inside(folder):
        for arguments in (
            ["lab", "build", *MECHANISM, *build, "--out", "model"],
            [*command, "--out", "run"],
            ["report", "run", "--figures", "figures"],
        ):
            with contextlib.suppress(SystemExit):
                main(arguments)
        (DOCS / page).mkdir(exist_ok=True)
        for name in names:
            shutil.copy(f"figures/{name}-without.png", DOCS / page / f"{name}.png")


def real(run: str) -> None:
    """The pictures of the pretrained model, from a run folder."""
    from sinkscope.cli.app import main

    (DOCS / "real").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(SystemExit):
            main(["report", run, "--figures", folder + "/figures"])
        for name in ("circuit", "trace-norm"):
            shutil.copy(f"{folder}/figures/{name}-without.png", DOCS / "real" / f"{name}.png")


MEASURES = (  # command on what is bundled, and a figure of it -> its name in docs/measure
    ("scan", "heads-late-share-without", "late-share"),
    ("scan", "received-without", "received"),
    ("scan", "ranked-without", "nulls"),
    ("timeline", "timeline-sink-step-log", "emergence"),
)


def measures() -> None:
    """The pictures of pages of measures that no other page has."""
    from sinkscope.cli.app import main

    with tempfile.TemporaryDirectory() as folder, inside(folder):
        for arguments in (
            ["scan", "--n", "8", "--length", "64", "--out", "scan"],
            ["timeline", "bundled", "--n", "4", "--length", "64", "--out", "timeline"],
            ["report", "scan", "--figures", "scan-figures"],
            ["report", "timeline", "--figures", "timeline-figures"],
        ):
            with contextlib.suppress(SystemExit):
                main(arguments)
        for command, figure, name in MEASURES:
            shutil.copy(f"{command}-figures/{figure}.png", DOCS / "measure" / f"{name}.png")


def execute(path: Path) -> None:
    """Run a notebook's cells and store what they give."""
    book = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, inside(folder):
        code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        for number, cell in enumerate(code, 1):
            cell["execution_count"] = number
            cell["outputs"] = run_cell("".join(cell["source"]), names, number)
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def run_cell(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Outputs of one cell in the form that notebooks keep them."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        result = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
        outputs.append({**result, "data": shown(value)})
    return outputs


def shown(value: Any) -> dict[str, Any]:
    """A value as a notebook shows it: charts as a picture, all else as text."""
    if not type(value).__name__.endswith("Chart"):
        return {"text/plain": repr(value).splitlines(keepends=True)}
    import vl_convert

    from sinkscope.report import embed, theme

    png = vl_convert.vegalite_to_png(
        value.to_dict(),
        vl_version=embed.vega_lite_version(),
        config=theme.vega_config(theme.LIGHT) | {"background": "white"},
        allowed_base_urls=[],
    )
    return {
        "image/png": base64.b64encode(png).decode(),
        "text/plain": [f"alt.{type(value).__name__}(...)"],
    }


if __name__ == "__main__":
    asked = sys.argv[1:] or [*PAGES, "measure", "notebook"]
    if asked[0] == "real":
        real(asked[1])
        asked = []
    others = {"notebook": lambda: execute(NOTEBOOK), "measure": measures}
    for what in asked:
        others.get(what, lambda what=what: pictures(what))()
