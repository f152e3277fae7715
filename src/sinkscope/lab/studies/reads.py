"""Position zero as the blocks read it: what stands before their norms, behind a force-sink mask.

The residual stream also holds what no block reads: what is written for the prediction alone, and,
under force-sink masking, all channels that are not position zero's own. So besides the stream
behind each block, which `sinkscope scan` measures, an experiment measures the inputs of the norms
of attention and MLP.
"""

import torch
from torch import Tensor

from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.stream import norm_ratio
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

NORMS = ("input_layernorm", "post_attention_layernorm")


def as_read(subject: Subject, prompts: Prompts) -> dict[str, float]:
    """Norm, outlier and dominance of P0 in what blocks read: the largest over all norms' inputs x.

    read_norm: ‖x_0‖ over the median ‖x_t‖ of the other positions. read_outlier: max|x_0| over the
    median |x| of all positions, as `massive` is of the stream. dominance: max|x_0| over mean|x_0|
    (Li et al., arXiv 2605.06611). Each is averaged over prompts first. For the families
    that recipes train, whose blocks have these two norms.
    """
    found: dict[tuple[int, str], list[Tensor]] = {}
    blocks = subject.anatomy.modules(subject.model)

    def reader(key: tuple[int, str]):
        def read(module, args):
            found.setdefault(key, []).append(_figures(args[0].float()).cpu())

        return read

    handles = [
        getattr(block, name).register_forward_pre_hook(reader((index, name)))
        for index, block in enumerate(blocks)
        for name in NORMS
    ]
    with torch.no_grad(), evaluation(subject.model), hooks(handles):
        for part in prompts.batches():
            subject.model(input_ids=part.input_ids.to(subject.device), use_cache=False)
    means = torch.stack([torch.cat(parts).mean(0) for parts in found.values()])
    names = ("read_norm", "read_outlier", "dominance")
    return dict(zip(names, means.amax(0).tolist(), strict=True))


def _figures(x: Tensor) -> Tensor:
    """[B, 3] the figures of inputs [B, T, d]."""
    norms, first = x.norm(dim=-1), x[:, 0].abs()
    middle = x.abs().flatten(1).median(1).values.clamp_min(1e-12)
    return torch.stack(
        [
            norm_ratio(norms)[:, 0],
            first.amax(1) / middle,
            first.amax(1) / first.mean(1).clamp_min(1e-12),
        ],
        1,
    )
