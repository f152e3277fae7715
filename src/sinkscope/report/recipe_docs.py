"""The recipes as a Markdown page: what each does, and every published number with its mark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinkscope.report.recipe_page import printed

if TYPE_CHECKING:
    from sinkscope.causal.recipes.base import Recipe, Row


def recipe_list(recipes: dict[str, Recipe]) -> list[str]:
    """A table with a line for each recipe."""
    lines = ["| Recipe | What | Paper | Prompts | Numbers for |", "|---|---|---|---|---|"]
    for recipe in recipes.values():
        options = recipe.prompts
        prompts = f"{options['n']} × {options['length']} tokens, BOS {options['bos']}"
        models = ", ".join(one.id.rpartition("/")[2] for one in recipe.checkpoints) or "–"
        lines.append(
            f"| [`{recipe.name}`](#{recipe.name}) | {recipe.title} | {recipe.paper} "
            f"| {prompts} | {models} |"
        )
    return lines


def recipe_section(recipe: Recipe) -> list[str]:
    """The rows of a recipe, with what was published for each."""
    lines = [f"## {recipe.name}", "", f"{recipe.title}. {recipe.paper}.", "", recipe.metric]
    if recipe.differs:
        lines += ["", recipe.differs]
    lines += ["", "| Row | What is done | Published |", "|---|---|---|"]
    for row in recipe.rows:
        name = row.name + (" (control)" if row.control else "")
        lines.append(f"| {row.key} | {name} | {_published(row)} |")
    return lines


def _published(row: Row) -> str:
    """quantity: number of a checkpoint, mark; .."""
    by_quantity: dict[str, list[str]] = {}
    for one in row.published:
        model = one.checkpoint.id.rpartition("/")[2]
        by_quantity.setdefault(one.of, []).append(f"{printed(one.value)} {model} {one.mark}")
    return "<br>".join(f"{of}: {'; '.join(found)}" for of, found in by_quantity.items()) or "–"
