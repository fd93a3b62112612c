"""State-space models and hybrids: Mamba 1 and 2, short convolutions, RG-LRU."""
from tiny.family import Family, around, llama_like

# decays and time steps over a range in which both a token and the one before it count
STEPS = {r"dt_bias$": around(-1.5, 0.5), r"dt_proj\.bias$": around(-1.5, 0.5), r"dt_proj_bias$": around(-1.5, 0.5),
         r"A_log$": around(0.5, 0.5)}
BAMBA = dict(vocab_size=48, mamba_n_heads=6, mamba_expand=2, hidden_size=24, mamba_n_groups=2, mamba_d_state=5, mamba_d_conv=3)
MAMBA = dict(vocab_size=96, num_hidden_layers=2, bos_token_id=1, eos_token_id=2, pad_token_id=None)
# a tied embedding of order 1 and flat attention: small differences stay small through the shared block
CALM = {r"embed_tokens\.weight$": lambda value, noise: 0.7 * noise,
        r"self_attn\.[qk]_proj\.weight$": lambda value, noise: 0.4 * noise * value.shape[-1] ** -0.5}
TYPES = ["linear_attention", "full_attention", "linear_attention"]


def by_period(config):
    """The layers with attention by their period alone, as the first configs of Zamba say it."""
    return {k: v for k, v in config.items() if k not in ("layers_block_type", "attention_hidden_size", "attention_head_dim")}


def scan(name, model_type, why, config, **keys):
    return Family(name, model_type, why, config, init={**STEPS, **keys.pop("init", {})}, **keys)


