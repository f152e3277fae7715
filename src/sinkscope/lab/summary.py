"""One or two sentences on a model that has just been trained."""

from transformers import PreTrainedModel

from sinkscope.lab.data import Data
from sinkscope.lab.demand import delimiter_ids
from sinkscope.lab.metrics import measure
from sinkscope.lab.recipe import TrainingRecipe

WINDOWS = 64


def summary(model: PreTrainedModel, data: Data, recipe: TrainingRecipe) -> str:
    """Validation loss, and the late share of the supervised heads (or the best) with its null."""
    characters = recipe.demand.delimiters if recipe.demand else ""
    delimiters = delimiter_ids(data.tokenizer, characters) if characters else None
    windows = data.validation(WINDOWS, max(recipe.lengths))
    watched = recipe.watched_heads()
    figures = measure(model, windows, watched, delimiters)
    share = figures["late_share"]
    if watched:
        whose = "supervised heads" if recipe.supervised_heads() else "heads that were only measured"
        value, null = share["supervised"]["value"], figures["late_share_p99"]
        beside = f", p99 of random targets {null:.4f}"
    else:
        whose, value, beside = "best head", max(map(max, share["heads"])), ""
    where = "delimiters" if characters else "position zero"
    return (
        f"Validation loss {figures['loss']['value']:.3f} nats per token. Late share of {where}, "
        f"{whose}: {value:.3f} (uniform attention {figures['uniform_late_share']:.4f}{beside})."
    )
