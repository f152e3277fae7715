"""`scan`: one streaming pass over the prompts, the nulls beside it, and one labelled result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from sinkscope.detect.arrays import scan_dataset
from sinkscope.detect.attention import AttentionStats
from sinkscope.detect.decision import sinks_of
from sinkscope.detect.heads import HeadStats
from sinkscope.detect.nulls import untrained
from sinkscope.detect.qk import qk_split
from sinkscope.detect.record import Scan
from sinkscope.detect.residual import ResidualStats
from sinkscope.detect.summary import scan_summary
from sinkscope.errors import NOT_ASKED
from sinkscope.frame import Progress, chosen_prompts, result_of, silent
from sinkscope.observe.attention import check_reader, observe, run_model
from sinkscope.observe.layout import Layout, layout_of
from sinkscope.observe.p0_stream import first_tokens, p0_states
from sinkscope.observe.prefill import prefill_of
from sinkscope.observe.reads import AttentionRead, Want
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.residual import prove_residual, residual_hooks
from sinkscope.observe.stream import OthersMean, mean_cosine, sink_direction
from sinkscope.observe.together import Later, together
from sinkscope.progress import shown
from sinkscope.result import Result
from sinkscope.settings import ScanSettings
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, token_text
from sinkscope.subject.tokens import vocabulary

PILOT = 8  # prompts for what needs queries and keys at hand, and for the nulls
MAPS = 2  # prompts whose maps are kept for the report
MAP_TOKENS = 48


@shown
def scan(
    subject: Subject,
    settings: ScanSettings | None = None,
    *,
    prompts: Prompts | None = None,
    other_mean: torch.Tensor | None = None,
    progress: Progress = silent,
    **changes: Any,
) -> Result:
    """Look for attention sinks in a model.

    settings, changes  a ScanSettings, or its fields as keywords: scan(subject, n=16, bos="both")
    prompts            ready-made Prompts instead of what the settings describe
    other_mean         [point, d] mean unit vector of their other positions at the inputs of blocks,
                       where a pass has read it already (`circuit.observed`)
    progress           called as progress(label, done, total); by default a bar

    Returns a Result with one group for each BOS policy. Raises InputError and Unsupported.
    """
    settings = dataclasses.replace(settings or ScanSettings(), **changes)
    check_reader(settings.reader)
    chosen = chosen_prompts(subject, settings, prompts)
    scans = [_scan_one(subject, each, settings, other_mean, progress) for each in chosen]
    return result_of("scan", subject, settings, chosen, scans, scan_summary, scan_dataset)


def _scan_one(
    subject: Subject,
    prompts: Prompts,
    settings: ScanSettings,
    other_mean: torch.Tensor | None,
    progress: Progress,
) -> Scan:
    with together(subject) as start:
        return _measured(start, subject, prompts, settings, other_mean, progress)


def _measured(
    start: Callable[..., Later],
    subject: Subject,
    prompts: Prompts,
    settings: ScanSettings,
    other_mean: torch.Tensor | None,
    progress: Progress,
) -> Scan:
    label = f"scan ({prompts.bos} BOS)"
    pilot = prompts.take(slice(0, PILOT))
    progress(label, 0, 3 * len(prompts))
    proving = start(prove_residual, subject, _short(pilot))
    prefill = prefill_of(subject, prompts, settings.reader)
    size = prefill.size
    residual_of = start(_residual, subject, prompts, settings, other_mean, size, progress)
    qk = start(qk_split, subject, pilot)
    drawn = start(_maps, subject, prompts, settings.reader)
    proof = proving()
    residual, cosine, no_residual = residual_of()
    told = partial(progress, label)
    attention, heads = _attention(subject, prompts, settings.reader, residual, size, told)
    progress(f"nulls ({prompts.bos} BOS)", 0, 1)
    null = untrained(subject, pilot, settings.reader, size) if settings.untrained else NOT_ASKED
    maps, map_tokens = drawn()
    progress(f"nulls ({prompts.bos} BOS)", 1, 1)
    return Scan(
        subject=subject,
        prompts=prompts,
        settings=settings,
        attention=attention,
        sinks=sinks_of(attention),
        residual=residual,
        no_residual=no_residual,
        heads=heads,
        p0_cosine=cosine,
        proof=proof,
        prefill=prefill,
        null=null,
        qk=qk(),
        maps=maps,
        map_tokens=map_tokens,
    )


def _attention(
    subject: Subject,
    prompts: Prompts,
    reader: str,
    residual: ResidualStats | None,
    size: int | None,
    told: Callable[[int, int], None],
) -> tuple[AttentionStats, HeadStats]:
    """The pass over the prompts: attention and heads, and the residual stream where it is read."""
    attention, heads = AttentionStats(vocabulary(subject), prompts), HeadStats()
    want = Want(entropy=True, inspect=(heads.inspect,))
    done = len(prompts)  # the plain pass before, for the direction, is a third
    for batch in prompts.batches():
        told(done, 3 * len(prompts))
        reads, layout = _one_pass(subject, batch, want, reader, residual, heads, size)
        attention.add(reads, layout, batch.input_ids)
        done += 2 * len(batch)
    told(done, 3 * len(prompts))
    return attention, heads


def _residual(
    subject: Subject,
    prompts: Prompts,
    settings: ScanSettings,
    other_mean: torch.Tensor | None,
    size: int | None,
    progress: Progress,
) -> tuple[ResidualStats | None, np.ndarray | None, str]:
    """Statistics of the residual stream, P0's cosine by read point; or why there are none."""
    if subject.anatomy.several_streams:
        return None, None, "the family has several residual streams"
    with together(subject) as start:
        alone = start(p0_states, subject, first_tokens(subject, prompts, settings.seed))
        if other_mean is None:
            reading = start(_others_mean, subject, prompts, settings.reader, size, progress)
        states = alone()
        if states.shape[1] != len(subject.anatomy.blocks) + 1:
            return None, None, "not every block runs on text alone"
        if other_mean is None:
            other_mean = reading()
    direction, width = sink_direction(states, other_mean), subject.anatomy.hidden_size
    return ResidualStats(states.shape[1], width, direction), mean_cosine(states).numpy(), ""


