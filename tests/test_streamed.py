"""A model read block by block is the model that is loaded whole, and holds one block at a time."""

from __future__ import annotations

import json
import signal
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sinkscope
from sinkscope.circuit.writes import written_along
from sinkscope.cli import main
from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import RoundWeights
from sinkscope.intervene.engine import Engine
from sinkscope.observe.p0_stream import one_token_pass
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.registry import configurations
from sinkscope.observe.sites import find_sites
from sinkscope.observe.together import together
from sinkscope.subject.at_hand import (
    is_packed,
    plain_weight,
    reader_of,
    refuse_edit,
    weights_of,
)
from sinkscope.subject.load import Subject, load
from sinkscope.subject.tiny import HIDDEN, VOCAB, tiny_model
from tests.rooms_fixture import constructed

FAMILIES = ("llama", "gpt2", "mixtral", "gpt_oss", "gemma3_text")  # dense, fused, routed, scaled
IDS = torch.randint(VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path):
    def make(kind="llama", **options):
        tiny_model(kind).save_pretrained(tmp_path / kind, **options)
        return tmp_path / kind

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FAMILIES)
def test_logits_and_writes_are_those_of_the_model_in_memory(folder, kind):
    path = folder(kind, max_shard_size="100KB")  # a block may lie in several files
    assert len(list(path.glob("*.safetensors"))) > 1
    whole, streamed = load(path), load(path, stream=True)
    with torch.no_grad():
        torch.testing.assert_close(streamed.model(IDS).logits, whole.model(IDS).logits)
    u = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(1))
    found = []
    for subject in (whole, streamed):
        sites = find_sites(subject, token_prompts(IDS))
        found.append(written_along(subject, sites, IDS[:, 0], lambda block: u, 4))
    assert found[0].units.keys() == found[1].units.keys() != set()
    for name, units in found[0].units.items():
        torch.testing.assert_close(found[1].units[name], units)
    assert found[1].error < 1e-4


def test_one_block_is_held_at_a_time(folder):
    subject = load(folder(), stream=True)
    blocks = subject.anatomy.modules(subject.model)
    held = []

    def count(module, args):
        held.append([i for i, each in enumerate(blocks) if not all_on_disk(each)])

    for block in blocks:
        block.mlp.register_forward_pre_hook(count)
    with torch.no_grad():
        subject.model(IDS)
    assert held == [[0], [1], [2], [3]]
    embedding, head = subject.model.get_input_embeddings(), subject.model.lm_head
    # the head took the last block's place
    assert all(all_on_disk(module) for module in (embedding, head, *blocks))


SWEEPS = {"scan": 2, "trace": 8}  # how often a block is read, as docs/scale.md explains
FEW = {"kind": "random", "n": 8, "length": 32}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", SWEEPS)
@pytest.mark.parametrize("family", ["p0-two-block", "gpt2", "mixtral", "mpt"])  # mpt has maps only
def test_passes_go_through_the_blocks_together_and_find_the_same(tmp_path, family, command):
    whole = constructed() if family == "p0-two-block" else Subject.from_model(tiny_model(family))
    whole.model.save_pretrained(tmp_path)
    subjects = load(tmp_path), load(tmp_path, stream=True)
    one, other = (getattr(sinkscope, command)(subject, **FEW) for subject in subjects)
    (group,) = one.data[command].children
    expected, found = (result.data[f"{command}/{group}"].data_vars for result in (one, other))
    assert expected.keys() == found.keys()
    for name in (name for name in expected if expected[name].dtype.kind in "fiub"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert len(expected) >= 8
    reads = reader_of(subjects[1].anatomy.modules(subjects[1].model)).reads
    unread = command == "trace" and family == "gpt2"  # units that no head reads are asked for
    assert max(reads.values()) <= SWEEPS[command] + unread
    if family == "p0-two-block" and command == "trace":
        (a,), (b,) = (result.summary.trace.values() for result in (one, other))
        assert a.writing_neurons == b.writing_neurons != []
        assert (a.phases, a.recognition_point) == (b.phases, b.recognition_point)


def test_weights_outside_a_pass_are_read_where_they_lie(folder):
    path = folder()
    whole, streamed = load(path), load(path, stream=True)
    for one, other in zip(*(s.anatomy.modules(s.model) for s in (whole, streamed)), strict=True):
        with weights_of(other):
            torch.testing.assert_close(other.mlp.up_proj.weight, one.mlp.up_proj.weight)


def test_edits_of_weights_on_disk_are_refused(folder):
    subject = load(folder(), stream=True)
    engine = Engine(subject, token_prompts(IDS))
    with pytest.raises(Unsupported, match="lie on disk"):
        engine.run([RoundWeights(4)])


@pytest.mark.filterwarnings("ignore")
def test_where_maps_give_no_gradients_the_trace_says_what_it_lacks():
    whole = constructed()
    with_sink = torch.ao.quantization.quantize_dynamic(
        whole.model, {torch.nn.Linear}, dtype=torch.qint8
    )
    subject = Subject.from_model(with_sink, whole.tokenizer)
    (trace,) = sinkscope.trace(subject, kind="random", n=4, length=32).summary.trace.values()
    assert trace.reading_heads
    assert "no gradients" in trace.attribution["reason"]


@pytest.mark.filterwarnings("ignore")
def test_what_packed_maps_do_is_read_from_them():
    whole = tiny_model("llama")
    linear = torch.nn.Linear
    model = torch.ao.quantization.quantize_dynamic(whole, {linear}, dtype=torch.qint8)
    subject, few = Subject.from_model(model), {"kind": "random", "n": 4, "length": 16}
    both = (subject, Subject.from_model(whole))
    scans = [sinkscope.scan(each, untrained=False, **few).summary.scan for each in both]
    found, exact = (next(iter(scan.values())).late_share.value for scan in scans)
    assert found == pytest.approx(exact, rel=0.1)
    map_ = whole.model.layers[0].mlp.up_proj
    packed = model.model.layers[0].mlp.up_proj
    assert is_packed(packed)
    assert not is_packed(map_)
    torch.testing.assert_close(plain_weight(packed), map_.weight.detach(), rtol=0, atol=0.02)
    with pytest.raises(Unsupported, match="packed"):
        refuse_edit(model.model.layers[0], "block 0")


def test_a_block_that_lacks_a_weight_is_refused_when_it_is_read(folder):
    path = folder()
    file = path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, file)
    subject = load(path, stream=True)
    with pytest.raises(Unsupported, match="block 2 lacks"), torch.no_grad():
        subject.model(IDS)


