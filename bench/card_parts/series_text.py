"""The figures in the model card of a series (`series.md`); all come from the arguments."""

from card_parts.model_text import interval, table, template
from sinkscope.lab.recipe import TrainingRecipe

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
    return template("series").format(
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
    lines = [_row(str(row["step"]), row) for row in rows]
    if control is not None:
        lines.append(_row(f"{control['name']}, end", control))
    return table(head, lines)


def _row(label: str, row: dict) -> list[str]:
    return [
        label,
        interval(row["loss"]),
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