def _others_mean(
    subject: Subject,
    prompts: Prompts,
    reader: str,
    size: int | None,
    progress: Progress,
) -> torch.Tensor:
    """Mean unit vector of the other positions of all prompts: [point, d]. A plain pass.

    Pieces of a text go through the reader, whose attention over a cache needs no mask.
    """
    others, done = OthersMean(), 0
    pieces = max(1, len(prompts) // 8)  # small ones, so that the time it all takes is known soon

    def read(batch: Prompts) -> None:
        layout = layout_of(batch, subject.device)
        if size is not None:
            _add_pieces(subject, batch, reader, size, others, layout)
            return
        add = partial(others.add, layout=layout)
        with torch.no_grad(), evaluation(subject.model), hooks(residual_hooks(subject, add)()):
            run_model(subject, batch, logits=False)

    batches = [piece for part in prompts.batches() for piece in part.batches(pieces)]
    with together(subject) as start:
        for batch, reading in [(batch, start(read, batch)) for batch in batches]:
            progress(f"scan ({prompts.bos} BOS)", done, 3 * len(prompts))
            done += len(batch)
            reading()
    return others.mean


def _add_pieces(
    subject: Subject, batch: Prompts, reader: str, size: int, others: OthersMean, layout: Layout
) -> None:
    """Add the streams of a batch to the mean, `size` tokens at a time."""
    now = [layout]

    def piece(start: int, stop: int) -> None:
        now[0] = layout.part(start, stop)

    def add(point: int, hidden: torch.Tensor) -> None:
        others.add(point, hidden, now[0])

    taps = residual_hooks(subject, add)
    observe(subject, batch, Want(received=False), reader, taps, size=size, piece=piece)


def _one_pass(
    subject: Subject,
    batch: Prompts,
    want: Want,
    reader: str,
    residual: ResidualStats | None,
    heads: HeadStats,
    size: int | None,
) -> tuple[list[AttentionRead], Layout]:
    """One forward pass in which attention, values and residual stream are all read."""
    layout = layout_of(batch, subject.device)
    taps = None
    if residual is not None:
        residual.begin(layout)
        taps = residual_hooks(subject, residual.consume)
    heads.begin(layout)

    def piece(start: int, stop: int) -> None:
        heads.piece(start, stop)
        if residual is not None:
            residual.piece(start, stop)

    reads, layout, _ = observe(subject, batch, want, reader, taps, size=size, piece=piece)
    heads.finish()
    return reads, layout


def _short(prompts: Prompts) -> Prompts:
    """At most two rows of at most 32 tokens, enough to prove an identity on."""
    rows = prompts.take(slice(0, 2))
    return rows.first_tokens(min(32, int(rows.lengths.min())))


def _maps(subject: Subject, prompts: Prompts, reader: str):
    """Maps of a few prompts, [layer, head, query, key] as 0..255, with the tokens' text."""
    if not prompts.right_padded:
        return [], []
    maps, tokens = [], []
    for row in range(min(MAPS, len(prompts))):
        width = min(MAP_TOKENS, int(prompts.lengths[row]))
        ids = prompts.input_ids[row : row + 1, :width]
        one = Prompts(ids, torch.tensor([width]), prompts.kind, prompts.bos)
        reads, _, _ = observe(subject, one, Want(received=False, maps=True), reader)
        heads = max(read.p0.shape[1] for read in reads)
        if any(read.map is None or read.map.shape[1] != heads for read in reads):
            return [], []
        stacked = torch.stack([read.map[0] for read in reads if read.map is not None])
        maps.append((stacked.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        tokens.append([token_text(subject.tokenizer, i) for i in ids[0].tolist()])
    return maps, tokens
