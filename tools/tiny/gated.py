"""Experts beside attention of its own: gates, sinks, clamps, heads that differ from layer to layer."""
from tiny.family import Family, llama_like

WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
BY_KIND = dict(sliding_attention=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=1.0),
               full_attention=dict(rope_type="default", rope_theta=1000.0, partial_rotary_factor=0.5))

FAMILIES = [
    Family("afmoe", "afmoe", "a gate as wide as attention, norms on both sides, windows that alone are rotated; biased sigmoid routing",
           llama_like(head_dim=8, num_hidden_layers=3, num_dense_layers=1, layer_types=WINDOWS, sliding_window=6, num_experts=4,
                      num_experts_per_tok=2, num_shared_experts=2, moe_intermediate_size=12, route_scale=1.7, mup_enabled=True)),
    Family("dbrx", "dbrx", "fused and clamped q, k, v; LayerNorm without bias; experts stacked in one matrix",
           dict(vocab_size=96, d_model=32, n_heads=4, n_layers=2, max_seq_len=64, bos_token_id=1, eos_token_id=2,
                attn_config=dict(kv_n_heads=2, clip_qkv=0.8, rope_theta=10000.0),
                ffn_config=dict(ffn_hidden_size=12, moe_num_experts=4, moe_top_k=2, hidden_size=32))),
    Family("doge", "doge", "scores biased by a number for each key and head; residuals scaled feature by feature; norms of q and k",
           llama_like(keep_window_size=64, tie_word_embeddings=True), init={r"self_attn\.A$": lambda value, noise: 0.3 * noise}),
    Family("laguna", "laguna", "as many heads as a layer wants, a softplus gate for each; routing with a bias and a cap",
           llama_like(head_dim=8, num_hidden_layers=3, layer_types=WINDOWS, sliding_window=6, rope_parameters=BY_KIND,
                      num_attention_heads_per_layer=[4, 2, 6], num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12,
                      shared_expert_intermediate_size=20, mlp_layer_types=["dense", "sparse", "sparse"],
                      moe_routed_scaling_factor=1.5, moe_router_logit_softcapping=2.0)),
    Family("mimo_v2_flash", "mimo_v2_flash", "v narrower than q and k and scaled; sinks and more kv heads in windows",
           llama_like(head_dim=12, v_head_dim=8, num_hidden_layers=3, layer_types=WINDOWS, sliding_window=6,
                      rope_parameters=dict(sliding_attention=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.34),
                                           full_attention=dict(rope_type="default", rope_theta=1000.0,
                                                               partial_rotary_factor=0.34)),
                      n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=12,
                      mlp_layer_types=["dense", "sparse", "sparse"])),
]
