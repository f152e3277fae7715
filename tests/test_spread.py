"""A model spread over two processes, by transformers' own plan, gives the numbers of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sinkscope
from sinkscope.errors import InputError, Unsupported
from sinkscope.result import load_result
from sinkscope.subject import spread as spreading
from sinkscope.subject.at_hand import refuse_edit, weights_of
from sinkscope.subject.load import load
from sinkscope.subject.tiny import tiny_model
from tests.rooms_fixture import constructed

pytest.importorskip("transformers.distributed.tensor_parallel")
FEW = {"n": 4, "length": 32, "kind": "random"}
COMMANDS = {"scan": {}, "trace": {}, "verify": {"rows": 4, "draws": 2}}
TOLERANCE = 1e-5  # of the largest value of an array
# One minus a ratio of variances: where a head gives all to P0 the measured one is 1e-6, in float32,
# and in one process too the ratio moves by 2e-4 when weights move by 1e-7 of themselves.
LOOSE = {"cone_r2": 1e-3}
EXPERTS = ("mixtral", "qwen2_moe")  # routed; the second has an expert that serves every token
BUDGET = {"n": 24, "length": 16, "kind": "random", "draws": 2, "budget": 1e-6}
IDS = torch.arange(20)[None]


def work(folder: Path, out: Path) -> None:
    """What each of the processes does."""
    torch.set_num_threads(1)
    subject = load(folder / "llama", tensor_parallel=True)
    rank = torch.distributed.get_rank()
    with torch.no_grad():
        torch.save(subject.model(IDS).logits, out / f"logits-{rank}.pt")
    block = subject.anatomy.modules(subject.model)[1]
    with weights_of(block):
        torch.save(block.mlp.down_proj.weight.detach().clone(), out / f"weight-{rank}.pt")
    torch.save(gradients(subject.model), out / f"gradients-{rank}.pt")
    for name, settings in COMMANDS.items():
        getattr(sinkscope, name)(subject, **FEW, **settings).save(out / f"llama-{name}-{rank}")
    for kind in EXPERTS:
        routed = load(folder / kind, tensor_parallel=True)
        sinkscope.trace(routed, **FEW).save(out / f"{kind}-trace-{rank}")
        if kind == "mixtral":
            sinkscope.run(routed, **BUDGET).save(out / f"budget-{rank}")
    said = {"clock": [spreading.clock_of(subject.model)() for _ in range(3)]}
    try:
        refuse_edit(block, "block 1")
    except Unsupported as error:
        said["edit"] = str(error)
    (out / f"said-{rank}.json").write_text(json.dumps(said))
    torch.distributed.destroy_process_group()


def gradients(model) -> list[torch.Tensor]:
    """Of a number that the logits make: to what the last map of an MLP and a block are given."""
    leaves = []

    def leaf(module, args):
        leaves.append(args[0].detach().requires_grad_())
        return (leaves[-1], *args[1:])

    places = (model.model.layers[1], model.model.layers[2].mlp.down_proj)
    handles = [module.register_forward_pre_hook(leaf) for module in places]
    found = torch.autograd.grad(model(IDS).logits.square().mean(), leaves)
    for handle in handles:
        handle.remove()
    return list(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    subject = constructed()
    subject.model.save_pretrained(path / "llama")
    subject.tokenizer.save_pretrained(path / "llama")
    for kind in EXPERTS:
        tiny_model(kind).save_pretrained(path / kind)
    return path


@pytest.fixture(scope="module")
def spread(folder, tmp_path_factory):
    """Folder that two processes wrote what they found into."""
    out = tmp_path_factory.mktemp("spread")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *command, "-m", "tests.test_spread", str(folder), str(out)],
        capture_output=True, text=True, timeout=600, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("rank", [0, 1])
def test_logits_weights_and_gradients_are_whole_in_every_process(folder, spread, rank):
    model = load(folder / "llama").model
    with torch.no_grad():
        torch.testing.assert_close(torch.load(spread / f"logits-{rank}.pt"), model(IDS).logits)
    weight = model.model.layers[1].mlp.down_proj.weight
    torch.testing.assert_close(torch.load(spread / f"weight-{rank}.pt"), weight.detach())
    found = torch.load(spread / f"gradients-{rank}.pt")
    for one, other in zip(found, gradients(model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "command"), [*(("llama", name) for name in COMMANDS), *((k, "trace") for k in EXPERTS)]
)
def test_every_number_is_that_of_one_process(folder, spread, kind, command):
    one = getattr(sinkscope, command)(load(folder / kind), **FEW, **COMMANDS[command])
    for rank in (0, 1):
        other, compared = load_result(spread / f"{kind}-{command}-{rank}"), 0
        for path in one.data.groups:
            for name, values in one.data[path].data_vars.items():
                if values.dtype.kind != "f" or not np.isfinite(values.values).any():
                    continue
                found, compared = other.data[path][name].values, compared + values.size
                bound = LOOSE.get(name, TOLERANCE) * max(1.0, np.nanmax(np.abs(values.values)))
                np.testing.assert_allclose(found, values.values, rtol=0, atol=bound, err_msg=name)
        assert compared > (1000 if kind == "llama" else 500)
    if command == "verify":
        verdicts = [each.verdict for r in (one, other) for each in r.summary.verify.values()]
        assert verdicts[0] == verdicts[1] != "none"


def test_edits_of_spread_weights_are_refused(spread):
    for rank in (0, 1):
        said = json.loads((spread / f"said-{rank}.json").read_text())
        assert "spread over processes" in said["edit"]


@pytest.mark.parametrize("style", ["packed_colwise", "rowwise"])
def test_weights_that_are_split_in_another_way_are_refused(monkeypatch, style):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2) if style != "rowwise" else torch.nn.GRU(2, 2))
    model.config, model.tp_plan = SimpleNamespace(model_type="this"), {"*": style}
    for name in ("is_spread", "_is_split"):
        monkeypatch.setattr(spreading, name, lambda held: True)
    with pytest.raises(Unsupported, match=f"this cannot .* 0 is split as {style}"):
        spreading.make_whole(model)


def test_a_budget_is_of_one_clock(spread):
    """Processes that took other prompts, or other tests, would wait for each other for ever."""
    clocks = [json.loads((spread / f"said-{rank}.json").read_text())["clock"] for rank in (0, 1)]
    assert clocks[0] == clocks[1]
    one, other = (load_result(spread / f"budget-{rank}").summary for rank in (0, 1))
    assert one.prompts.n == other.prompts.n == 8
    (a,), (b,) = (summary.scan.values() for summary in (one, other))
    assert a.notes == b.notes
    assert any("has no time for more" in note for note in a.notes)


def test_one_process_alone_is_told_how_to_start_several(folder):
    with pytest.raises(InputError, match="torchrun"):
        load(folder / "llama", tensor_parallel=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]))
