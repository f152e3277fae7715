"""A trained model, measured with BOS put first and without, on the same held-out text.

Rows are windows that lie inside one document, so that no separator stands in them. With BOS and
without, the model reads the same number of tokens, and the loss counts the same text positions:

    with     <s> x_0 .. x_{T-2}     predicts x_1 .. x_{T-1}     (x_0 after BOS is left out)
    without      x_0 .. x_{T-1}     predicts x_1 .. x_{T-1}
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from sinkscope.detect.attention import AttentionStats
from sinkscope.detect.heads import CLASS_MEANINGS
from sinkscope.detect.scan import scan
from sinkscope.errors import InputError
from sinkscope.lab.data import VALIDATION_SEED, language_of
from sinkscope.lab.encoded import documents
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.lab.studies.reads import as_read
from sinkscope.lab.tokens import encode
from sinkscope.observe.attention import observe
from sinkscope.observe.loss import log_probabilities, token_loss
from sinkscope.observe.reads import Want
from sinkscope.stats import nan_mean
from sinkscope.subject.load import Subject
from sinkscope.subject.opening import bos_id
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tokens import vocabulary

EPS = (0.3, 0.8)


def text_rows(
    recipe: TrainingRecipe,
    corpus: Path | None,
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    length: int,
) -> Tensor:
    """At most `count` held-out windows [n, length] of text without BOS, the same at every call.

    Errors: InputError where no held-out document is that long.
    """
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    if recipe.data == "bigram-backcopy":
        return language_of(recipe, corpus).draw(count, length - 1, generator, None)
    windows: list[Tensor] = []
    for document in documents(recipe, corpus, "validation"):
        ids = encode([document], tokenizer)[:-1].long()  # without its EOS
        windows += ids[: len(ids) // length * length].split(length) if len(ids) >= length else []
    if not windows:
        raise InputError(f"No held-out document has {length} tokens: nothing can be measured.")
    return torch.stack([windows[i] for i in torch.randperm(len(windows), generator=generator)])[
        :count
    ]


def rows_as_prompts(subject: Subject, rows: Tensor, bos: str) -> Prompts:
    """Rows [n, T] as prompts, with BOS put first (and the last token left out) or as they are."""
    if bos == "with":
        rows = nn.functional.pad(rows[:, :-1], (1, 0), value=bos_id(subject))
    return Prompts(rows, torch.full((len(rows),), rows.shape[1]), "ids", bos)


def quick_evaluation(subject: Subject, rows: Tensor, bos: str) -> dict[str, float]:
    """Loss, sink rates and late share of rows [n, T], in one pass: a point of the curve.

    As in `evaluation`; the loss in nats per token.
    """
    stats, losses = AttentionStats(vocabulary(subject)), []
    start = 1 if bos == "with" else 0
    done = 0
    for part in rows_as_prompts(subject, rows, bos).batches():
        text, done = rows[done : done + len(part)], done + len(part)
        reads, layout, logits = observe(subject, part, Want(), logits=True)
        stats.add(reads, layout, part.input_ids)
        predicted = log_probabilities(logits[:, start : start + text.shape[1] - 1])
        losses.append(token_loss(predicted, text[:, 1:]).mean(1).cpu())
    alpha = stats.alpha0
    seen = np.isfinite(alpha)
    return {
        "loss": float(torch.cat(losses).mean()),
        **{f"sink_rate_{eps}": float(((alpha > eps) & seen).sum() / seen.sum()) for eps in EPS},
        "late_share": float(nan_mean(stats.late.reshape(-1))),
    }


def evaluation(subject: Subject, rows: Tensor, bos: str) -> dict[str, Any]:
    """All figures of a trained model on rows [n, T] under one BOS policy, as plain data.

    loss: nats per token. sink_rate_EPS: share of windows and heads whose first key receives more
    than EPS of all queries' attention (Gu et al., arXiv 2410.10781). late_share: mean attention of
    the queries t >= T/2 to the first key, over all heads; best_head: of the head that gives most,
    best_head_class: what `sinkscope scan` says that this head does with it (no-op, broadcast, ..).
    norm_ratio: largest over blocks of the norm of P0 over the median norm of the others, behind
    the block. massive: the same of max|x| at P0 over the median |x| (Sun et al., arXiv 2402.17762).
    read_norm, read_outlier, dominance: of P0 as blocks read it (`reads.as_read`).
    sink: whether `sinkscope scan` says that there is one.
    """
    prompts = rows_as_prompts(subject, rows, bos)
    result = scan(subject, untrained=False, prompts=prompts)
    summary, data = result.summary.scan[bos], result.data[f"scan/{bos}"].to_dataset()
    late = nan_mean(data["p0_late"].values)
    best = np.unravel_index(np.nanargmax(late), late.shape)
    figures: dict[str, Any] = {
        "loss": quick_evaluation(subject, rows, bos)["loss"],
        **{f"sink_rate_{eps}": summary.sink_rate[str(eps)].value for eps in EPS},
        "late_share": summary.late_share.value,
        "best_head": float(late[best]),
        "uniform_late_share": summary.uniform_late_share,
        "sink": summary.p0_sink,
        **as_read(subject, prompts),
    }
    if "head_class" in data:  # not where values are out of reach
        figures["best_head_class"] = CLASS_MEANINGS.split()[int(data["head_class"].values[best])]
    if "norm_ratio" in data:
        # point 0 is the embedding, which no block has written to
        figures["norm_ratio"] = float(nan_mean(data["norm_ratio"].values)[1:].max())
        figures["massive"] = float(data["massive_p0"].values[1:].max())
    return figures
