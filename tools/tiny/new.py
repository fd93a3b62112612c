"""Types that transformers 5.23 has beyond the 124 of the census (internlm3 and iquestcoder stand in dense.py)."""
from tiny.family import Family, llama_like

WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12)

FAMILIES = [
    Family("kolibri1", "kolibri1", "norms of q and k, rotation in windows only; sigmoid of chosen logits; a shared expert",
           {**llama_like(**EXPERTS, num_hidden_layers=3, sliding_window=6, layer_types=WINDOWS, head_dim=8,
                         shared_expert_intermediate_size=20, norm_topk_prob=True, intermediate_size=None)}),
    Family("flint", "flint", "sinks, windows, dense and sparse layers; sigmoid scores; a shared expert without a gate",
           llama_like(**EXPERTS, num_hidden_layers=3, sliding_window=6, layer_types=WINDOWS, head_dim=8,
                      shared_expert_intermediate_size=20, mlp_only_layers=[0])),
    Family("lfm3", "lfm3", "short convolutions, windows and full attention; a gate for each head; norms on both sides",
           llama_like(num_hidden_layers=3, sliding_window=6, head_dim=16, conv_L_cache=4, conv_bias=True,
                      layer_types=["conv", "sliding_attention", "full_attention"],
                      rope_parameters=dict(sliding_attention=dict(rope_type="default", rope_theta=100.0),
                                           full_attention=dict(rope_type="proportional", partial_rotary_factor=0.5,
                                                               rope_theta=1000.0)))),
]
