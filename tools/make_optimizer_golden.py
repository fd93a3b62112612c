#!/usr/bin/env python3
"""Write what torch.optim.AdamW does to the golden model `llama`, for tests/walls/test_walls_optimizer.c.

    tools/make_optimizer_golden.py [-o tests/golden/optimizer]

updates.safetensors    Three updates on the gradients of golden/llama/reference.safetensors, times
                       GRADIENT_FACTORS, with LRS: after1.<tensor>, after3.<tensor>: the parameters after the
                       first and the third.
ten_steps.safetensors  Ten steps of transformers' model in fp32: input_ids and labels I64 [10, 4, 48],
                       lr F64 [10], loss and grad_norm F32 [10], delta.<tensor>: how far each parameter went.
                       Clipping is active in every step.
The hyper-parameters stand in the metadata.  Gradients are those of the mean over all supervised tokens of a step's
four rows.
"""
import argparse
import os
import sys

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "..", "tests", "golden", "llama")
BETAS, EPS, WEIGHT_DECAY, MAX_NORM = (0.9, 0.95), 1e-8, 0.1, 0.25
GRADIENT_FACTORS, LRS = (1.0, -0.5, 2.0), (1e-3, 5e-4, 2e-3)
STEPS, ROWS, LENGTH = 10, 4, 48


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, foreach=False,
                             fused=False)


def metadata(**more):
    return {"format": "pt", "torch": torch.__version__, "transformers": transformers.__version__,
            "beta1": str(BETAS[0]), "beta2": str(BETAS[1]), "eps": str(EPS), "weight_decay": str(WEIGHT_DECAY), **more}


def updates(path):
    gradients = load_file(os.path.join(MODEL, "reference.safetensors"))
    weights = load_file(os.path.join(MODEL, "model.safetensors"))
    parameters = {n: torch.nn.Parameter(t) for n, t in weights.items()}
    optimizer, out = adamw(parameters.values()), {}
    for k, (factor, lr) in enumerate(zip(GRADIENT_FACTORS, LRS)):
        for name, p in parameters.items():
            p.grad = gradients["grad." + name] * factor
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        if k in (0, 2):
            out.update({f"after{k + 1}.{n}": p.detach().clone() for n, p in parameters.items()})
    factors = " ".join(map(str, GRADIENT_FACTORS))
    save_file(out, path, metadata=metadata(lrs=" ".join(map(str, LRS)), gradient_factors=factors))


def draw_batches(vocab):
    g = torch.Generator().manual_seed(4711)
    ids = torch.randint(0, vocab, (STEPS, ROWS, LENGTH), generator=g)
    labels = ids.clone()
    labels[torch.rand(labels.shape, generator=g) < 0.2] = -100
    return ids, labels


def schedule(optimizer):
    """Three steps up from a tenth, then a cosine down."""
    up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 3)
    down = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 3, 1e-5)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [up, down], [3])


def ten_steps(path):
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32,
                                                              attn_implementation="eager")
    model.eval()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = adamw(model.parameters())
    lrs, (ids, labels) = schedule(optimizer), draw_batches(model.config.vocab_size)
    rates, losses, norms = [], [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(input_ids=ids[step], labels=labels[step], use_cache=False).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM).item())
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(loss.item())
        optimizer.step()
        lrs.step()
    if min(norms) <= MAX_NORM:
        sys.exit(f"clipping at {MAX_NORM} is not active in every step: norms {norms}")
    out = {"input_ids": ids, "labels": labels, "lr": torch.tensor(rates, dtype=torch.float64),
           "loss": torch.tensor(losses), "grad_norm": torch.tensor(norms)}
    out.update({"delta." + n: (p.detach() - before[n]).contiguous() for n, p in model.named_parameters()})
    save_file(out, path, metadata=metadata(max_norm=str(MAX_NORM)))
    print("loss", losses, "\nnorm", norms, "\nlr", rates)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", "--output", default=os.path.join(HERE, "..", "tests", "golden", "optimizer"))
    out = p.parse_args().output
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    os.makedirs(out, exist_ok=True)
    for name, make in (("updates", updates), ("ten_steps", ten_steps)):
        path = os.path.join(out, name + ".safetensors")
        make(path)
        os.chmod(path, 0o644)
        with safe_open(path, "pt") as f:
            print(f"{path}: {len(f.keys())} tensors, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
