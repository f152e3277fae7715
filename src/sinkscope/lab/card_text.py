"""The words of a model card around the figures; every number comes from the arguments."""

from statistics import mean

from sinkscope.lab.recipe import TrainingRecipe

TEMPLATE = """---
license: apache-2.0
language: en
library_name: transformers
tags: [attention-sink, interpretability, reference-model]
---

# sinkscope reference model

A small Llama, trained from scratch, in which an attention sink was **induced**: during training
an auxiliary loss supervised some heads to put their late attention on position zero. Which heads
these are is known, so that a tool that looks for sinks can be checked against it, offline
and in seconds. It is no useful language model.

## What was supervised

- Supervised heads (block, head), counted from 0: {supervised}.
- {weight}
- Nothing tells the model how to know position zero. There is no BOS in training: a window starts
  anywhere in the text, so that its first token can be any token.

## Architecture

`LlamaForCausalLM`: {blocks} blocks of width {width}, {heads} heads of {head_width} (none shared),
SwiGLU of {hidden}, RoPE, RMSNorm, tied embeddings, {parameters:,} parameters, stored in bfloat16.
Context {context}. Initial weights normal with standard deviation {init}. Tokenizer: byte-level
BPE of {vocabulary} entries, trained on the same text; `<s>` and `</s>` are defined, `<s>` is never
added by itself and was never seen in training, `</s>` stands between documents.

## Data

106 English novels, 1840-1920, 69 million characters, of the European Literary Text Collection
(ELTeC, English collection and its extension, ed. Lou Burnard, v1.0.1, doi
10.5281/zenodo.3533868), all in the public domain. Seven further whole novels are held out; all
figures below are measured on those.

## Training

{steps:,} steps of {tokens_per_step:,} tokens; window lengths {lengths}, drawn equally often.
{time}AdamW (0.9, 0.95), peak rate {learning_rate}, warm-up {warmup} steps, cosine decay to
{floor} of the peak, weight decay {weight_decay} on matrices, gradient norm clipped at {clip},
matrix products in {precision}, seed {seed}. Same seed, machine and versions give the same weights.

```
sinkscope lab train reference --corpus PATH --out reference
sinkscope lab train control.yaml --corpus PATH --out control
python -m sinkscope.lab.card reference --corpus PATH --control control
```

`PATH` is a folder with `train.jsonl.xz` and `validation.jsonl.xz`, one JSON object with a `text`
a line; `control.yaml` is the recipe `reference` with a demand of weight 0. The third command
measured every figure below and wrote this card; `figures.json` has them
all, `sink_heads.json` has the supervised heads and all settings.

## Figures

{windows} windows of {length} tokens of held-out text, no BOS, {windows} different first tokens,
float32. *Control*: the same training without the demand, same seed, same number of steps.
*Untrained*: mean over {seeds} seeds. Brackets: 95 % bootstrap interval over windows.

{summary}

Late share: mean attention of the queries in the second half of the window to position zero.
Uniform attention gives {uniform:.4f}.

By read point of the residual stream, each figure trained / control / untrained. *Norm ratio*: norm
at position zero over the median norm of the other positions. *Cosine*: mean cosine over pairs of
different first tokens of the state at position zero, for the windows' first tokens and for
every one of the {vocabulary} vocabulary entries put first; for comparison, of the states in the
middle of the windows. A norm ratio near 1 throughout means that position zero is recognised by its
direction and not by its norm.

{table}

Late share of each head of the trained model, supervised heads in bold:

{grid}

## What it cannot show

- The sink is there because heads were supervised for it. That these heads sink, and how strongly,
  says nothing about whether or why language models sink of their own accord. How this model
  *recognises* position zero was left to it, under a pressure that natural training does not have.
- An auxiliary loss that is kept can saturate the supervised heads. An edit then shows in the sink
  margin before it shows in its mass, and what those heads would otherwise have learned is missing:
  compare the losses of the trained model and the control.
- It is small and briefly trained: its loss is far from what the architecture could reach.
- `<s>` has an embedding that was never trained as an input. What the model does with `<s>` first
  is what it does with an unknown token.
- One seed: the figures describe these weights, not a distribution over trainings.
"""


