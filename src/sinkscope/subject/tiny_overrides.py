"""What the shrinking of a config by field names cannot know, family by family.

A family's own numbers (low-rank sizes, indexers, state-space blocks, nested sub-configs) are set
here so that the pieces still fit each other and so that windows, chunks and sparse selections bite
within two dozen tokens. Keys are model types, those of nested sub-configs included.
"""

_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_chunk_size": 16}
_DELTA = {"linear_num_heads": 4, "linear_head_dim": 16}
# Many index heads: with few, scores cut off at zero tie, and a tie is broken by sequence length.
_INDEXER = {"index_topk": 8, "index_head_dim": 16, "index_n_heads": 16}
_PER_LAYER_INPUT = {"vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 16}
_INKLING = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "sliding_window_size": 8,
    "rel_extent": 16,
    "d_rel": 4,
}
_QWEN4_INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}
_LATENT_WINDOWED = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 32,
    "swa_kv_lora_rank": 32,
    "swa_head_dim": 24,
    "swa_qk_nope_head_dim": 16,
    "swa_v_head_dim": 16,
}

OVERRIDES: dict[str, dict] = {
    "axk2": _INDEXER,
    "bailing_hybrid": _DELTA,
    "bamba": _MAMBA2 | {"attn_layer_indices": [2]},
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "local_attention_window_len": 8,
        "vocab_size": 260,
        "use_cache": False,  # the default cache asks this config for a layer count it does not have
    },
    "blt_global_transformer": {"hidden_size": 128, "num_attention_heads": 8},
    "blt_local_decoder": {"vocab_size": 260, "hidden_size_global": 128},
    "blt_local_encoder": {"vocab_size": 260, "hidden_size_global": 128},
    "blt_patcher": {"vocab_size": 260},
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0},
    "cohere2_moe": {"logit_scale": 1.0},
    "cohere_compass_text": {
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {
            "hidden_size": 64,
            "ffn_hidden_size": 96,
            "moe_num_experts": 4,
            "moe_top_k": 2,
        },
    },
    "deepseek_v32": _INDEXER,
    "deepseek_v4": _INDEXER
    | {
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 8},
        "mlp_layer_types": ["hash_moe", "hash_moe", "moe", "moe"],
        "index_topk": 4,
        "o_groups": 2,
        "o_lora_rank": 32,
    },
    "doge": {"keep_window_size": 8},
    "dots3_note_audio_encoder": {
        "adapter_input_size": 64,
        "adapter_out_dim": 64,
        "downsample_hidden_size": 8,
    },
    "dots3_note_text": _INDEXER
    | _LATENT_WINDOWED
    | {"sliding_window": 8, "shared_experts_intermediate_size": 96},
    "dots3_note_vision_encoder": {
        "adapter_in_dim": 64,
        "adapter_out_dim": 64,
        "num_hidden_layers": 1,
        "mlp_layer_types": ["dense"],
    },
    "falcon_h1": _MAMBA2 | {"mamba_d_ssm": 128},
    "gemma3n_text": _PER_LAYER_INPUT
    | {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 16,
    },
    "gemma4_text": _PER_LAYER_INPUT | {"global_head_dim": 32},
    "gemma4_unified_text": {"global_head_dim": 32},
    "glm_moe_dsa": _INDEXER | {"indexer_types": ["full", "full", "shared", "shared"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granite": {"residual_multiplier": 0.4},
    "granitemoe": {"residual_multiplier": 0.4},
    "granitemoehybrid": _MAMBA2
    | {"layer_types": ["mamba", "mamba", "attention", "mamba"], "shared_intermediate_size": 96},
    "hy_v4": _INDEXER | {"indexer_types": ["full", "full", "shared", "shared"]},
    "inkling2_text": _INKLING | {"unpadded_vocab_size": 128},
    "inkling_text": _INKLING | {"logits_mup_width_multiplier": 1.0},
    "jamba": {
        "use_mamba_kernels": False,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_dt_rank": 4,
    },
    "jetmoe": {"kv_channels": 16},
    "kimi_linear": _DELTA,
    "laguna": {"num_attention_heads_per_layer": [4] * 4},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "llama4_text": {"attention_chunk_size": 8, "intermediate_size_mlp": 96},
    "longcat_flash": {
        "num_layers": 2,
        "head_dim": 8,
        "expert_ffn_hidden_size": 96,
        "zero_expert_num": 2,
    },
    "mamba2": {"num_heads": 8, "n_groups": 1, "chunk_size": 16},
    "minicpm3": {"scale_emb": 1, "dim_model_base": 64},
    "minimax": {"block_size": 8},
    "minimax_m3_vl_text": {
        "layer_types": [
            "full_attention",
            "full_attention",
            "minimax_m3_sparse",
            "minimax_m3_sparse",
        ],
        "dense_intermediate_size": 96,
        "shared_intermediate_size": 96,
        "index_head_dim": 16,
        "index_n_heads": 4,
        "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "modernbert-decoder": {"local_attention": 16},
    "nemotron_h": {
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "ssm_state_size": 16,
        "chunk_size": 16,
        "moe_shared_expert_intermediate_size": 96,
    },
    "qwen4_exp_text": _QWEN4_INDEXER | {"hc_lowrank": 16},
    "recurrent_gemma": {"attention_window_size": 8, "lru_width": 64},
    "reformer": {
        "attn_layers": ["local", "local", "local", "local"],
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [16, 48],
        "attention_head_size": 16,
        "feed_forward_size": 96,
        "local_attn_chunk_length": 8,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 32,
        "pronunciation_vocab_size": 128,
        "shape_embed_dim": 32,
        "shape_vocab_size": 128,
    },
    "rwkv": {"attention_hidden_size": 64},
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
    "xlstm": {"qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "use_mamba_kernels": False,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "mamba_dt_rank": 4,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "n_mamba_heads": 8,
        "chunk_size": 16,
        "adapter_rank": 16,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 32},
}

_DRAFTER = "a drafter: its forward takes the hidden states and keys of another model, not token ids"
_OTHER_CONFIG = "its causal class takes the decoder's own config, which is not the one of this type"

NOT_BUILDABLE: dict[str, str] = {
    "gemma4_assistant": _DRAFTER,
    "gemma4_unified_assistant": _DRAFTER,
    "musicgen": _OTHER_CONFIG,
    "musicgen_melody": _OTHER_CONFIG,
}