FAMILIES = [
    scan("mamba", "mamba", "Mamba 1: a rank of its own, tied",
         dict(MAMBA, hidden_size=20, state_size=6, conv_kernel=4, time_step_rank=3, tie_word_embeddings=True)),
    scan("mamba_bias", "mamba", "biases, no bias of the convolution, the rank from the width, untied",
         dict(MAMBA, hidden_size=24, state_size=5, conv_kernel=3, use_bias=True, use_conv_bias=False, tie_word_embeddings=False)),
    scan("falcon_mamba", "falcon_mamba", "norms without weights over time step, B and C",
         dict(MAMBA, hidden_size=20, state_size=6, time_step_rank=3, mixer_rms_eps=1e-5, tie_word_embeddings=False)),
    scan("mamba2", "mamba2", "Mamba 2: two groups of heads, a norm in groups",
         dict(MAMBA, hidden_size=24, num_heads=6, head_dim=8, n_groups=2, state_size=5, conv_kernel=4, chunk_size=8)),
    scan("mamba2_bias", "mamba2", "biases; time steps limited on both sides; one group",
         dict(MAMBA, hidden_size=24, num_heads=4, head_dim=12, n_groups=1, state_size=7, use_bias=True, use_conv_bias=False,
              chunk_size=8, time_step_limit=(0.15, 0.3))),
    scan("bamba", "bamba", "attention in one layer of three, half of a head turned",
         llama_like(**BAMBA, num_attention_heads=3, num_key_value_heads=1, num_hidden_layers=3, attn_layer_indices=[1], intermediate_size=32)),
    scan("bamba_bias", "bamba", "biases everywhere, tied",
         llama_like(**BAMBA, num_attention_heads=3, num_key_value_heads=1, attn_layer_indices=[0], attention_bias=True, mlp_bias=True, mamba_proj_bias=True,
                    mamba_conv_bias=False, tie_word_embeddings=True, intermediate_size=32)),
    scan("falcon_h1", "falcon_h1", "attention beside the scan in every layer; fourteen multipliers; no norm behind the scan",
         llama_like(**{**BAMBA, "mamba_d_ssm": 36}, intermediate_size=32, embedding_multiplier=3.0, lm_head_multiplier=0.5,
                    key_multiplier=0.6, attention_in_multiplier=0.9, attention_out_multiplier=1.2, ssm_in_multiplier=1.1,
                    ssm_out_multiplier=0.8, ssm_multipliers=[0.9, 1.1, 0.8, 1.2, 0.7], mlp_multipliers=[0.7, 1.3])),
    scan("falcon_h1_norm", "falcon_h1", "a norm in groups, before the gate",
         llama_like(**{**BAMBA, "mamba_d_ssm": 48}, intermediate_size=32, mamba_rms_norm=True, mamba_norm_before_gate=True,
                    projectors_bias=True)),
    scan("falcon_h1_gate_first", "falcon_h1", "a norm in groups, behind the gate; biases",
         llama_like(**BAMBA, mamba_d_ssm=36, intermediate_size=32, mamba_rms_norm=True, mamba_norm_before_gate=False,
                    mamba_proj_bias=True, attention_bias=True, mlp_bias=True)),
    Family("lfm2", "lfm2", "gated short convolutions and attention with norms of q and k; the adjusted width",
           llama_like(num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"], intermediate_size=60,
                      block_multiple_of=8, conv_L_cache=3, tie_word_embeddings=True)),
    Family("lfm2_bias", "lfm2", "biases of the convolutions; the width as given; layers by index",
           llama_like(hidden_size=24, vocab_size=48, intermediate_size=28, num_hidden_layers=3, full_attn_idxs=[0],
                      block_auto_adjust_ff_dim=False, conv_L_cache=4, conv_bias=True)),
    scan("zamba2", "zamba2", "two shared blocks used in turns, with adapters; rope",
         llama_like(vocab_size=48, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=None,
                    n_mamba_heads=4, mamba_ngroups=2, mamba_d_state=5, mamba_d_conv=4, num_mem_blocks=2, adapter_rank=4,
                    use_mem_rope=True, use_shared_attention_adapter=True, intermediate_size=20, chunk_size=8,
                    tie_word_embeddings=True, layers_block_type=["hybrid", "mamba", "hybrid", "hybrid"]), init=CALM),
    scan("zamba2_plain", "zamba2", "one shared block, its attention without adapters and positions; biases",
         llama_like(vocab_size=48, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=None,
                    n_mamba_heads=4, mamba_d_state=5, adapter_rank=4, intermediate_size=20, chunk_size=8, add_bias_linear=True,
                    layers_block_type=["mamba", "hybrid", "hybrid"], tie_word_embeddings=True)),
    scan("zamba", "zamba", "Mamba 1 in heads; one shared block; a rank of its own; attention with fewer kv heads",
         llama_like(vocab_size=48, hidden_size=16, num_hidden_layers=4, num_attention_heads=4, n_mamba_heads=2, mamba_d_state=5,
                    mamba_d_conv=3, mamba_dt_rank=3, intermediate_size=20, tie_word_embeddings=True, attn_layer_period=2,
                    attn_layer_offset=0), hub=by_period,
         init={**CALM, r"dt_proj_weight$": lambda value, noise: noise * value.shape[-1] ** -0.5}),
    scan("nemotron_h", "nemotron_h", "scan, attention without positions, squared relu, experts; one of each",
         llama_like(hidden_size=24, num_hidden_layers=None, layers_block_type=["mamba", "attention", "mlp", "moe", "mamba"],
                    head_dim=6, mamba_num_heads=6, mamba_head_dim=4, n_groups=2, ssm_state_size=5, conv_kernel=4, chunk_size=8,
                    intermediate_size=32, n_routed_experts=6, num_experts_per_tok=2, n_group=3, topk_group=2,
                    moe_intermediate_size=8, moe_shared_expert_intermediate_size=12, routed_scaling_factor=1.7)),
    scan("nemotron_h_latent", "nemotron_h", "experts in a narrower space; not renormalised; biases",
         llama_like(hidden_size=24, num_hidden_layers=None, layers_block_type=["mamba", "moe"], head_dim=6, mamba_num_heads=4,
                    mamba_head_dim=6, n_groups=1, ssm_state_size=5, chunk_size=8, use_bias=True, mlp_bias=True, n_routed_experts=5,
                    num_experts_per_tok=2, moe_intermediate_size=8, moe_shared_expert_intermediate_size=12, moe_latent_size=10,
                    norm_topk_prob=False)),
    scan("jamba", "jamba", "Mamba 1 with norms, attention without positions, experts in every second layer",
         llama_like(vocab_size=48, hidden_size=16, num_hidden_layers=4, num_experts=4, num_experts_per_tok=2, expert_layer_period=2,
                    expert_layer_offset=1, attn_layer_period=4, attn_layer_offset=2, mamba_d_state=5, mamba_d_conv=3,
                    mamba_dt_rank=3, intermediate_size=12)),
    scan("granitemoehybrid", "granitemoehybrid", "scan and attention, experts and a shared feed-forward; four multipliers",
         llama_like(**BAMBA, num_hidden_layers=3, layer_types=TYPES, num_local_experts=5, num_experts_per_tok=2,
                    intermediate_size=10, shared_intermediate_size=12, embedding_multiplier=6.0, logits_scaling=3.0,
                    residual_multiplier=0.4, attention_multiplier=0.2, position_embedding_type="rope")),
    scan("granitemoehybrid_dense", "granitemoehybrid", "without experts and positions; biases; tied",
         llama_like(**BAMBA, layer_types=TYPES[:2], num_local_experts=0, shared_intermediate_size=20, intermediate_size=10,
                    mamba_proj_bias=True, mamba_conv_bias=False, attention_bias=True, tie_word_embeddings=True)),
    Family("lfm2_moe", "lfm2_moe", "short convolutions, attention, a dense layer, sigmoid router with a bias that selects",
           llama_like(vocab_size=48, hidden_size=24, num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"],
                      intermediate_size=28, moe_intermediate_size=8, num_experts=5, num_experts_per_tok=2, num_dense_layers=1, conv_L_cache=3,
                      routed_scaling_factor=1.5)),
]
