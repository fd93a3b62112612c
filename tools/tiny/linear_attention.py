"""Linear attention and its kin: the gated delta rule, lightning attention, gated linear recurrences, RWKV."""
from tiny.family import Family, keep, llama_like

ROPE = dict(rope_type="default", rope_theta=1000.0, partial_rotary_factor=0.5)
DELTA = dict(vocab_size=64, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=6, linear_value_head_dim=8,
             linear_conv_kernel_dim=3, head_dim=8, layer_types=["linear_attention", "full_attention"],
             rope_parameters=ROPE)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=12)
# decays between 0.4 and 1 a token: the memory is neither empty nor everything
DECAYS = {r"A_log": lambda value, noise: -1.0 + 0.5 * noise, r"dt_bias": lambda value, noise: 0.5 * noise}
MINIMAX = dict(vocab_size=64, num_local_experts=3, num_experts_per_tok=2, intermediate_size=12, block_size=8, head_dim=8,
               num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])

FAMILIES = [
    Family("qwen3_5_text", "qwen3_5_text", "gated delta rule with two value heads a key head; a gate on attention; half rotated",
           llama_like(**DELTA, attention_bias=True), init=DECAYS),
    Family("qwen3_5_moe_text", "qwen3_5_moe_text", "Qwen 3.5 with experts in one tensor",
           llama_like(**DELTA, **EXPERTS, intermediate_size=None, tie_word_embeddings=True), init=DECAYS),
    Family("qwen3_next", "qwen3_next", "the projections of the delta rule in two tensors, by key head; experts; a dense layer",
           llama_like(**DELTA, **EXPERTS, mlp_only_layers=[1], norm_topk_prob=True), init=DECAYS,
           hub=lambda c: c.update(full_attention_interval=2)),
    Family("olmo_hybrid", "olmo_hybrid", "gated delta rule with negative eigenvalues; norms of q and k over all heads, norms behind; "
           "rotated", llama_like(vocab_size=64, linear_num_key_heads=4, linear_num_value_heads=4, linear_key_head_dim=6, linear_value_head_dim=6,
                                 linear_conv_kernel_dim=4, linear_allow_neg_eigval=True, attention_bias=True,
                                 layer_types=["linear_attention", "full_attention"],
                                 rope_parameters=dict(rope_type="default", rope_theta=1000.0)), init=DECAYS),
    Family("olmo_hybrid_nope", "olmo_hybrid", "no positions, eigenvalues from 0 to 1",
           llama_like(vocab_size=64, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
                      linear_allow_neg_eigval=False, layer_types=["linear_attention", "full_attention"], rope_parameters=None),
           init=DECAYS),
    Family("minimax", "minimax", "lightning attention; residuals from behind the norm with factors of their own; experts",
           llama_like(**MINIMAX, full_attn_alpha_factor=1.5, full_attn_beta_factor=0.7, linear_attn_alpha_factor=1.3,
                      linear_attn_beta_factor=0.6, mlp_alpha_factor=1.2, mlp_beta_factor=0.8),
           init={r"slope_rate|_decay": keep}, dtype="float32"),
    Family("recurrent_gemma", "recurrent_gemma", "RG-LRU with gates in blocks, short convolution, windows, half rotated, logits capped",
           dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                num_key_value_heads=1, lru_width=40, attention_window_size=6, conv1d_width=3, logits_soft_cap=2.0,
                block_types=["recurrent", "attention"], bos_token_id=1, eos_token_id=2, pad_token_id=0)),
    Family("rwkv", "rwkv", "WKV with time shift and channel mixing", dict(
        vocab_size=64, context_length=128, hidden_size=32, attention_hidden_size=40, num_hidden_layers=2, intermediate_size=48,
        bos_token_id=1, eos_token_id=2),
        init={r"time_decay": lambda value, noise: -1.0 + 0.7 * noise, r"time_first": lambda value, noise: 0.5 * noise,
              r"time_mix": lambda value, noise: 0.5 + 0.2 * noise}),
]
