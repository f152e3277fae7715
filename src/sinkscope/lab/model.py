"""The untrained model of a recipe."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.subject.variants.configuration import SinkscopeLabConfig
from sinkscope.subject.variants.modeling import SinkscopeLabForCausalLM


def build_model(recipe: TrainingRecipe, bos: int = 0, eos: int = 1) -> PreTrainedModel:
    """A model of transformers' own code, float32; the recipe's seed fixes its weights.

    A variant begins with the very weights of the plain model of that seed.
    """
    shape = _shape(recipe, bos, eos)
    torch.manual_seed(recipe.seed)
    config = AutoConfig.for_model(recipe.family, **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if recipe.attention == "softmax" and not recipe.force_sink:
        return model
    changed = SinkscopeLabConfig(recipe.attention, recipe.force_sink, **shape)
    variant = SinkscopeLabForCausalLM(changed)
    variant.load_state_dict(model.state_dict(), strict=False)
    return variant


def _shape(recipe: TrainingRecipe, bos: int, eos: int) -> dict[str, Any]:
    return dict(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.hidden,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.width // recipe.heads,
        max_position_embeddings=recipe.context,
        initializer_range=recipe.init,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        **_extra(recipe),
    )


def _extra(recipe: TrainingRecipe) -> dict:
    if recipe.family == "mixtral":
        return {
            "num_local_experts": recipe.experts,
            "num_experts_per_tok": recipe.active,
            "output_router_logits": True,  # the forward pass then returns the balancing loss
        }
    if recipe.family == "qwen3_next":
        blocks = range(recipe.blocks)
        # Its gated softmax attention in every block, its linear attention and experts in none.
        return {
            "layer_types": ["full_attention" for _ in blocks],
            "mlp_only_layers": list(blocks),
            "num_experts": 0,
        }
    return {}
