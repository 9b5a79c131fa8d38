"""Fields of config.json that each family's classes in transformers can read.

No other field changes what the classes compute. The lists come from the source of transformers 5.24, 4.57, 4.30, 3.5
and 2.11 (`tests/interop/reference_fields.py`): fields that a configuration class defines, their aliases, and fields
that the code reads from a configuration. Fields that match `settings.HARMLESS` are left out.
"""

from __future__ import annotations

# The newest release that these lists cover.
RELEASE = (5, 24)

# Fields that the code of every family reads.
SHARED = frozenset(
    """
    add_cross_attention alibi allow_global_per_layer_attribute_access attention_chunk_size attention_factor
    attribute_map base_config_key base_model_ep_plan base_model_fsdp_plan base_model_pp_plan base_model_tp_plan
    beta_fast beta_slow cache_dir chain_hidden_post_norm commit_message compile_config config config_class decoder
    device_map device_mesh disable_mmap disk_offload_folder distributed_config download_kwargs dtype_plan embed_dim
    enable_expert_parallel end_n_top experts_implementation extra_config_files extra_files factor first_k_dense_replace
    force_download fusion_config gguf_file has_no_defaults_at_init head_dim hf_quantizer hidden_size
    ignore_keys_at_rope_validation ignore_mismatched_sizes init_kwargs intermediate_size is_causal is_composition
    is_decoder is_heterogeneous is_quantized kwargs layer_norm_eps layer_types llm_int8_enable_fp32_cpu_offload
    llm_int8_skip_modules load_in_4bit load_in_8bit local_files_only logits_mup_width_multiplier long_factor mem_len
    mlp_layer_types mtp_hidden_states_first mtp_layer_types mtp_mlp_layer_types mtp_per_layer_config name_or_path
    num_attention_heads num_heads num_key_value_heads num_mtp_layers offload_buffers optional
    original_max_position_embeddings partial_rotary_factor per_layer_config pretrained_model_name_or_path proxies
    pruned_heads quant_method quantization_config repo_id resume_download return_unused_kwargs rms_norm_eps
    rope_parameters rope_scaling rope_theta rope_type serialize_explicit_per_layer_config setter sharded_metadata
    short_factor skip sliding_window start_n_top sub_configs sub_configs_defaults subfolder tie_encoder_decoder
    tie_word_embeddings token token_classification_bias transformers_weights type unpadded_vocab_size use_alibi
    use_return_dict use_safetensors validate vocab_size weight_mapping weights_only xla_device
    """.split()
)

