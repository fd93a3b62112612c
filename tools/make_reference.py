#!/usr/bin/env python3
"""Write a reference file for `automodel verify`: what transformers computes for a model directory.

    tools/make_reference.py MODEL_DIR -o FILE [--seed S] [--batch B] [--seq T] [--dtype float64|float32|bfloat16] [--packed]

The file (safetensors) holds input_ids, labels, position_ids, document_ids (I64 [B,T]), loss (F32 []), logits
(F32 [B,T,V]) and grad.<tensor name on disk> (F32) of the loss, and as metadata the versions, dtype and options.

input_ids are random; every fifth label or so is -100.  With --packed each row holds several documents: position_ids
restart, attention does not cross, the label of a document's first token is -100.  How a family is told of documents
differs (restarting position_ids, or a 4-D mask), so the packed logits are compared with every document run alone, and
a way that does not agree is not used.
"""
import argparse
import json
import os
import sys
import tempfile

import safetensors
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file


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
    document_ids = draw_documents(args.batch, args.seq, args.packed, g)
    labels = input_ids.clone()
    labels[torch.rand(labels.shape, generator=g) < 0.2] = -100
    if args.packed:
        labels[starts_of(document_ids)] = -100
    return {"input_ids": input_ids, "labels": labels, "position_ids": positions_of(document_ids),
            "document_ids": document_ids}


def block_mask(document_ids, dtype):
    """Additive [B,1,T,T]: a token sees itself and what stands before it in its document."""
    same = document_ids[:, :, None] == document_ids[:, None, :]
    causal = torch.ones(document_ids.shape[1], document_ids.shape[1], dtype=torch.bool).tril()
    mask = torch.zeros(same.shape, dtype=dtype)
    return mask.masked_fill(~(same & causal), torch.finfo(dtype).min)[:, None]


@torch.no_grad()
def documents_alone(model, batch):
    """Logits [B,T,V], each document run by itself."""
    rows = []
    for ids, documents in zip(batch["input_ids"], batch["document_ids"]):
        parts = [model(input_ids=ids[documents == d][None], use_cache=False).logits[0] for d in documents.unique()]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def choose_inputs(model, batch, args):
    """How this model is given the batch."""
    if not args.packed:
        return {"position_ids": batch["position_ids"]}, "none"
    alone = documents_alone(model, batch).float()
    tolerance = 0.1 if args.dtype == "bfloat16" else 1e-4
    ways = {"position_ids": {"position_ids": batch["position_ids"]},
            "mask": {"position_ids": batch["position_ids"],
                     "attention_mask": block_mask(batch["document_ids"], model.dtype)}}
    for name, inputs in ways.items():
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], use_cache=False, **inputs).logits.float()
        error = (logits - alone).abs().max().item() / alone.abs().max().item()
        print(f"packed by {name}: {error:.2e} of the largest logit from documents run alone")
        if error <= tolerance:
            return inputs, name
    sys.exit("neither restarting position_ids nor a 4-D mask makes this family respect documents: use no --packed")


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
                    value = f.get_tensor(name).float()
                    if value.numel() > 0 and value.isnan().all():
                        continue
                    if name not in wanted:
                        sys.exit(f"the gradient {name} has no tensor of this name in {model_dir}")
                    gradients["grad." + name] = value.contiguous().clone()
    for name in sorted(wanted - {n[5:] for n in gradients}):
        print(f"no gradient of {name} (tied, a buffer, or unused)")
    return gradients


def main(arguments=None):
    args = parse_arguments(arguments)
    dtype = getattr(torch, args.dtype)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=dtype,
                                                              attn_implementation=args.attention)
    model.eval()  # no dropout; parameters still receive gradients
    batch = draw_batch(model.config, args)
    inputs, way = choose_inputs(model, batch, args)
    out = model(input_ids=batch["input_ids"], labels=batch["labels"], use_cache=False, **inputs)
    loss = out.loss
    if args.dtype == "float64":  # transformers rounds logits to float32 before its loss
        loss = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    loss.backward()
    tensors = {**batch, "loss": loss.detach().float().reshape(()),
               "logits": out.logits.detach().float().contiguous()}
    tensors.update(gradients_by_disk_name(model, args.model_dir))
    options = {"seed": args.seed, "packed": way, "attention": args.attention}
    save_file(tensors, args.output, metadata={
        "format": "pt", "transformers": transformers.__version__, "torch": torch.__version__,
        "safetensors": safetensors.__version__, "dtype": args.dtype, "options": json.dumps(options)})
    os.chmod(args.output, 0o644)
    print(f"{args.output}: loss {tensors['loss'].item():.6f}, {sum(n.startswith('grad.') for n in tensors)} gradients")


if __name__ == "__main__":
    main()
