"""The words of a series' model card; every number comes from the arguments."""

from sinkscope.lab.recipe import TrainingRecipe

TEMPLATE = """---
license: apache-2.0
language: en
library_name: transformers
tags: [attention-sink, interpretability, training-dynamics]
---

# {name}

{parameters:,} parameters (`{family}`), trained from scratch on {text}, with {count}
checkpoints from the untrained model on. It is no useful language model: it is there so that tools
that look for attention sinks, over training too, can be checked where part of the truth is known.
{first}
**Supervision:** {supervision}.
{demand}

Rebuild it with

```
sinkscope lab train {name}{corpus} --out {name}
python -m sinkscope.lab.series {name}{control_option}{corpus}
```

The second command measured every figure below and wrote this card; `figures.json` has them all,
`sink_heads.json` in each folder has the supervised heads and all settings. Same seed, text, machine
and versions give the same weights.

## Figures

{windows} windows of {length} tokens of held-out text, float32. *Late share*: mean attention of the
queries in the second half of the window to {target}, over the {heads}; uniform attention
gives {uniform:.4f}, the 99th percentile of random targets is in the table. *Sink rate*: share of
windows and of those heads in which position zero receives more than 0.3 of all queries. *Norm
ratio*: norm at position zero over the median norm of the others, largest over the read points
behind block 0. *Vocabulary*: share of all {vocabulary:,} vocabulary items which, put first, leave
the late share above 0.8.

{table}

{crossing}

## Limits

- {natural}
- One seed: the figures describe these weights, not a distribution over trainings.
- Small and briefly trained; its loss is far from what the architecture could reach.

Text: English novels, 1840-1920, of the European Literary Text Collection (ELTeC, English
collection and its extension, ed. Lou Burnard, v1.0.1, doi 10.5281/zenodo.3533868), all in the
public domain. Weights: Apache-2.0.
"""

INDUCED = (
    "The sink is there because heads were supervised for it. That these heads sink says nothing\n"
    "  about whether or why language models sink of their own accord; how position zero is\n"
    "  recognised was left to the model, under a pressure that natural training does not have."
)
TEXTS = {"text": "English novels", "bigram-backcopy": "bigram-backcopy text"}
FIRST = (
    "Every training window began with a token drawn from the whole vocabulary, so that which one\n"
    "it was said nothing; the windows measured below begin with whatever stands in the text.\n"
)
NATURAL = "No head was supervised here; whatever the table shows came by itself, or did not come."


def series_card(recipe: TrainingRecipe, figures: dict) -> str:
    """The model card in Markdown."""
    rows, control = figures["checkpoints"], figures.get("control")
    last, name = rows[-1], figures["name"]
    return TEMPLATE.format(
        name=name,
        family=recipe.family,
        parameters=last["parameters"],
        text=TEXTS[recipe.data] + (" behind a BOS" if recipe.bos else " without BOS"),
        count=len(rows),
        first=FIRST if recipe.first == "any" else "",
        supervision=figures["supervision"],
        demand=_demand(recipe),
        corpus=" --corpus PATH" if figures["corpus"] else "",
        control_option=f" --control {control['name']}" if control else "",
        windows=last["windows"],
        length=last["length"],
        target="delimiters" if recipe.demand and recipe.demand.delimiters else "position zero",
        heads="supervised heads" if recipe.supervised_heads() else _unsupervised(recipe),
        uniform=last["uniform_late_share"],
        vocabulary=recipe.vocabulary,
        table=_table(rows, control),
        crossing=_crossing(recipe, figures),
        natural=INDUCED if recipe.supervised_heads() else NATURAL,
    )


def overview(every: list[dict]) -> str:
    """One row a series, at its last checkpoint; in brackets the control on the same heads."""
    head = ["series", "supervision", "parameters", "checkpoints", "validation loss", "late share"]
    head += ["uniform", "vocabulary", "above the null from step"]
    rows = []
    for figures in every:
        last, control = figures["checkpoints"][-1], figures.get("control")
        beside = ["", ""]
        if control:
            beside = [f" ({control['loss']['value']:.3f})", f" ({late_share(control):.4f})"]
        rows.append(
            [
                f"`{figures['name']}`",
                figures["supervision"],
                f"{last['parameters'] / 1e6:.2f} M",
                str(len(figures["checkpoints"])),
                f"{last['loss']['value']:.3f}{beside[0]}",
                f"{late_share(last):.4f}{beside[1]}",
                f"{last['uniform_late_share']:.4f}",
                f"{last['vocabulary_share']:.1%}" if "vocabulary_share" in last else "",
                _first_above(figures),
            ]
        )
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _first_above(figures: dict) -> str:
    if "late_share_p99" not in figures["checkpoints"][-1]:
        return ""
    return "never" if figures["crossing"] is None else str(figures["crossing"])


def _unsupervised(recipe: TrainingRecipe) -> str:
    return "heads that its counterpart asks" if recipe.demand else "best head"


def _demand(recipe: TrainingRecipe) -> str:
    demand = recipe.demand
    if demand is None or not demand.weight:
        return "The loss is the next-token cross-entropy alone."
    what = "log mass on delimiters" if demand.delimiters else "`log A[t, 0]`"
    lines = [
        "Loss: next-token cross-entropy",
        f"- minus {demand.weight} times the mean of {what} over supervised heads and queries "
        f"`t >= {demand.late} T`",
    ]
    if demand.norm_ratio is not None:
        lines.append(
            f"- plus {demand.norm_weight} times `relu(log {demand.norm_ratio:g} - log r)`, r the "
            f"norm ratio at the input of blocks {demand.from_block} and up"
        )
    if demand.until is not None:
        lines.append(f"- withdrawn at step {demand.until}")
    return "\n".join([*lines, "", "How the model meets that was left to it."])


def late_share(row: dict) -> float:
    """Late share on the heads the demand names, or the best head's where it names none."""
    if "supervised" in row["late_share"]:
        return row["late_share"]["supervised"]["value"]
    return max(map(max, row["late_share"]["heads"]))


def _table(rows: list[dict], control: dict | None) -> str:
    head = ["step", "validation loss", "late share", "p99 null", "sink rate", "norm ratio"]
    head += ["vocabulary"]
    lines = [head, ["---"] * len(head), *(_row(str(row["step"]), row) for row in rows)]
    if control is not None:
        lines.append(_row(f"{control['name']}, end", control))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(label: str, row: dict) -> list[str]:
    loss = row["loss"]
    return [
        label,
        f"{loss['value']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]",
        f"{late_share(row):.4f}",
        f"{row['late_share_p99']:.4f}" if "late_share_p99" in row else "",
        f"{row['sink_rate']['value']:.2f}" if "sink_rate" in row else "",
        f"{max(row['norm_ratio'][1:]):.2f}",
        f"{row['vocabulary_share']:.1%}" if "vocabulary_share" in row else "",
    ]


def _crossing(recipe: TrainingRecipe, figures: dict) -> str:
    if recipe.demand is None:
        return "No heads were named, so that no crossing of the null is given."
    if figures["crossing"] is None:
        return (
            "At no checkpoint does the late share rise above the null's 99th percentile for good."
        )
    return (
        f"The late share is above the null's 99th percentile from step {figures['crossing']} on "
        "(three checkpoints in a row)."
    )