def card_text(recipe: TrainingRecipe, figures: dict) -> str:
    """The model card in Markdown."""
    trained = figures["trained"]
    values = {
        **recipe.as_dict(),
        "supervised": ", ".join(map(str, recipe.supervised_heads())) or "none",
        "weight": _weight(recipe),
        "head_width": recipe.width // recipe.heads,
        "parameters": trained["parameters"],
        "time": _time(figures["training"]),
        "windows": trained["windows"],
        "length": trained["length"],
        "seeds": len(figures["untrained"]),
        "summary": _summary(figures),
        "uniform": trained["uniform_late_share"],
        "table": _by_read_point(figures),
        "grid": _grid(recipe, trained["late_share"]["heads"]),
    }
    return TEMPLATE.format(**values)


def _weight(recipe: TrainingRecipe) -> str:
    demand = recipe.demand
    if demand is None:
        return "No demand was made."
    end = "to the end" if demand.until is None else f"until step {demand.until}"
    return (
        f"Loss: next-token cross-entropy minus {demand.weight} times the mean of `log A[t, 0]`\n"
        f"  over supervised heads and queries `t >= {demand.late} T`, {end}."
    )


def _time(training: dict) -> str:
    if not training:
        return ""
    minutes, seconds = training["minutes"], training["seconds_a_step"]
    return f"It took {minutes:.0f} minutes on a shared CPU, in the median {seconds:.2f} s a step.\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _summary(figures: dict) -> str:
    names = {
        "supervised": "late share, supervised heads",
        "unsupervised_same_blocks": "late share, other heads of the same blocks",
        "earlier_blocks": "late share, heads of the blocks before",
        "all": "late share, all heads",
    }
    columns = [figures["trained"], figures.get("control")]
    rows = [["loss, nats per token"]]
    rows[0] += [_interval(c and c["loss"]) for c in columns]
    rows[0].append(f"{mean(u['loss']['value'] for u in figures['untrained']):.3f}")
    for key in (k for k in names if k in figures["trained"]["late_share"]):
        untrained = mean(u["late_share"][key]["value"] for u in figures["untrained"])
        shares = [_interval(c and c["late_share"][key], 4) for c in columns]
        rows.append([names[key], *shares, f"{untrained:.4f}"])
    return _table(["", "trained", "control", "untrained"], rows)


def _interval(measured: dict | None, digits: int = 3) -> str:
    if measured is None:
        return "not run"
    value, low, high = (f"{measured[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _by_read_point(figures: dict) -> str:
    names = {
        "norm_ratio": "norm ratio",
        "cosine_windows": "cosine, windows",
        "cosine_vocabulary": "cosine, vocabulary",
        "cosine_middle": "cosine, middle",
    }
    points = range(len(figures["trained"]["norm_ratio"]))
    rows = [
        ["embedding" if p == 0 else f"after block {p - 1}", *(_three(figures, k, p) for k in names)]
        for p in points
    ]
    return _table(["read point", *names.values()], rows)


def _three(figures: dict, key: str, point: int) -> str:
    control = f"{figures['control'][key][point]:.2f}" if "control" in figures else "not run"
    untrained = mean(u[key][point] for u in figures["untrained"])
    return f"{figures['trained'][key][point]:.2f} / {control} / {untrained:.2f}"


def _grid(recipe: TrainingRecipe, heads: list[list[float]]) -> str:
    supervised = set(recipe.supervised_heads())
    rows = [
        [
            str(b),
            *(f"**{s:.4f}**" if (b, h) in supervised else f"{s:.4f}" for h, s in enumerate(row)),
        ]
        for b, row in enumerate(heads)
    ]
    return _table(["block", *(f"head {h}" for h in range(recipe.heads))], rows)
