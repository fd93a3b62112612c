#!/usr/bin/env python3
"""Write a reference file for `automodel verify`: what transformers computes for a model directory.

    tools/make_reference.py MODEL_DIR -o FILE [--seed S] [--batch B] [--seq T] [--dtype float64|float32|bfloat16]
                            [--packed] [--compact] [--compare float32]

The file (safetensors) holds input_ids, labels, position_ids, document_ids (I64 [B,T]), loss (F32 []), logits
(F32 [B,T,V]) and grad.<tensor name on disk> (F32) of the loss, and as metadata the versions, dtype and options.

input_ids are random; every fifth label or so is -100.  With --packed each row holds several documents: every document is
run by itself, and the row's logits, loss and gradients are put together from those.  That is what packing means, and asks
of a family nothing but to run one text: no family has a say in how documents are kept apart.

With --compact a gradient of many elements is sampled: element k·s of the tensor as it lies on disk, for k = 0, 1, ….  The
stride s is at most the number of columns (last axis) and of rows (all other axes) and has no common factor with the
columns, so that every row and every column is visited; gradient_strides of the metadata (JSON, by tensor name) says it.

With --compare the model is run once more in that dtype, and the metadata says how far the two are apart (float32_error):
what the family's arithmetic itself loses, to judge a difference by.
"""
import argparse
import json
import math
import os
import sys
import tempfile

import safetensors
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

SAMPLES = 320  # a sampled gradient keeps at least as many elements


