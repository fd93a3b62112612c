"""The files that bench/peer_llmc.c reads.  Standard library only.

A checkpoint of llm.c (version 3): 256 int32 (magic, version, positions, vocabulary, layers, heads, hidden
size, padded vocabulary, zeros), then fp32 tensors, each for all layers in a row: wte, wpe, ln_1's weight and
bias, c_attn's, attn.c_proj's, ln_2's, c_fc's, mlp.c_proj's, ln_f's.  Matrices are [out, in], where Hugging
Face's files hold [in, out]; wte is padded with rows of zeros to a multiple of 128.
Rows: int32, one after the other."""
import array, json, os, struct

import shapes

MAGIC, VERSION, PAD = 20240326, 3, 128
OF_A_LAYER = [f"{module}.{part}" for module in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc",
                                                "mlp.c_proj") for part in ("weight", "bias")]


def padded_vocab(config):
    return -(-config["vocab_size"] // PAD) * PAD


def refusal(config):
    """why llm.c cannot compute this model, or None"""
    fixed = dict(model_type="gpt2", activation_function="gelu_new", layer_norm_epsilon=1e-5,
                 scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, tie_word_embeddings=True)
    silent = dict(fixed, model_type=None)  # what an absent key means
    for key, value in fixed.items():
        if config.get(key, silent[key]) != value:
            return f"llm.c computes GPT-2 only: config.json has {key} = {config.get(key)}, not {value}"
    if config.get("n_inner") not in (None, 4 * config["n_embd"]):
        return f"llm.c's MLP is 4 times as wide as the model: config.json has n_inner = {config['n_inner']}"
    return None


def transposed(a, rows, columns):
    out = array.array("f")
    for j in range(columns):
        out.extend(a[j::columns])
    assert len(out) == rows * columns
    return out


def bare(name):
    return name.removeprefix("transformer.")  # older files have none


class Weights:
    """Tensors of a model directory in F32, read one at a time; names with or without "transformer."."""

    def __init__(self, folder):
        self.at = {}
        for path in shapes.weight_files(folder):
            header, begin = shapes.read_header(path)
            self.at.update({bare(name): (path, begin, t) for name, t in header.items()})

    def read(self, name, shape):
        path, begin, t = self.at[name]
        if t["dtype"] != "F32" or t["shape"] != shape:
            raise ValueError(f"{path}: {name} is {t['dtype']} {t['shape']}, not F32 {shape}")
        out = array.array("f")
        with open(path, "rb") as f:
            f.seek(begin + t["data_offsets"][0])
            out.fromfile(f, shapes.elements(shape))
        return out


def write_model(folder, path):
    """The checkpoint `path` from folder's config.json and *.safetensors; ValueError where they do not fit"""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    expected = {bare(name): s for name, s in shapes.expected_tensors(config).items()}
    weights, layers, padded = Weights(folder), config["n_layer"], padded_vocab(config)
    if missing := sorted(set(expected) - set(weights.at)):
        raise ValueError(f"{folder} has no {missing[0]}")
    with open(path, "wb") as f:
        f.write(struct.pack("<256i", MAGIC, VERSION, config["n_positions"], config["vocab_size"], layers,
                            config["n_head"], config["n_embd"], padded, *[0] * 248))

        def write(name):
            tensor, shape = weights.read(name, expected[name]), expected[name]
            matrix = len(shape) == 2 and name.startswith("h.")
            (transposed(tensor, *shape) if matrix else tensor).tofile(f)
        write("wte.weight")
        f.write(bytes(4 * (padded - config["vocab_size"]) * config["n_embd"]))
        write("wpe.weight")
        for name in OF_A_LAYER:
            for i in range(layers):
                write(f"h.{i}.{name}")
        write("ln_f.weight")
        write("ln_f.bias")


def write_rows(rows, path):
    with open(path, "wb") as f:
        for row in rows:
            array.array("i", row).tofile(f)
