"""What an entry of the table of small models says, and the words its config and values are written with.

An entry names a model type of transformers, the config keys that differ from the class's defaults, and what it is there
for.  Everything in it must matter: windows and original lengths shorter than the sequence (32), rope scaled where the
family scales it, several groups of heads, biases not zero, norms not one (tools/make_tiny_models.py draws the values).
"""
from dataclasses import dataclass, field

# Twelve-head-free and small: products of order 1, every tensor below 4 K elements.
COMMON = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
              bos_token_id=1, eos_token_id=2, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16, rope_theta=10000.0)
LINEAR = dict(rope_type="linear", factor=4.0, rope_theta=500.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0)


@dataclass
class Family:
    name: str              # of the folder in tests/golden
    model_type: str        # as transformers.AutoConfig knows it
    why: str               # what it is there for
    config: dict           # keys that differ from the config class's defaults; llama_like(…) is the usual start
    packed: bool = True    # rows of several documents, each run by itself; False: one document a row
    hub: object = None     # None: one spelling; True or a function(config): also config_hub.json, see below
    hub_first: bool = False  # config.json in the hub's spelling, config_v5.json beside it
    init: dict = field(default_factory=dict)  # regex of tensor names: function(value as initialised, noise)
    dtype: str = "bfloat16"  # of the weights on disk
    reference: str = "float64"  # dtype of the reference
    seq: int = 32
    batch: int = 2
    seed: int = None       # None: from the name; change it where two experts are nearly tied
    full: bool = False     # gradients whole instead of sampled
    attention: str = "eager"  # or "sdpa", where transformers' eager path is not what the model means


def llama_like(**keys):
    """COMMON with the keys given; None takes a key away."""
    both = {**COMMON, **keys}
    return {k: v for k, v in both.items() if v is not None or k == "pad_token_id"}


def keep(value, noise):
    """As transformers initialises it."""
    return value


def around(centre, width):
    return lambda value, noise: centre + width * noise


def old_rope(config):
    """rope_parameters as rope_theta and rope_scaling; nested ones (a table for each kind of layer) stay."""
    rope = config.pop("rope_parameters", None)
    if rope is None:
        return config
    if any(isinstance(v, dict) for v in rope.values()):
        config["rope_parameters"] = rope
        return config
    rope = dict(rope)
    theta = rope.pop("rope_theta", None)
    if theta is not None:
        config["rope_theta"] = theta
    partial = rope.pop("partial_rotary_factor", None)
    if partial is not None:
        config["partial_rotary_factor"] = partial
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope
    return config


def hub_spelling(config, family):
    """transformers 5's keys as files of the hub have them: rope_theta and rope_scaling, torch_dtype, no layer_types, what
    is a default left out; the entry's own function last."""
    config = old_rope(config)
    config["torch_dtype"] = config.pop("dtype")
    for key, default in (("layer_types", ...), ("pad_token_id", None), ("pretraining_tp", 1)):
        if key in config and (default is ... or config[key] == default):
            config.pop(key)
    return family.hub(config) or config if callable(family.hub) else config
