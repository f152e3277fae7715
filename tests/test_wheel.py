"""What is published: the wheel, the series beside it, and the source."""

import re
import tarfile
import zipfile
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; hatchling brings it
    import tomli as tomllib

from sinkscope.training_runs.sources import SERIES

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MOST = 10_000_000  # bytes of the wheel


def built(folder, project, target="wheel"):
    """The file that `python -m build` makes of a project, without an environment of its own."""
    import hatchling.builders.sdist
    import hatchling.builders.wheel

    builder = {
        "wheel": hatchling.builders.wheel.WheelBuilder,
        "sdist": hatchling.builders.sdist.SdistBuilder,
    }[target](str(project))
    (file,) = builder.build(directory=str(folder))
    return Path(file)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built(tmp_path_factory.mktemp("wheel"), ROOT)


def names_in(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size < MOST


def test_the_wheel_has_the_program_and_the_bundled_model(wheel):
    source = ROOT / "src"
    expected = {
        str(file.relative_to(source))
        for file in (source / "sinkscope").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and SERIES not in file.parents
    }
    names = names_in(wheel)
    assert not expected - names
    assert "sinkscope/assets/reference-model/model.safetensors" in names
    assert not [name for name in names if "checkpoint-" in name]


def test_the_series_is_a_wheel_that_adds_what_the_first_leaves_out(wheel, tmp_path):
    more = built(tmp_path, ROOT / "packaging" / "series")
    series = {name for name in names_in(more) if ".dist-info/" not in name}
    assert not series & names_in(wheel)
    assert series == {
        f"sinkscope/assets/series/{file.relative_to(SERIES)}"
        for file in (SERIES / "induced-norm").rglob("*")
        if file.is_file()
    }


def test_the_source_has_all_that_the_tests_and_pages_need(tmp_path):
    with tarfile.open(built(tmp_path, ROOT, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("Makefile", "constraints.txt", "tests/conftest.py", "docs/build.py", "LICENSE"):
        assert name in names
    assert "src/sinkscope/assets/series/induced-norm/checkpoint-800/model.safetensors" in names
    assert not [name for name in names if name.startswith((".venv", "site/", "dist/"))]


def test_every_file_names_one_version():
    import sinkscope

    version = PROJECT["version"]
    series = tomllib.loads((ROOT / "packaging/series/pyproject.toml").read_text("utf-8"))
    assert series["project"]["version"] == version
    assert PROJECT["optional-dependencies"]["series"] == [f"sinkscope-series=={version}"]
    cff = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.*)$", cff, re.M).group(1) == version
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert sinkscope.__version__ == version
