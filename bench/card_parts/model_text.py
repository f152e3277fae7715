"""The figures in a model card (`reference.md`); every number comes from the arguments."""

from pathlib import Path
from statistics import mean

from sinkscope.lab.recipe import TrainingRecipe


def template(name: str) -> str:
    """The words of a model card, with the names of figures in braces."""
    return (Path(__file__).parent / f"{name}.md").read_text(encoding="utf-8")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(measured: dict | None, digits: int = 3) -> str:
    """A figure with its interval."""
    if measured is None:
        return "not run"
    value, low, high = (f"{measured[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


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
    return template("reference").format(**values)


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


def _summary(figures: dict) -> str:
    names = {
        "supervised": "late share, supervised heads",
        "unsupervised_same_blocks": "late share, other heads of the same blocks",
        "earlier_blocks": "late share, heads of the blocks before",
        "all": "late share, all heads",
    }
    columns = [figures["trained"], figures.get("control")]
    rows = [["loss, nats per token"]]
    rows[0] += [interval(c and c["loss"]) for c in columns]
    rows[0].append(f"{mean(u['loss']['value'] for u in figures['untrained']):.3f}")
    for key in (k for k in names if k in figures["trained"]["late_share"]):
        untrained = mean(u["late_share"][key]["value"] for u in figures["untrained"])
        shares = [interval(c and c["late_share"][key], 4) for c in columns]
        rows.append([names[key], *shares, f"{untrained:.4f}"])
    return table(["", "trained", "control", "untrained"], rows)


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
    return table(["read point", *names.values()], rows)


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
    return table(["block", *(f"head {h}" for h in range(recipe.heads))], rows)
