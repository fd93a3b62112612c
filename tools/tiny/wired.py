"""Decoders whose layers are wired together: values of another layer, blocks used more than once, loops."""
from tiny.family import Family, around, llama_like

TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
GEMMA4 = llama_like(num_hidden_layers=4, layer_types=TYPES, sliding_window=6, head_dim=8, tie_word_embeddings=True,
                    rope_parameters=dict(sliding_attention=dict(rope_type="default", rope_theta=100.0),
                                         full_attention=dict(rope_type="proportional", partial_rotary_factor=0.5,
                                                             rope_theta=1000.0)))

FAMILIES = [
    Family("gemma4_text", "gemma4_text", "upper layers read K and V of lower ones; embeddings for each layer; full layers of their own "
           "width whose V is the K projection; logits capped; wide MLPs where K and V are shared",
           dict(GEMMA4, num_kv_shared_layers=2, vocab_size_per_layer_input=96, hidden_size_per_layer_input=4, global_head_dim=16,
                num_global_key_value_heads=1, attention_k_eq_v=True, use_double_wide_mlp=True, final_logit_softcapping=2.0)),
    Family("gemma4_text_experts", "gemma4_text", "experts beside the MLP",
           dict(GEMMA4, num_hidden_layers=2, layer_types=TYPES[:2], vocab_size_per_layer_input=96, hidden_size_per_layer_input=0,
                global_head_dim=16, enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=12)),
    Family("gemma4_unified_text", "gemma4_unified_text", "Gemma 4 without embeddings for each layer",
           dict(GEMMA4, global_head_dim=16, attention_k_eq_v=True, num_global_key_value_heads=1, num_kv_shared_layers=2)),
    Family("hrm_text", "hrm_text", "two stacks run in turn, gradients through the last rounds only; a gate on attention",
           llama_like(num_key_value_heads=None, head_dim=8, prefix_lm=False, H_cycles=2, L_cycles=2, L_bp_cycles=[1, 2],
                      num_hidden_layers=1, embedding_scale=3.0)),
    Family("zamba_two_heads", "zamba", "one block before several layers, over the embedding too; Mamba 1 in heads with projections of their own",
           llama_like(vocab_size=48, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=2, n_mamba_heads=2,
                      mamba_d_state=5, mamba_dt_rank=3, intermediate_size=20, tie_word_embeddings=True,
                      layers_block_type=["mamba", "hybrid", "mamba", "hybrid"]),
           init={r"dt_proj_bias$": around(-1.5, 0.5), r"A_log$": around(0.5, 0.5)}, seed=7805),
]
