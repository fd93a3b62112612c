"""Dense decoders whose tensors are fused, interleaved or transposed on disk: views of them are what is read."""
import copy

import torch
import transformers
from transformers.models.llama import modeling_llama

from tiny.family import LLAMA3, Family, llama_like

# GPT-2's words for the sizes of llama_like
GPT = dict(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2, resid_pdrop=0.0,
           embd_pdrop=0.0, attn_pdrop=0.0)
NEOX = dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
            bos_token_id=1, eos_token_id=2, hidden_dropout=0.0, attention_dropout=0.0)


def rotary(theta, partial):
    return dict(rope_type="default", rope_theta=theta, partial_rotary_factor=partial)


def neox_hub(config):
    """rotary_pct and rotary_emb_base, as before transformers 5."""
    config["rotary_emb_base"] = config.pop("rope_theta")
    config["rotary_pct"] = config.pop("partial_rotary_factor")
    return config


# ---- nemotron-nas: no class of transformers, so one is put together from Llama's parts --------------------------------
# A layer is Llama's with its own number of key heads and its own MLP; either half can be one matrix, or missing.

class NasConfig(transformers.LlamaConfig):
    model_type = "nemotron-nas"


class NasAttention(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.linear_attn = torch.nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def forward(self, hidden_states, **_):
        return self.linear_attn(hidden_states), None


class NasMLP(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.linear_mlp = torch.nn.Linear(config.hidden_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden_states):
        return self.linear_mlp(hidden_states)


def nas_width(multiple, hidden):
    """Two thirds of the multiple, up to the next 256."""
    return -(-int(2 * multiple * hidden / 3) // 256) * 256


class NasLayer(modeling_llama.LlamaDecoderLayer):
    def __init__(self, config, index):
        block = config.block_configs[index]
        attention, ffn = block["attention"], block["ffn"]
        own = copy.deepcopy(config)
        own.num_key_value_heads = config.num_attention_heads // (attention["n_heads_in_group"] or config.num_attention_heads)
        own.intermediate_size = nas_width(ffn["ffn_mult"] or 1, config.hidden_size)
        super().__init__(own, index)
        if attention["replace_with_linear"]:
            self.self_attn = NasAttention(config)
        if ffn["replace_with_linear"]:
            self.mlp = NasMLP(config)
        if attention["no_op"]:
            self.self_attn = self.input_layernorm = None
        if ffn["no_op"]:
            self.mlp = self.post_attention_layernorm = None

    def forward(self, hidden_states, **rest):
        if self.self_attn is not None:
            hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), **rest)[0]
        if self.mlp is not None:
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states


class NasForCausalLM(transformers.LlamaForCausalLM):
    config_class = NasConfig

    def __init__(self, config):
        plain = copy.deepcopy(config)
        plain.num_key_value_heads = config.num_attention_heads
        plain.intermediate_size = config.hidden_size
        super().__init__(plain)
        self.config = self.model.config = config
        config._attn_implementation = plain._attn_implementation
        self.model.layers = torch.nn.ModuleList([NasLayer(config, i) for i in range(config.num_hidden_layers)])


transformers.AutoConfig.register("nemotron-nas", NasConfig)
transformers.AutoModelForCausalLM.register(NasConfig, NasForCausalLM)


def block(group=None, multiple=None, attention="", ffn=""):
    """attention, ffn: "", "no_op" or "replace_with_linear"."""
    def half(how, **more):
        return dict(no_op=how == "no_op", replace_with_linear=how == "replace_with_linear", sparsify=None, **more)
    return dict(attention=half(attention, n_heads_in_group=group, window_length=None, num_sink_tokens=None),
                ffn=half(ffn, ffn_mult=multiple))


NAS_BLOCKS = [block(2, 2.5), block(attention="no_op", multiple=25.0), block(4, ffn="no_op"),
              block(attention="replace_with_linear", ffn="replace_with_linear"), block(1, ffn="replace_with_linear")]

FAMILIES = [
    Family("phi3", "phi3", "q, k, v in one tensor, gate and up in another; a window; three quarters of a head rotated",
           llama_like(intermediate_size=40, num_attention_heads=4, sliding_window=7,
                      rope_parameters=rotary(500.0, 0.75)), hub=True),
    Family("phi3_tied", "phi3", "uneven heads, tied, no window",
           llama_like(hidden_size=24, num_attention_heads=6, num_key_value_heads=3, tie_word_embeddings=True), hub=True),
    Family("glm", "glm", "pairs of half of each head rotated; biases of q, k, v; gate and up in one tensor",
           llama_like(head_dim=16, rope_parameters=rotary(500.0, 0.5)), hub=True),
    Family("glm4", "glm4", "as glm, with norms behind attention and MLP",
           llama_like(head_dim=16, rope_parameters=rotary(500.0, 0.5), tie_word_embeddings=True), hub=True),
    Family("glm4_plain", "glm4", "no biases", llama_like(head_dim=8, attention_bias=False, rope_parameters=rotary(1e4, 0.5)), hub=True),
    Family("codegen", "codegen", "q, v, k in four blocks of two heads; the first half of a head rotated in pairs",
           dict(GPT, n_head=8, n_ctx=64, rotary_dim=2, tie_word_embeddings=False)),
    Family("gpt_neox", "gpt_neox", "q, k, v of each head side by side; attention and MLP beside each other; a quarter rotated",
           dict(NEOX, intermediate_size=96, rope_parameters=rotary(500.0, 0.25)), hub=neox_hub),
    Family("gpt_neox_sequential", "gpt_neox", "one residual after the other; no biases of attention; tied",
           dict(NEOX, intermediate_size=80, use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True,
                rope_parameters=rotary(1e4, 0.5)), hub=neox_hub),
    Family("gpt_neox_japanese", "gpt_neox_japanese", "a bias behind the last layer's attention only",
           dict(NEOX, intermediate_multiple_size=2, rope_parameters=rotary(500.0, 1.0)), hub=neox_hub),
    Family("persimmon", "persimmon", "q, k, v of each head side by side; LayerNorms of q and k; squared ReLU",
           dict(NEOX, intermediate_size=96, rope_parameters=rotary(500.0, 0.5)), hub=True),
    Family("persimmon_plain", "persimmon", "no norms of q and k, tied",
           dict(NEOX, intermediate_size=96, qk_layernorm=False, tie_word_embeddings=True, rope_parameters=rotary(1e4, 0.5)),
           hub=True),
    Family("modernbert_decoder", "modernbert-decoder", "windows on two layers of three; two rope tables; a tied head with a bias",
           dict(NEOX, num_hidden_layers=3, intermediate_size=48, local_attention=10, pad_token_id=0, cls_token_id=1,
                sep_token_id=2, rope_parameters=dict(full_attention=rotary(160000.0, 1.0), sliding_attention=rotary(500.0, 1.0)))),
    Family("modernbert_decoder_bias", "modernbert-decoder", "biases wherever there can be, an own head",
           dict(NEOX, num_hidden_layers=3, intermediate_size=48, local_attention=12, pad_token_id=0, cls_token_id=1,
                sep_token_id=2, norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True,
                tie_word_embeddings=False, layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
    Family("gpt2", "gpt2", "matrices stored [in, out], q, k, v in thirds; learned positions", dict(GPT, n_inner=80)),
    Family("gpt2_scaled", "gpt2", "scores divided by the layer's number, untied, an own activation",
           dict(GPT, n_layer=3, scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False, activation_function="relu")),
    Family("gpt_sw3", "gpt-sw3", "GPT-2 under another name, without the scale of scores", dict(GPT, scale_attn_weights=False),
           hub=lambda c: c.update(model_type="gpt-sw3"), hub_first=True),
    Family("gpt_bigcode", "gpt_bigcode", "one key and value for all heads", dict(GPT)),
    Family("gpt_bigcode_heads", "gpt_bigcode", "a key and value for each head, side by side with its query",
           dict(GPT, multi_query=False, n_inner=80, tie_word_embeddings=False)),
    Family("openai_gpt", "openai-gpt", "norms behind the sums; rows of one document, since the class takes no other mask",
           dict(GPT), packed=False),
    Family("nemotron_nas", "nemotron-nas",
           "layers with their own key heads and MLPs, without either, with a matrix in place of both",
           llama_like(hidden_size=16, num_hidden_layers=5, num_key_value_heads=None, intermediate_size=None, block_configs=NAS_BLOCKS,
                      rope_parameters=LLAMA3), hub=True),
]
