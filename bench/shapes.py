"""The shapes of models in bench/run.sh: sizes out of config.json, tensors, random weights for a shape.
Standard library only.

A tensor's name and shape are those of the Hugging Face checkpoint.  Where a folder holds *.safetensors their
headers are asked, else config.json (families llama and gpt2)."""
import array, glob, json, os, random, struct

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu",
             attention_bias=False, mlp_bias=False, attention_dropout=0.0, rms_norm_eps=1e-5,
             tie_word_embeddings=True, initializer_range=0.02, max_position_embeddings=8192,
             torch_dtype="float32")
GPT2 = dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", activation_function="gelu_new",
            layer_norm_epsilon=1e-5, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
            tie_word_embeddings=True, initializer_range=0.02, torch_dtype="float32")
SHAPES = {  # what config.json says
    "smollm2": dict(LLAMA, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                    num_attention_heads=9, num_key_value_heads=3, head_dim=64, vocab_size=49152,
                    rope_theta=100000.0, bos_token_id=1, eos_token_id=2),
    "llama1b": dict(LLAMA, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                    num_attention_heads=32, num_key_value_heads=8, head_dim=64, vocab_size=128256,
                    rope_theta=500000.0, bos_token_id=128000, eos_token_id=128001),
    "gpt2": dict(GPT2, n_embd=768, n_head=12, n_layer=12, n_positions=1024, n_ctx=1024, vocab_size=50257,
                 bos_token_id=50256, eos_token_id=50256),
}
BLOCK = 1000003  # random numbers drawn, which the weights repeat.  A prime, so that rows of a matrix differ


def read_config(model, shape):
    """config.json of the directory `model`, or what that of `shape` would say"""
    if shape:
        return SHAPES[shape]
    with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
        return json.load(f)


def dims(config):
    """{hidden, heads, kv, head, layers, ffn, vocab} in either family's spelling; 0: config.json is silent"""
    def first(*keys):
        return next((config[k] for k in keys if config.get(k)), 0)
    hidden, heads = first("hidden_size", "n_embd"), first("num_attention_heads", "n_head")
    return dict(hidden=hidden, heads=heads, kv=first("num_key_value_heads") or heads,
                head=first("head_dim") or hidden // heads, layers=first("num_hidden_layers", "n_layer"),
                ffn=first("intermediate_size", "n_inner") or 4 * hidden, vocab=config["vocab_size"])


def llama_tensors(x, tied):
    h, q, kv, ffn = x["hidden"], x["heads"] * x["head"], x["kv"] * x["head"], x["ffn"]
    out = {"model.embed_tokens.weight": [x["vocab"], h]}
    for i in range(x["layers"]):
        at = f"model.layers.{i}."
        out.update({at + f"self_attn.{n}_proj.weight": s for n, s in
                    dict(q=[q, h], k=[kv, h], v=[kv, h], o=[h, q]).items()})
        out.update({at + f"mlp.{n}_proj.weight": s for n, s in
                    dict(gate=[ffn, h], up=[ffn, h], down=[h, ffn]).items()})
        out.update({at + f"{n}_layernorm.weight": [h] for n in ("input", "post_attention")})
    out["model.norm.weight"] = [h]
    return out if tied else {**out, "lm_head.weight": [x["vocab"], h]}


def gpt2_tensors(x, positions):
    """Matrices are stored [in, out]; the output layer is the embedding."""
    h, ffn = x["hidden"], x["ffn"]
    out = {"transformer.wte.weight": [x["vocab"], h], "transformer.wpe.weight": [positions, h]}
    for i in range(x["layers"]):
        at = f"transformer.h.{i}."
        for name, shape in {"attn.c_attn": [h, 3 * h], "attn.c_proj": [h, h], "mlp.c_fc": [h, ffn],
                            "mlp.c_proj": [ffn, h], "ln_1": [h], "ln_2": [h]}.items():
            out[at + name + ".weight"], out[at + name + ".bias"] = shape, shape[-1:]
    return {**out, "transformer.ln_f.weight": [h], "transformer.ln_f.bias": [h]}


def expected_tensors(config):
    """{name: shape} that config.json implies"""
    if config.get("model_type") == "gpt2":
        return gpt2_tensors(dims(config), config["n_positions"])
    return llama_tensors(dims(config), config.get("tie_word_embeddings"))


def read_header(path):
    """({name: {dtype, shape, data_offsets}}, where the data begins) of a safetensors file"""
    with open(path, "rb") as f:
        length = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def weight_files(folder):
    return sorted(glob.glob(os.path.join(glob.escape(folder), "*.safetensors")))


def tensor_shapes(folder, config):
    """{name: shape}: the weights' own headers, else what config.json implies"""
    shapes = {}
    for path in weight_files(folder):
        shapes.update({name: t["shape"] for name, t in read_header(path)[0].items()})
    return shapes or expected_tensors(config)


def elements(shape):
    n = 1
    for s in shape:
        n *= s
    return n


def parameters(folder, config):
    """Trained elements, a tied head counted once."""
    tied = config.get("tie_word_embeddings")
    return sum(elements(s) for name, s in tensor_shapes(folder, config).items()
               if not (tied and name == "lm_head.weight"))


def matrix_parameters(folder, config):
    """Elements of the matrices that a token is multiplied with: all but norms, biases, positions and an
    embedding that is not also the output layer."""
    shapes = tensor_shapes(folder, config)
    untied, total = "lm_head.weight" in shapes and not config.get("tie_word_embeddings"), 0
    for name, shape in shapes.items():
        copy = "embed_tokens" in name or "wte." in name if untied else name == "lm_head.weight"
        if len(shape) == 2 and not copy and "wpe." not in name:
            total += elements(shape)
    return total


def flops_per_token(folder, config, seq):
    """6 · N_active + causal attention: q·k and p·v over half the square, forward and twice that backward"""
    x = dims(config)
    return 6 * matrix_parameters(folder, config) + 6 * seq * x["heads"] * x["head"] * x["layers"]


def write_random_weights(folder, config):
    """model.safetensors beside config.json, F32: drawn from a normal distribution of standard deviation 0.02,
    around 1 for the weights of norms."""
    rng = random.Random(1)
    around = {0: array.array("f", [rng.gauss(0, 0.02) for _ in range(BLOCK)])}
    around[1] = array.array("f", [1 + x for x in around[0]])
    tensors, header, end = expected_tensors(config), {}, 0
    for name, shape in tensors.items():
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[end, end + 4 * elements(shape)])
        end += 4 * elements(shape)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    at = 0
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors.items():
            source = memoryview(around[len(shape) == 1 and name.endswith(".weight")])
            left = elements(shape)
            while left:
                piece = source[at:at + left]
                f.write(piece)
                left, at = left - len(piece), (at + len(piece)) % BLOCK
