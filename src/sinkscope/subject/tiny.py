"""Tiny random models of every causal family, for tests and for the support matrix.

A config is shrunk by the names of its fields (`SIZES`), layer patterns are cut to a few layers that
still show every kind of layer, and what is special to a family sits in `tiny_overrides.yaml`.
Weights are drawn so that attention is visibly non-uniform: the usual initialisation (std 0.02)
makes every row of attention nearly flat, and a flat map hides mistakes in a reader of attention.
"""

import inspect
import math
from importlib.resources import files

import torch
import yaml
from torch import nn

from sinkscope.subject.plan import quiet

FAMILIES = yaml.safe_load((files("sinkscope.subject") / "tiny_overrides.yaml").read_text("utf-8"))
OVERRIDES: dict[str, dict] = FAMILIES["overrides"]
NOT_BUILDABLE: dict[str, str] = FAMILIES["not_buildable"]  # why, for each
LAYERS = 4
HIDDEN = 64
HEADS = 4
KV_HEADS = 2
HEAD_DIM = HIDDEN // HEADS
VOCAB = 128
WINDOW = 8
POSITIONS = 512
INNER = 96
EXPERTS = 4

_NAMES = (
    (HIDDEN, "hidden_size n_embd d_model emb_dim embedding_size word_embed_proj_dim embedding_dim"),
    (LAYERS, "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers"),
    # A cache may count the encoder's layers even where only the decoder runs.
    (LAYERS, "encoder_layers num_encoder_layers"),
    (HEADS, "num_attention_heads n_head n_heads num_heads attention_heads linear_num_value_heads"),
    (HEADS, "decoder_attention_heads encoder_attention_heads num_decoder_attention_heads"),
    (HEADS, "num_encoder_attention_heads"),
    (KV_HEADS, "num_key_value_heads num_kv_heads linear_num_key_heads"),
    (HEAD_DIM, "head_dim v_head_dim qk_nope_head_dim query_pre_attn_scalar d_head dim_head"),
    (HEAD_DIM, "linear_key_head_dim linear_value_head_dim mamba_d_state state_size"),
    (HEAD_DIM // 2, "qk_rope_head_dim rotary_dim"),
    (2 * HEAD_DIM, "kv_lora_rank q_lora_rank"),
    (INNER, "intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim dff dim_ff d_inner"),
    (INNER, "ffn_hidden_size moe_intermediate_size shared_expert_intermediate_size"),
    (VOCAB, "vocab_size"),
    (POSITIONS, "max_position_embeddings n_positions n_ctx max_seq_len model_max_length"),
    (WINDOW, "sliding_window window_size"),
    (EXPERTS, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    (2, "num_experts_per_tok num_experts_per_token moe_topk moe_k"),
    (2, "conv_kernel linear_conv_kernel_dim mamba_d_conv"),
    (1, "n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group"),
    (1, "num_expert_group first_k_dense_replace"),
    (0, "pad_token_id"),
    (1, "bos_token_id decoder_start_token_id"),
    (2, "eos_token_id"),
    (True, "is_decoder"),
    (HEAD_DIM**-0.5, "attention_multiplier"),
)
SIZES = {name: size for size, names in _NAMES for name in names.split()}
PATTERNS = ("layer_types", "mlp_layer_types", "layers_block_type")


class CannotBuild(Exception):
    """A causal type of which no tiny model can be built here; `reason` says why in one sentence."""

    def __init__(self, model_type: str, reason: str):
        super().__init__(f"{model_type}: {reason}")
        self.model_type = model_type
        self.reason = reason


def causal_types() -> list[str]:
    """All causal model types of the installed transformers, sorted."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str):
    """The shrunk config of a causal type.

    Four layers, hidden size 64, 4 query heads on 2 key/value heads, 128 tokens and a window of 8
    wherever the family has such a number. Raises `CannotBuild` for a type that is unknown or whose
    config cannot be made small.
    """
    if model_type not in causal_types():
        raise CannotBuild(model_type, "not a causal model type of the installed transformers")
    if model_type in NOT_BUILDABLE:
        raise CannotBuild(model_type, NOT_BUILDABLE[model_type])
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        with quiet():
            config_class = CONFIG_MAPPING[model_type]
            return config_class(**_tiny_fields(config_class, model_type))
    except Exception as error:
        raise CannotBuild(model_type, f"config: {_first_line(error)}") from error


def tiny_model(model_type: str, seed: int = 0) -> nn.Module:
    """A tiny random causal LM of the given type: fp32, on the CPU, in eval mode.

    Equal seeds give equal weights, and the global random state is left as it was. Raises
    `CannotBuild` if the type is unknown or transformers cannot build it.
    """
    from transformers import AutoModelForCausalLM

    config = tiny_config(model_type)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            _spread_weights(model)
    except Exception as error:
        raise CannotBuild(model_type, _first_line(error)) from error
    return model.eval()


def _tiny_fields(config_class, model_type: str) -> dict:
    """Keyword arguments for a small config of this class, sub-configs as nested dicts."""
    overrides = OVERRIDES.get(model_type, {})
    default = _default(config_class, overrides)
    names = set(inspect.signature(config_class.__init__).parameters)
    names.add("pad_token_id")  # read by some models whose config does not declare it
    fields = {name: size for name, size in SIZES.items() if name in names}
    if "kv_lora_rank" in names:  # latent attention expands keys to one per query head
        fields |= {"num_key_value_heads": HEADS}
    if getattr(default, "sliding_window", None) is None:  # a window is optional in this family
        fields.pop("sliding_window", None)
    for name in names.intersection(PATTERNS):
        if isinstance(pattern := getattr(default, name, None), list):
            fields[name] = _cut(pattern)
    for name, value in vars(default).items():
        if hasattr(value, "to_dict"):
            nested = _tiny_fields(type(value), value.model_type)
            fields[name] = {"model_type": value.model_type} | nested
    return fields | overrides


def _default(config_class, overrides: dict):
    # A few configs are invalid with their own defaults; then the overrides must make them valid.
    try:
        return config_class()
    except Exception:  # noqa: BLE001 - the kind of error is the family's own
        return config_class(**overrides)


def _cut(pattern: list[str], length: int = LAYERS) -> list[str]:
    """The first layers of a pattern, the last ones replaced by kinds that would be missing."""
    head = pattern[:length]
    missing = [kind for kind in dict.fromkeys(pattern) if kind not in head]
    return head[: length - len(missing)] + missing


def _spread_weights(model: nn.Module) -> None:
    """Redraw matrices at a gain above one and shake vectors: no flat map, no trivial norm."""
    kinds = {id(p): type(m) for m in model.modules() for p in m.parameters(recurse=False)}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            _spread(name, weight, kinds[id(weight)])


def _spread(name: str, weight: torch.Tensor, kind: type) -> None:
    noise = torch.randn_like(weight)
    leaf = name.rsplit(".", 1)[-1]
    if "sink" in leaf or leaf == "temp":  # learned sinks, and a key scale that starts at zero
        weight.copy_(noise)
    elif not weight.requires_grad or leaf in _KEEP:
        return
    elif weight.ndim < 2 or leaf.endswith("bias"):
        # Norm weights start at 1, or at 0 where the module computes 1 + w: noise suits both.
        weight.add_(noise, alpha=0.1)
    elif issubclass(kind, nn.Embedding):
        weight.copy_(0.5 * noise)
    else:
        weight.copy_(1.5 * noise / math.sqrt(_fan_in(weight, kind)))


# State-space and mixing constants that are not matrices, whatever their shape.
_KEEP = {"A_log", "time_mix_key", "time_mix_value", "time_mix_receptance"}


def _fan_in(weight: torch.Tensor, kind: type) -> int:
    if kind.__name__ == "Conv1D":  # GPT-2's linear layer keeps its weight as (in, out)
        return weight.shape[0]
    if kind.__name__.startswith("Conv"):
        return weight[0].numel()
    return weight.shape[-1]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
