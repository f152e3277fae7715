"""Rooms of the package asked for one number each, and the models and prompts to ask them about.

The small functions at the top fetch what no result holds; where code moves, only they are changed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch

import sinkscope
from sinkscope.circuit import find
from sinkscope.circuit.reading import sinks_on
from sinkscope.detect import scan as scanning
from sinkscope.intervene.cost import losses
from sinkscope.intervene.engine import Engine
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.mixing.conditions import INTACT, run
from sinkscope.report.scan import words
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, build_prompts
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs.checkpoint_metrics import View, light
from sinkscope.training_runs.pilot import TimelineSettings, run_pilot
from tests.plain_reference import plain_pass

LENGTH, N = 40, 12  # windows of the tiny models are 8; pilots take 8 prompts
POINT = 2  # read point of directions where no room has chosen one


# --- internals of rooms: what no result holds; point these elsewhere when code moves ---


def scan_direction(subject: Subject, prompts: Prompts) -> np.ndarray:
    """[point, d] the sink direction by which `scan` finds secondary sinks."""
    settings = scanning.ScanSettings(untrained=False)
    one = scanning._scan_one(subject, prompts, settings, None, lambda *_: None)
    return one.residual.direction.numpy()


def scan_tokens(subject: Subject, prompts: Prompts) -> list[int]:
    return scanning.first_tokens(subject, prompts, 0).tolist()


def trace_tokens(subject: Subject, prompts: Prompts) -> list[int]:
    return find.first_tokens(subject, prompts, 0).tolist()


def timeline_tokens(subject: Subject, **settings) -> list[int]:
    looking = TimelineSettings(untrained=False, first_blocks="all", **settings)
    return run_pilot(subject, looking).view.first_tokens.tolist()


def timeline_metrics(subject: Subject, prompts: Prompts, point: int = POINT):
    """The metrics of one checkpoint over all blocks, first tokens those of `trace`."""
    tokens = find.first_tokens(subject, prompts, 0)
    blocks = len(subject.anatomy.blocks)
    return light(subject, View(prompts, tokens, blocks, point, loss=True, parts=False))


def timeline_heads(subject: Subject, prompts: Prompts) -> set:
    return pairs(np.argwhere(timeline_metrics(subject, prompts).sinks))


def mix_uniform(subject: Subject, prompts: Prompts) -> np.ndarray:
    """[block] the uniform late share by which `mix` knows sinking heads."""
    return sinks_on(subject, prompts).uniform_late


def verify_loss(subject: Subject, prompts: Prompts) -> np.ndarray:
    return Engine(subject, prompts).intact.ce


def mix_loss(subject: Subject, prompts: Prompts) -> np.ndarray:
    return losses(run(subject, prompts, INTACT, logits=True).logits, prompts).numpy()


def report_heads(result) -> set:
    """Heads that the page counts as sinks."""
    (bos,) = result.summary.scan
    found = words.sink_heads(result.data[f"scan/{bos}"].to_dataset())
    return pairs([head[:2] for head in found])


# --- models and prompts ---


def row_ids(rows: int, length: int, top: int = 100) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, top, (rows, length), generator=generator).tolist()


def rivals() -> Subject:
    """Heads of block 0 that give P0 0.38 and the key behind it 0.45: two sinks side by side.

    Block 0's queries are a constant; keys of tokens 3 and 4 hold a mark, that of 4 the larger.
    """
    model = tiny_model("gpt2")
    model.transformer.wpe.weight.data.zero_()
    embedding = model.transformer.wte.weight.data
    embedding[:, -1] = 0
    embedding[3, -1], embedding[4, -1] = 8.0, 10.5
    attention = model.transformer.h[0].attn.c_attn
    width = embedding.shape[1]
    attention.weight.data[:, : 2 * width] = 0
    attention.bias.data[: 2 * width] = 0
    head = width // model.config.n_head
    for first in range(0, width, head):
        attention.weight.data[-1, width + first] = 1.0
        attention.bias.data[first] = 14.0
    return Subject.from_model(model, name="rivals")


def few_of_many() -> Subject:
    """One sinking head of more than a hundred."""
    spec = draw_spec(
        "p0-two-block", seed=1, family="llama", width=96, heads=8, key_heads=4, head_size=16,
        depth=14, from_block=13, blocks=(1,), readers=1, noise=0.0,
    )  # fmt: skip
    model, tokenizer, _ = build_in_memory(spec)
    return Subject.from_model(model, tokenizer, name="one head of 112")


def constructed() -> Subject:
    spec = draw_spec("p0-two-block", seed=3, family="llama", noise=0.05)
    model, tokenizer, _ = build_in_memory(spec)
    return Subject.from_model(model, tokenizer, name="p0-two-block")


def windowed() -> Subject:
    """The same weights, each query seeing eight keys: at twelve tokens two late ones see P0."""
    from transformers import MistralConfig, MistralForCausalLM

    subject = constructed()
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads head_dim "
        "num_key_value_heads rms_norm_eps rope_parameters tie_word_embeddings hidden_act"
    )
    fields = {name: getattr(subject.model.config, name) for name in names.split()}
    model = MistralForCausalLM(MistralConfig(**fields, sliding_window=8)).eval()
    model.load_state_dict(subject.model.state_dict())
    return Subject.from_model(model, subject.tokenizer, name="p0-two-block, window 8")


def tiny(family: str) -> Subject:
    return Subject.from_model(tiny_model(family), name=family)


def ids_of(rows: list[list[int]]):
    return lambda subject: build_prompts(subject, kind="ids", ids=rows, length=LENGTH)


PLAIN = row_ids(N, LENGTH)
RAGGED = [row[: LENGTH - 5 * (i % 4)] for i, row in enumerate(PLAIN)]  # 40, 35, 30, 25
SHORT = [row[:12] for row in PLAIN]
RIVAL_ROWS = [[3, 4, *row[2:]] for row in row_ids(N, LENGTH)]
CASES = {
    "llama": (lambda: tiny("llama"), ids_of(PLAIN)),
    "window": (lambda: tiny("gemma2"), ids_of(PLAIN)),  # no late query of a window sees P0
    "short-window": (windowed, ids_of(SHORT)),  # some do
    "learned-sink": (lambda: tiny("gpt_oss"), ids_of(PLAIN)),
    "right-padded": (constructed, ids_of(RAGGED)),
    "right-padded-window": (lambda: tiny("gemma2"), ids_of([row[:13] for row in RAGGED[:4]] * 2
                            + [row[:9] for row in RAGGED[:4]])),
    "constructed": (constructed, lambda s: build_prompts(s, kind="random", n=N, length=LENGTH)),
}  # fmt: skip
LONG = [name for name in CASES if "short" not in name and name != "right-padded-window"]
DECIDED = {
    **CASES,
    "rivals": (rivals, ids_of(RIVAL_ROWS)),
    "few-of-many": (few_of_many, lambda s: build_prompts(s, kind="random", n=4, length=LENGTH)),
}
LATE_ROOMS = ("scan", "trace", "verify", "timeline", "mix")


# --- what the rooms say ---


@dataclass
class Case:
    """A model with its prompts, and each room's result on them, made when first asked for."""

    subject: Subject
    prompts: Prompts

    @functools.cached_property
    def scan(self):
        return sinkscope.scan(self.subject, prompts=self.prompts, untrained=False)

    @functools.cached_property
    def trace(self):
        return sinkscope.trace(
            self.subject, prompts=self.prompts, untrained=False, vocabulary=False
        )

    @functools.cached_property
    def verify(self):
        return sinkscope.verify(self.subject, prompts=self.prompts, draws=1)

    @functools.cached_property
    def mix(self):
        return sinkscope.mix(
            self.subject, prompts=self.prompts, circuit=False, jacobian=False, sweeps=False
        )

    @functools.cached_property
    def timeline(self):
        return timeline_metrics(self.subject, self.prompts)

    @functools.cached_property
    def plain(self):
        """What the model by itself gives on the prompts: maps, logits, states."""
        return plain_pass(self.subject.model, self.prompts.input_ids)

    def data(self, room: str):
        return getattr(self, room).data[f"{room}/{self.prompts.bos}"].to_dataset()


@functools.cache
def case_of(name: str) -> Case:
    make, prompts = DECIDED[name]
    subject = make()
    return Case(subject, prompts(subject))


def late_of(case: Case, room: str) -> np.ndarray:
    """Late share by prompt [n, layer, head], of `trace` the mean over prompts."""
    if room == "timeline":
        return case.timeline.late
    if room == "mix":
        return case.data("mix")["late_share"].sel(condition="intact").values
    name = {"scan": "p0_late", "trace": "late", "verify": "late"}[room]
    return case.data(room)[name].values


def pairs(rows) -> set:
    return {(int(block), int(head)) for block, head in rows}


def heads_of(case: Case, room: str) -> set:
    """The sinking heads that a room names."""
    bos = case.prompts.bos
    if room == "timeline":
        return timeline_heads(case.subject, case.prompts)
    if room == "report":
        return report_heads(case.scan)
    summary = getattr(case, room).summary
    if room == "mix":
        return pairs(summary.mix[bos].sink_heads)
    if room == "trace":
        return pairs(summary.trace[bos].reading_heads)
    return pairs([head[:2] for head in summary.scan[bos].sink_heads])
