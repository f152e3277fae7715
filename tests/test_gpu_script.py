"""The script that proves the GPU paths runs through, in miniature and on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "bench" / "gpu.py"
SECTIONS = ("parity", "throughput", "cost", "monitor", "longest", "training")


def run(out: Path, *arguments: str) -> tuple[int, dict]:
    command = [sys.executable, str(SCRIPT), "--tiny", "--device", "cpu", "--out", str(out)]
    command += ["--seconds", "3000"]  # a busy machine takes its time
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=400)
    (file,) = out.glob("gpu-*.json")
    return done.returncode, json.loads(file.read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    code, results = run(tmp_path_factory.mktemp("gpu"))
    assert code == 0, json.dumps(results["sections"], indent=1)[-3000:]
    return results


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_leaves_a_result(results, name):
    section = results["sections"][name]
    assert section["done"]
    assert section["found"]
    assert not [key for key, part in section["found"].items() if "error" in part]


def test_the_readers_agree_where_both_sides_are_the_cpu(results):
    found = results["sections"]["parity"]["found"]
    assert found["constructed"]["ok"]
    assert found["constructed"]["numbers_over_1e-3"] == 0
    assert found["operators float32 head 64 T 77 group 1"]["cpu"]["ok"]


def test_reading_is_set_beside_a_plain_pass(results):
    found = results["sections"]["throughput"]["found"]["32 blocks"]
    assert found["plain"]["ratio"] == 1.0
    assert found["all"]["ms"] > 0


def test_training_is_followed_from_step_zero(results):
    for name in ("llama", "moe"):
        rows = results["sections"]["training"]["found"][name]["checkpoints"]
        assert [row["step"] for row in rows] == [0, 2, 4]
        assert all(0 <= row["late_share"] <= 1 for row in rows)


def test_what_there_was_no_time_for_is_said_and_fails(tmp_path):
    code, results = run(tmp_path, "--only", "monitor", "--seconds", "1")
    assert code == 1
    assert not results["sections"].get("monitor", {"found": {}})["found"]