# Fields that only the code of one family reads.
OWN: dict[str, frozenset[str]] = {
    name: frozenset(fields.split())
    for name, fields in {
        "gpt2": """
            activation_function layer_norm_epsilon n_embd n_head n_inner n_layer n_positions
            scale_attn_by_inverse_layer_idx scale_attn_weights
        """,
        "bert": "embedding_size hidden_act position_embedding_type type_vocab_size",
        "t5": """
            d_ff d_kv d_model dense_act_fn feed_forward_proj is_gated_act layer_norm_epsilon n_positions
            num_decoder_layers num_layers relative_attention_max_distance relative_attention_num_buckets
            scale_decoder_outputs
        """,
        "mt5": """
            d_ff d_kv d_model dense_act_fn feed_forward_proj is_gated_act layer_norm_epsilon n_positions
            num_decoder_layers num_layers relative_attention_max_distance relative_attention_num_buckets
        """,
        "umt5": """
            d_ff d_kv d_model dense_act_fn feed_forward_proj is_gated_act layer_norm_epsilon num_decoder_layers
            num_layers relative_attention_max_distance relative_attention_num_buckets scale_decoder_outputs
        """,
        "llama": "attention_bias hidden_act mlp_bias",
        "mistral": "hidden_act",
        "mixtral": """
            hidden_act num_experts num_experts_per_tok num_local_experts router_aux_loss_coef router_jitter_noise
        """,
        "qwen2": "hidden_act max_window_layers use_sliding_window",
        "qwen3": "attention_bias hidden_act max_window_layers use_sliding_window",
        "gemma": "attention_bias hidden_act hidden_activation use_bidirectional_attention",
        "gemma2": """
            attention_bias attn_logit_softcapping final_logit_softcapping hidden_activation query_pre_attn_scalar
            use_bidirectional_attention
        """,
        "gemma3_text": """
            attention_bias attn_logit_softcapping boi_token_index eoi_token_index final_logit_softcapping
            full_attention hidden_activation image_size image_token_index mm_tokens_per_image patch_size
            query_pre_attn_scalar rope_local_base_freq sliding_attention sliding_window_pattern text_config
            use_bidirectional_attention vision_config
        """,
        "gptj": "activation_function layer_norm_epsilon n_embd n_head n_inner n_layer n_positions rotary_dim",
        "gpt_neox": "attention_bias hidden_act rotary_emb_base rotary_pct use_parallel_residual",
        "gpt_neo": "activation_function attention_layers attention_types layer_norm_epsilon num_layers window_size",
        "bloom": "apply_residual_connection_post_layernorm layer_norm_epsilon n_embed n_head n_layer",
        "falcon": """
            activation bias ffn_hidden_size layer_norm_epsilon multi_query n_embed new_decoder_architecture
            num_kv_heads num_ln_in_parallel_attn parallel_attn
        """,
        "mpt": """
            alibi_bias_max attn_config attn_type attn_uses_sequence_id clip_qkv d_model embedding_fraction
            expansion_ratio layer_norm_epsilon learned_pos_emb logit_scale max_seq_len n_heads n_layers no_bias
            norm_type prefix_lm qk_ln softmax_scale
        """,
        "opt": """
            activation_function do_layer_norm_before enable_bias ffn_dim layer_norm_elementwise_affine
            word_embed_proj_dim
        """,
        "openai-gpt": "afn layer_norm_epsilon n_embd n_head n_layer n_positions",
        "roberta": "embedding_size hidden_act position_embedding_type type_vocab_size",
        "xlm-roberta": "embedding_size hidden_act position_embedding_type type_vocab_size",
        "distilbert": "activation dim hidden_dim n_heads n_layers sinusoidal_pos_embds",
        "electra": "embedding_size hidden_act position_embedding_type type_vocab_size",
        "albert": """
            embedding_size hidden_act inner_group_num num_hidden_groups position_embedding_type type_vocab_size
        """,
        "deberta-v2": """
            attention_head_size conv_act conv_groups conv_kernel_size embedding_size hidden_act legacy
            max_relative_positions norm_rel_ebd pos_att_type position_biased_input position_buckets relative_attention
            share_att_key type_vocab_size
        """,
        "modernbert": """
            attention_bias decoder_bias full_attention global_attn_every_n_layers global_rope_theta hidden_activation
            local_attention local_rope_theta mlp_bias norm_bias norm_eps sliding_attention
        """,
        "bart": """
            activation_function d_model decoder_attention_heads decoder_ffn_dim decoder_layers
            do_blenderbot_90_layernorm encoder_attention_heads encoder_ffn_dim encoder_layers scale_embedding
        """,
        "marian": """
            activation_function d_model decoder_attention_heads decoder_ffn_dim decoder_layers decoder_vocab_size
            do_blenderbot_90_layernorm encoder_attention_heads encoder_ffn_dim encoder_layers scale_embedding
            share_encoder_decoder_embeddings
        """,
        "pegasus": """
            activation_function d_model decoder_attention_heads decoder_ffn_dim decoder_layers
            do_blenderbot_90_layernorm encoder_attention_heads encoder_ffn_dim encoder_layers scale_embedding
        """,
        "xlnet": """
            attn_type bi_data clamp_len d_head d_inner d_model ff_activation n_head n_layer reuse_len same_length
            untie_r use_mems_eval use_mems_train
        """,
    }.items()
}


def of(family: str) -> frozenset[str] | None:
    """Returns the fields that the classes of a `model_type` can read; None: unknown family."""
    return SHARED | OWN[family] if family in OWN else None
