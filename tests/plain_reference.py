"""What every command is held against, from a model's own maps, logits and states, slow and plain.

`case` holds `subject`, right-padded `prompts`, and in `plain` what `plain_pass` gave on them.
"""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.subject.load import Subject


def plain_pass(model, ids: torch.Tensor) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Maps [layer, n, H, T, T], logits, and block inputs [n, point, T, d] of eager attention."""
    kept = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = model(ids, output_attentions=True, output_hidden_states=True, use_cache=False)
    finally:
        model.set_attn_implementation(kept)
    states = torch.stack(out.hidden_states[:-1], 1)  # the last one lies behind the final norm
    return torch.stack(out.attentions).numpy(), out.logits, states


def plain_norm_ratio(case) -> np.ndarray:
    """[n, point] norm of P0 over the median norm of the others, at the inputs of the blocks."""
    norms = case.plain[2].norm(dim=-1)
    rows = zip(norms, case.prompts.lengths.tolist(), strict=True)
    ratios = [row[:, 0] / row[:, 1:length].median(-1).values for row, length in rows]
    return torch.stack(ratios).numpy()


def plain_direction(case, point: int, first_tokens: list[int]) -> np.ndarray:
    """[d] the sink direction at a read point."""
    tokens = torch.tensor(first_tokens).unsqueeze(1)
    unit = torch.nn.functional.normalize
    p0 = unit(plain_pass(case.subject.model, tokens)[2][:, point, 0], dim=-1).mean(0)
    rows = zip(case.plain[2][:, point], case.prompts.lengths.tolist(), strict=True)
    others = unit(torch.cat([row[1:length] for row, length in rows]), dim=-1).mean(0)
    return unit(p0 - others, dim=0).numpy()


def plain_late(case) -> tuple[np.ndarray, np.ndarray]:
    """Late share [n, layer, head] and its uniform value [n, layer], from the model's own maps."""
    maps = case.plain[0]
    lengths = case.prompts.lengths.tolist()
    late = np.full((len(lengths), maps.shape[0], maps.shape[2]), np.nan)
    uniform = np.full(late.shape[:2], np.nan)
    for row, length in enumerate(lengths):
        queries = np.arange((length + 1) // 2, length)
        for layer, found in enumerate(maps[:, row]):
            seen = found[0, queries, 0] > 0  # a masked key has no mass at all
            if seen.any():
                late[row, layer] = found[:, queries[seen], 0].mean(-1)
                uniform[row, layer] = (1 / (found[0, queries[seen]] > 0).sum(-1)).mean()
    return late, uniform


def plain_loss(case) -> list[float]:
    """[n] mean next-token loss of the predictions at positions 1 and later."""
    logits, ids = case.plain[1], case.prompts.input_ids
    each = -logits[:, 1:-1].log_softmax(-1).gather(2, ids[:, 2:, None])[..., 0]
    rows = zip(each, case.prompts.lengths.tolist(), strict=True)
    return [float(row[: length - 2].mean()) for row, length in rows]


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over prompts without NaN."""
    count = np.isfinite(values).sum(0)
    return np.where(count > 0, np.nansum(values, 0) / np.maximum(count, 1), np.nan)


def streamed(
    subject: Subject, ids: torch.Tensor, window: int, keep: int, extra: tuple[int, ...] = ()
) -> torch.Tensor:
    """Logits [.., T, V] of ids [.., T] as a server gives them, token by token, for any family.

    What a block gives a token follows from the inputs of the block at the tokens that are still
    there: so these inputs are the cache, and the block is run on them at positions 0, 1, ..
    The first `keep` tokens stay, and those at the positions `extra`.
    """
    blocks = subject.anatomy.modules(subject.model)
    given: list[tuple[torch.Tensor, dict]] = []

    def enter(module, args, kwargs):
        given.append((args[0] if args else kwargs.pop("hidden_states"), kwargs))

    def leave(module, args, output):
        return (out, *output[1:]) if isinstance(output, tuple) else out

    rows = ids if ids.dim() == 2 else ids.unsqueeze(0)
    handle = blocks[0].register_forward_pre_hook(enter, with_kwargs=True)
    subject.model(rows, use_cache=False)
    handle.remove()
    [(x0, kwargs)] = given
    kwargs = {k: v for k, v in kwargs.items() if k not in ("attention_mask", "past_key_values")}
    held: list[list[torch.Tensor]] = [[] for _ in blocks]
    found, there = [], []
    for t in range(rows.shape[1]):
        x = x0[:, t : t + 1]
        there.append(t)
        gone = next((i for i, at in enumerate(there) if at >= keep and at not in extra), 0)
        if len(there) > window:
            del there[gone]
        for block, inputs in zip(blocks, held, strict=True):
            inputs.append(x)
            if len(inputs) > window:
                del inputs[gone]
            n = len(inputs)
            cos, sin = kwargs["position_embeddings"]
            mask = torch.full((1, 1, n, n), -1e30).triu(1)
            now = kwargs | {"position_embeddings": (cos[:, :n], sin[:, :n])}
            y = block(torch.cat(inputs, 1), attention_mask=mask, **now)
            x = (y[0] if isinstance(y, tuple) else y)[:, -1:]
        found.append(x)
    out = torch.cat(found, 1)
    handle = blocks[-1].register_forward_hook(leave)
    logits = subject.model(rows, use_cache=False).logits
    handle.remove()
    return logits if ids.dim() == 2 else logits[0]


def served(model, ids: torch.Tensor, window: int, keep: int) -> torch.Tensor:
    """Logits [n, T, V] of ids [n, T] from a Llama with a cache of keys and values, token by token.

    The cache holds the first `keep` and the latest tokens, `window` in all, with keys as they are
    before rotation: each query rotates them to positions 0, 1, .. within the cache.
    """
    inner, rows = model.model, len(ids)
    size = model.config.head_dim
    x_all = inner.embed_tokens(ids)
    cos, sin = inner.rotary_emb(x_all, torch.arange(window)[None])

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.view(rows, -1, size).transpose(0, 1)[:, :, None]  # [head, n, 1, size]

    def rotated(x: torch.Tensor, at: slice) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return x * cos[:, at] + torch.cat([-b, a], -1) * sin[:, at]

    held: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(inner.layers)
    out = []
    for t in range(ids.shape[1]):
        x = x_all[:, t]
        for at, layer in enumerate(inner.layers):
            attention, y = layer.self_attn, layer.input_layernorm(x)
            new = heads(attention.k_proj(y)), heads(attention.v_proj(y))
            both = new if held[at] is None else [torch.cat(x, 2) for x in zip(held[at], new)]
            if both[0].shape[2] > window:
                both = [torch.cat([x[:, :, :keep], x[:, :, keep + 1 :]], 2) for x in both]
            held[at] = both
            now = both[0].shape[2]
            q = rotated(heads(attention.q_proj(y)), slice(now - 1, now))
            k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in both)
            weights = (q @ rotated(k, slice(0, now)).mT * size**-0.5).softmax(-1)
            x = x + attention.o_proj((weights @ v)[:, :, 0].transpose(0, 1).flatten(1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        out.append(model.lm_head(inner.norm(x)))
    return torch.stack(out, 1)
