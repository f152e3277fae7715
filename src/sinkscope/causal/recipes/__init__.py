"""Published experiments as recipes that run on any model.

from sinkscope.causal import recipes
result = recipes.run("ran-milo-2026", subject)
print(result.table())
"""

from sinkscope.causal.recipes.run import RECIPES, RecipeSettings, run

__all__ = ["RECIPES", "RecipeSettings", "run"]
