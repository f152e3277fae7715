"""Names of checkpoints: every form that was seen on the Hub, in folders and in training codes."""

from __future__ import annotations

import pytest

from sinkscope.errors import InputError
from sinkscope.training_runs.revisions import (
    axis,
    listed,
    one_line,
    parse_all,
    parse_revision,
)

B, T, M = 10**9, 10**12, 10**6
# name, step, unit, tokens, stage, branch
FORMS = [
    # the forms of the suites, as they are
    ("step1000", 1000, "step", None, "", ""),
    ("step1000-tokens4B", 1000, "step", 4 * B, "", ""),
    ("stage1-step150-tokens1B", 150, "step", B, "stage1", ""),
    ("stage2-ingredient3-step12000-tokens26B", 12000, "step", 26 * B, "stage2", "3"),
    ("stage1-step-40000", 40000, "step", None, "stage1", ""),
    ("step-001000-2BT", 1000, "step", 2 * B, "", ""),
    ("ckpt_356", 356, "index", None, "", ""),
    ("ckpt_000", 0, "index", None, "", ""),
    ("global_step5000", 5000, "step", None, "", ""),
    ("128000", 128000, "step", None, "", ""),
    ("checkpoint-500", 500, "step", None, "", ""),
    ("iter_0001000", 1000, "step", None, "", ""),
    ("step-0040/", 40, "step", None, "", ""),
    ("rl/run-3/step-0040", 40, "step", None, "", ""),
    ("EleutherAI/pythia-14m-seed1/step512", 512, "step", None, "", ""),
    # drawn from them
    ("step0", 0, "step", None, "", ""),
    ("step143000", 143000, "step", None, "", ""),
    ("step1200000-tokens5033B", 1200000, "step", 5033 * B, "", ""),
    ("step738020-tokens3095B", 738020, "step", 3095 * B, "", ""),
    ("step20000-tokens84B", 20000, "step", 84 * B, "", ""),
    ("stage1-step0-tokens0B", 0, "step", 0, "stage1", ""),
    ("stage1-step928646-tokens3896B", 928646, "step", 3896 * B, "stage1", ""),
    ("stage2-ingredient1-step11931-tokens50B", 11931, "step", 50 * B, "stage2", "1"),
    ("stage3-step-4720000", 4720000, "step", None, "stage3", ""),
    ("lc-4k-to-32k-step-20000", 20000, "step", None, "long-context", ""),
    ("step-167000-350BT", 167000, "step", 350 * B, "", ""),
    ("step-000500-1.05BT", 500, "step", 1_050_000_000, "", ""),
    ("ckpt_358", 358, "index", None, "", ""),
    ("ckpt-7", 7, "index", None, "", ""),
    ("global_step_95000", 95000, "step", None, "", ""),
    ("globalstep1000", 1000, "step", None, "", ""),
    ("checkpoint_400000", 400000, "step", None, "", ""),
    ("out/llama-1b/checkpoint-1500", 1500, "step", None, "", ""),
    ("checkpoint-1500/model", 1500, "step", None, "", ""),
    ("iter_0100000/hf", 100000, "step", None, "", ""),
    ("iteration-25", 25, "step", None, "", ""),
    ("multiberts-seed_0-step_20k", 20000, "step", None, "", ""),
    ("TinyLlama-1.1B-intermediate-step-1431k-3T", 1431000, "step", 3 * T, "", ""),
    ("step-480k-1T", 480000, "step", T, "", ""),
    ("CrystalCoder_phase1_checkpoint_055500", 55500, "step", None, "stage1", ""),
    ("epoch=3-step=1000.ckpt", 1000, "step", None, "", ""),
    ("ep0-ba1000", 1000, "step", None, "", ""),
    ("epoch-3", 3, "epoch", None, "", ""),
    ("train_00220B", 220 * B, "tokens", 220 * B, "", ""),
    ("240b_tokens", 240 * B, "tokens", 240 * B, "", ""),
    ("Skywork-13B-Base-0.5T", 500 * B, "tokens", 500 * B, "", ""),
    ("pythia-1b-step3000", 3000, "step", None, "", ""),
    ("step1000-unsharded", 1000, "step", None, "", ""),
    ("step_000010_tokens_20M", 10, "step", 20 * M, "", ""),
    ("OLMo-2-7B/stage1-step5000-tokens21B", 5000, "step", 21 * B, "stage1", ""),
    ("anneal-step12000", 12000, "step", None, "anneal", ""),
    ("sft-checkpoint-300", 300, "step", None, "sft", ""),
]
NONE = ["main", "v0.1", "convert-weights", "refs/pr/3", "float16", "best", "last", "final", "pr-12"]
NONE += ["Llama-3-8B", "timestep5", "gptq-4bit-32g", "logs"]


@pytest.mark.parametrize(("name", "step", "unit", "tokens", "stage", "branch"), FORMS)
def test_form(name, step, unit, tokens, stage, branch):
    found = parse_revision(name)
    assert found is not None
    assert (found.step, found.unit, found.tokens) == (step, unit, tokens)
    assert (found.stage, found.branch, found.name) == (stage, branch, name)


@pytest.mark.parametrize("name", NONE)
def test_no_checkpoint(name):
    assert parse_revision(name) is None


def test_order_is_that_of_training():
    names = ["step1000", "main", "step2", "step143000", "step0", "step16"]
    found, other = parse_all(names)
    assert [r.step for r in found] == [0, 2, 16, 1000, 143000]
    assert other == ["main"]


def test_stages_come_in_order_and_a_missing_prefix_is_the_first():
    names = [
        "stage2-ingredient2-step1000-tokens5B",
        "stage2-ingredient1-step1000-tokens5B",
        "step300-tokens2B",
        "stage1-step150-tokens1B",
        "stage1-step900-tokens7B",
        "lc-4k-to-32k-step-100",
    ]
    found, _ = parse_all(names)
    kept, left = one_line(found)
    assert [r.step for r in kept] == [150, 300, 900, 1000, 100]
    assert [r.name for r in left] == ["stage2-ingredient2-step1000-tokens5B"]
    # a stage that goes on counting keeps its steps, one that starts again is put behind
    assert axis(kept) == [150, 300, 900, 1000, 1100]


def test_units_are_not_mixed():
    found, other = parse_all(["step10", "step20", "ckpt_1"])
    assert [r.step for r in found] == [10, 20]
    assert other == ["ckpt_1"]
    with pytest.raises(InputError, match="share no axis"):
        parse_all(["epoch-3", "ckpt_1"])


def test_pattern_of_the_user_wins():
    pattern = r"^run(?P<step>\d+)x(?P<tokens>\d+B)$"
    found = parse_revision("run70x3B", pattern)
    assert found is not None
    assert (found.step, found.tokens) == (70, 3 * B)
    assert parse_revision("step70", pattern) is None
    with pytest.raises(InputError, match="no regular expression"):
        parse_revision("step70", "(")
    with pytest.raises(InputError, match="no number"):
        parse_revision("step70", "(s)tep")


def test_list_of_the_user_keeps_its_order():
    assert [r.step for r in listed(["step20", "step10"])] == [20, 10]
    assert [(r.step, r.unit) for r in listed(["main", "step10"])] == [(0, "index"), (1, "index")]
    with pytest.raises(InputError, match="twice"):
        listed(["main", "main"])
