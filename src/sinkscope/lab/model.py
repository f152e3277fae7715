"""The untrained model of a recipe."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sinkscope.lab.recipe import Recipe


def build_model(recipe: Recipe, bos: int = 0, eos: int = 1) -> PreTrainedModel:
    """A model of transformers' own code, float32; the recipe's seed fixes its weights."""
    torch.manual_seed(recipe.seed)
    config = AutoConfig.for_model(
        recipe.family,
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
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _extra(recipe: Recipe) -> dict:
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