def parse_arguments(arguments):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model_dir")
    p.add_argument("-o", "--output", required=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--seq", type=int, default=48)
    p.add_argument("--dtype", choices=["float32", "bfloat16", "float64"], default="float64",
                   help="float64: weights, products and loss in double (transformers keeps norms and softmax in float32)")
    p.add_argument("--attention", choices=["eager", "sdpa"], default="eager")
    p.add_argument("--packed", action="store_true")
    p.add_argument("--compact", action="store_true", help="sample gradients of many elements")
    p.add_argument("--compare", choices=["float32", "bfloat16"], help="also run in this dtype and note the difference")
    p.add_argument("--text", help="take input_ids from this file through the model's tokenizer instead of at random")
    return p.parse_args(arguments)


def draw_documents(batch, seq, packed, generator):
    """document_ids [B,T]: 0 everywhere, or 2 to 4 documents a row at random cuts (one of them may be a single token)."""
    ids = torch.zeros(batch, seq, dtype=torch.int64)
    for row in range(batch if packed else 0):
        count = 2 + int(torch.randint(0, 3, (1,), generator=generator))
        cuts = torch.randperm(seq - 1, generator=generator)[: count - 1] + 1
        for cut in cuts.tolist():
            ids[row, cut:] += 1
    return ids


def starts_of(document_ids):
    first = torch.ones_like(document_ids, dtype=torch.bool)
    first[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return first


def positions_of(document_ids):
    index = torch.arange(document_ids.shape[1]).expand_as(document_ids)
    start = torch.where(starts_of(document_ids), index, 0).cummax(dim=1).values
    return index - start


def draw_batch(config, args):
    g = torch.Generator().manual_seed(args.seed)
    vocab = config.get_text_config().vocab_size
    input_ids = torch.randint(0, vocab, (args.batch, args.seq), generator=g)
    if args.text:
        from tokenizers import Tokenizer
        text = open(args.text, encoding="utf-8").read()[: args.batch * args.seq * 16]
        ids = Tokenizer.from_file(os.path.join(args.model_dir, "tokenizer.json")).encode(text, add_special_tokens=False).ids
        if len(ids) < args.batch * args.seq:
            sys.exit(f"{args.text} has {len(ids)} tokens, and {args.batch} x {args.seq} are needed")
        input_ids = torch.tensor(ids[: args.batch * args.seq]).reshape(args.batch, args.seq)
    pad = getattr(config.get_text_config(), "pad_token_id", None)
    if pad is not None and not args.text:  # torch leaves the row of the padding token out of the embedding's gradient
        input_ids[input_ids == pad] = (pad + 1) % vocab
    document_ids = draw_documents(args.batch, args.seq, args.packed, g)
    labels = input_ids.clone()
    labels[torch.rand(labels.shape, generator=g) < 0.2] = -100
    if args.packed:
        labels[starts_of(document_ids)] = -100
    return {"input_ids": input_ids, "labels": labels, "position_ids": positions_of(document_ids),
            "document_ids": document_ids}


def names_on_disk(model_dir):
    names = set()
    for file in os.listdir(model_dir):
        if file.startswith("model") and file.endswith(".safetensors"):
            with safe_open(os.path.join(model_dir, file), "pt") as f:
                names.update(f.keys())
    return names


@torch.no_grad()
def gradients_by_disk_name(model, model_dir):
    """save_pretrained knows how parameters become tensors on disk: let it save the gradients in their place.
    Buffers, which have none, are marked by NaN and left out."""
    for parameter in model.parameters():
        parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.fill_(float("nan"))
    gradients, wanted = {}, names_on_disk(model_dir)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for file in sorted(os.listdir(folder)):
            if not file.endswith(".safetensors"):
                continue
            with safe_open(os.path.join(folder, file), "pt") as f:
                for name in f.keys():
                    value = f.get_tensor(name)
                    if not value.is_floating_point() or value.numel() > 0 and value.isnan().all():
                        continue
                    if name not in wanted:
                        sys.exit(f"the gradient {name} has no tensor of this name in {model_dir}")
                    gradients[name] = value.contiguous().clone()
    return gradients


def run(args, dtype_name):
    """The batch through the model: batch, loss, logits [B,T,V], gradients by disk name, in the dtype's own precision."""
    dtype = getattr(torch, dtype_name)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=dtype,
                                                              attn_implementation=args.attention,
                                                              experts_implementation="eager")
    model.eval()  # no dropout; parameters still receive gradients
    if dtype_name == "float64":
        model.to(dtype)  # families keep some tensors in float32 otherwise
    batch = draw_batch(model.config, args)
    targets = int((batch["labels"][:, 1:] >= 0).sum())
    rows, total = [], 0.0
    for ids, labels, documents in zip(batch["input_ids"], batch["labels"], batch["document_ids"]):
        parts = []
        for document in documents.unique():
            where = documents == document
            logits = model(input_ids=ids[where][None], use_cache=False).logits[0]
            logits = logits if dtype_name == "float64" else logits.float()
            loss = torch.nn.functional.cross_entropy(logits[:-1], labels[where][1:], reduction="sum") / targets
            if loss.requires_grad and where.sum() > 1:
                loss.backward()
                total += loss.item()
            parts.append(logits.detach())
        rows.append(torch.cat(parts))
    return batch, total, torch.stack(rows), gradients_by_disk_name(model, args.model_dir)


def relative(a, b):
    """‖a − b‖ / ‖b‖, or ‖a − b‖ where b is 0."""
    a, b = a.double(), b.double()
    norm, difference = b.norm().item(), (a - b).norm().item()
    return difference / norm if norm > 0 else difference


def compare(args, loss, logits, gradients):
    """How far the run in args.compare is from the one given: {loss, logits (of the largest), gradient, tensor}."""
    _, loss2, logits2, gradients2 = run(args, args.compare)
    largest = max(g.double().norm().item() for g in gradients.values())
    worst = max((relative(gradients2[n], gradients[n]), n) for n, g in gradients.items()
                if g.double().norm().item() > 2.0**-23 * largest)  # others are zero in theory, and have no ratio
    error = {"loss": abs(loss2 - loss) / abs(loss), "gradient": worst[0], "tensor": worst[1],
             "logits": ((logits2.double() - logits.double()).abs().max() / logits.abs().max()).item()}
    print(f"{args.compare} differs: loss {error['loss']:.1e}, logits {error['logits']:.1e}, "
          f"worst gradient {error['gradient']:.1e} {error['tensor']}")
    return error


def stride_of(value):
    columns = value.shape[-1] if value.dim() > 1 else 1
    rows = value.numel() // max(columns, 1)
    largest = min(columns if value.dim() > 1 else 1, rows, value.numel() // SAMPLES)
    return next((s for s in range(largest, 1, -1) if math.gcd(s, columns) == 1), 1)


def main(arguments=None):
    args = parse_arguments(arguments)
    transformers.utils.logging.disable_progress_bar()
    batch, loss, logits, gradients = run(args, args.dtype)
    metadata = {"format": "pt", "transformers": transformers.__version__, "torch": torch.__version__,
                "safetensors": safetensors.__version__, "dtype": args.dtype,
                "options": json.dumps({"seed": args.seed, "packed": args.packed, "attention": args.attention})}
    if args.compare:
        metadata[args.compare + "_error"] = json.dumps(compare(args, loss, logits, gradients))
    for name in sorted(names_on_disk(args.model_dir) - set(gradients)):
        print(f"no gradient of {name} (tied, a buffer, or unused)")
    strides = {n: stride_of(g) for n, g in gradients.items()} if args.compact else {}
    strides = {n: s for n, s in strides.items() if s > 1}
    if strides:
        metadata["gradient_strides"] = json.dumps(strides, sort_keys=True)
    tensors = {**batch, "loss": torch.tensor(loss, dtype=torch.float32), "logits": logits.float().contiguous()}
    for name, g in gradients.items():
        tensors["grad." + name] = g.flatten()[:: strides[name]].float().clone() if name in strides else g.float()
    save_file(tensors, args.output, metadata=metadata)
    os.chmod(args.output, 0o644)
    print(f"{args.output}: loss {loss:.6f}, {len(gradients)} gradients")


if __name__ == "__main__":
    main()
