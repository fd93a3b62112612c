#!/usr/bin/env python3
"""Make the small random models of tests/golden and their reference files with transformers.

    tools/make_tiny_models.py [-o tests/golden] [--list] NAME…      (--all, --missing: of the whole table)

Each folder gets config.json, model.safetensors (bf16 unless said otherwise), reference.safetensors (by
tools/make_reference.py) and, where an entry has two spellings, config_hub.json (rope_theta, rope_scaling, torch_dtype,
defaults left out) beside transformers 5's (rope_parameters, dtype) or config_v5.json beside the hub's.  The table of
entries stands in tools/tiny/*.py, by kind of family; tools/tiny/family.py says what an entry is.

transformers itself is run in float32 too; what it then differs by is printed and kept in the reference's metadata: a
family in which float32 and float64 disagree by more than rounding (experts nearly tied) needs another seed.
"""
import argparse
import importlib
import json
import os
import re
import sys
import zlib

import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import make_reference  # noqa: E402
from tiny.family import hub_spelling  # noqa: E402


def table():
    """name → entry, from every file of tools/tiny."""
    entries = {}
    for file in sorted(os.listdir(os.path.join(HERE, "tiny"))):
        if file.endswith(".py") and file not in ("family.py", "__init__.py"):
            try:
                families = importlib.import_module("tiny." + file[:-3]).FAMILIES
            except Exception as error:  # the other files' entries can still be made
                print(f"tools/tiny/{file} cannot be read: {error}")
                continue
            for entry in families:
                if entry.name in entries:
                    print(f"tools/tiny/{file}: {entry.name} stands in the table twice; this one is taken")
                entries[entry.name] = entry
    return entries


def drawn(name, value, noise, is_embedding, tied):
    """Every tensor matters: norm weights around their start but not at it, biases not 0, products of order 1."""
    if is_embedding:
        return noise * (value.shape[-1] ** -0.5 if tied else 0.7)
    if value.numel() > 0 and (value == value.flatten()[0]).all():
        return value.flatten()[0] + 0.3 * noise  # norm weights, biases
    if value.dim() <= 1:
        return value + 0.1 * noise  # decays, time steps, sinks
    return noise * value.shape[-1] ** -0.5


@torch.no_grad()
def randomise(model, family, seed):
    g = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    kept = {n: b for n, b in model.named_buffers() if n in model.state_dict() and b.is_floating_point()}
    embedding = model.get_input_embeddings().weight
    tied = model.config.get_text_config().tie_word_embeddings
    for name, p in [*sorted(parameters.items()), *sorted(kept.items())]:
        noise = torch.randn(p.shape, generator=g).to(p.dtype)
        own = [f for pattern, f in family.init.items() if re.search(pattern, name)]
        value = own[0](p.clone(), noise) if own else drawn(name, p, noise, p is embedding, tied)
        if name.endswith("e_score_correction_bias") and not own:
            value = 0.1 * noise
        p.copy_(value)
        if not p.isfinite().all() or p.abs().max() > 1e4:
            sys.exit(f"{family.name}: {name} holds values that are not finite or very large: give it an entry in init")


def write_config(path, config):
    with open(path, "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")


def write_configs(folder, family):
    """The two spellings.  save_pretrained has written transformers 5's."""
    path = os.path.join(folder, "config.json")
    with open(path) as f:
        v5 = json.load(f)
    v5.pop("transformers_version", None)
    for old in ("config_hub.json", "config_v5.json", "generation_config.json"):
        if os.path.exists(os.path.join(folder, old)):
            os.remove(os.path.join(folder, old))
    if not family.hub:
        write_config(path, v5)
        return
    hub = hub_spelling(json.loads(json.dumps(v5)), family)
    write_config(path, hub if family.hub_first else v5)
    write_config(os.path.join(folder, "config_v5.json" if family.hub_first else "config_hub.json"),
                 v5 if family.hub_first else hub)


def make(family, folder):
    seed = zlib.crc32(family.name.encode()) % 10000 if family.seed is None else family.seed
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family.model_type, **family.config)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    randomise(model, family, seed)
    for file in os.listdir(folder):
        if file.endswith(".safetensors"):
            os.remove(os.path.join(folder, file))
    model.to(getattr(torch, family.dtype)).save_pretrained(folder)
    write_configs(folder, family)
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    options = [folder, "-o", os.path.join(folder, "reference.safetensors"), "--seed", str(seed), "--batch", str(family.batch),
               "--seq", str(family.seq), "--dtype", family.reference]
    options += ["--packed"] if family.packed else []
    options += ["--attention", family.attention]
    options += [] if family.full else ["--compact"]
    make_reference.main(options + (["--compare", "float32"] if family.reference == "float64" else []))
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{family.name}: {size / 1000:.0f} kB{' (more than 120)' if size > 120e3 and not family.full else ''}", flush=True)


def attempt(name, entries, output):
    if name not in entries:
        print(f"no tiny model is called {name}; --list prints the table")
        return False
    try:
        make(entries[name], os.path.join(output, name))
    except (Exception, SystemExit) as error:
        print(f"{name} FAILED: {type(error).__name__}: {str(error)[:600]}", flush=True)
        return False
    return True


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", "--output", default=os.path.join(HERE, "../tests/golden"))
    p.add_argument("--all", action="store_true", help="every entry of the table")
    p.add_argument("--missing", action="store_true", help="every entry that has no reference yet")
    p.add_argument("--list", action="store_true", help="print the table")
    p.add_argument("names", nargs="*")
    args = p.parse_args()
    transformers.utils.logging.disable_progress_bar()
    entries = table()
    if args.list:
        for entry in entries.values():
            print(f"{entry.name:28s} {entry.model_type:22s} {entry.why}")
        return
    wanted = list(entries) if args.all or args.missing else args.names
    if args.missing:
        wanted = [n for n in wanted if not os.path.exists(os.path.join(args.output, n, "reference.safetensors"))]
    failed = [n for n in wanted if not attempt(n, entries, args.output)]
    if failed:
        sys.exit("not made: " + " ".join(failed))


if __name__ == "__main__":
    main()