def test_what_cannot_be_streamed_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        load("some/model", stream=True)
    path = folder()
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Unsupported, match="quantised"):
        load(path, stream=True)


def test_the_command_line_streams_and_says_so(folder, capsys):
    few = ("--n", "4", "--length", "16", "--prompts", "random", "--no-untrained", "--json")
    with pytest.raises(SystemExit) as ended:
        main(["scan", str(folder()), "--stream", *few])
    assert ended.value.code == 0
    (scan,) = json.loads(capsys.readouterr().out)["scan"].values()
    assert any("read from disk one at a time" in note for note in scan["notes"])


def all_on_disk(module):
    return all(p.device.type == "meta" for p in module.parameters())


@pytest.fixture
def streamed(folder):
    return load(folder(), stream=True)


def passed(subject, seen):
    """A pass in which hooks note the blocks that they hear."""
    blocks = subject.anatomy.modules(subject.model)

    def taps():
        return [
            block.register_forward_hook(lambda *_, i=i: seen.append(i))
            for i, block in enumerate(blocks)
        ]

    one_token_pass(subject, torch.tensor([3]), taps)
    return seen


def left_alone(subject):
    """Whether no hooks, no attention function and no turns are left in a model."""
    blocks = subject.anatomy.modules(subject.model)
    hooked = [m for block in blocks for m in block.modules() if m._forward_hooks]
    names = {config._attn_implementation_internal for config in configurations(subject.model)}
    return not hooked and names <= {"eager", "sdpa"} and reader_of(blocks).turn is None


def test_hooks_hear_their_own_pass_and_every_block_is_read_once(streamed):
    with together(streamed) as start:
        passes = [start(passed, streamed, []) for _ in range(3)]
        assert passed(streamed, []) == [0, 1, 2, 3]
        assert [done() for done in passes] == [[0, 1, 2, 3]] * 3
    assert reader_of(streamed.anatomy.modules(streamed.model)).reads == dict.fromkeys(range(4), 1)
    assert left_alone(streamed)


def test_a_pass_that_ends_at_a_block_does_not_read_it(streamed):
    one_token_pass(streamed, torch.tensor([3]), list, stop=2)
    assert reader_of(streamed.anatomy.modules(streamed.model)).reads == {0: 1, 1: 1}


def test_an_error_of_a_task_is_raised_where_its_result_is_asked_for(streamed):
    def fails(module, args):
        raise Unsupported("this one")

    def failing():
        block = streamed.anatomy.modules(streamed.model)[1]
        one_token_pass(
            streamed, torch.tensor([3]), lambda: [block.register_forward_pre_hook(fails)]
        )

    cancelled = []
    with together(streamed) as start:
        late = start(passed, streamed, cancelled)
        wrong = start(failing)
        with pytest.raises(Unsupported, match="this one"):
            wrong()
    assert cancelled == [0]
    with pytest.raises(RuntimeError, match="asked for too late"):
        late()
    assert left_alone(streamed)
    assert passed(streamed, []) == [0, 1, 2, 3]


def test_what_nobody_asks_for_within_another_does_not_go_on(streamed):
    left, behind = [], []

    def asks(start):
        start(passed, streamed, behind)  # for the sake of what nobody asks for
        return passed(streamed, left)

    with together(streamed) as start:
        later = start(passed, streamed, [])
        with together(streamed) as inner:
            inner(asks, inner)
            inner(one_token_pass, streamed, torch.tensor([3]), list, 2)()
        assert later() == [0, 1, 2, 3]
        assert max((*left, *behind)) < 2
    assert left_alone(streamed)


def test_an_interrupt_while_tasks_run_leaves_the_model_as_it_was(streamed):
    def interrupts(module, args):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.1)  # so that it comes while this one runs

    def interrupting():
        block = streamed.anatomy.modules(streamed.model)[1]
        taps = [block.register_forward_pre_hook(interrupts)]
        one_token_pass(streamed, torch.tensor([3]), lambda: taps)

    def waiting():
        with together(streamed) as start:
            behind = start(passed, streamed, seen)
            start(interrupting)()
            behind()

    before, seen = threading.active_count(), []
    with pytest.raises(KeyboardInterrupt):
        waiting()
    assert seen == [0]
    assert threading.active_count() <= before
    assert left_alone(streamed)
    assert passed(streamed, []) == [0, 1, 2, 3]


def test_what_is_at_hand_is_done_when_it_is_asked_for():
    subject, seen = Subject.from_model(tiny_model("llama")), []
    with together(subject) as start:
        later = start(passed, subject, seen)
        assert seen == []
        assert later() is later() is seen
    assert seen == [0, 1, 2, 3]
