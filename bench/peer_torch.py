"""The peer of bench/run.sh: the same training steps by PyTorch + transformers, run by $AM_TORCH_PYTHON.

    peer_torch.py train --model DIR --rows FILE --way fp32|autocast|master --steps N --threads N
                        [--recompute] [--compile]
    peer_torch.py ceiling --dtype bf16|fp32 --threads N    best of a few 2048×1024×4096 products, in GFLOP/s
    peer_torch.py version

The ways: fp32 throughout; autocast to bf16 over fp32 weights; bf16 weights with an fp32 master copy by hand.
Only what a command needs is imported, so that the time to the first step holds nothing else."""
import argparse, json, os, time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch


class Master:
    """AdamW over an fp32 copy of the parameters, or over the parameters themselves where they are fp32."""

    def __init__(self, model, copy):
        self.model = [p for p in model.parameters() if p.requires_grad]
        self.copy = [p.detach().float().clone() for p in self.model] if copy else self.model
        arguments = dict(lr=1e-5, betas=(0.9, 0.999), weight_decay=0.01)
        try:
            self.adam = torch.optim.AdamW(self.copy, fused=True, **arguments)
            self.kind = "fused"
        except RuntimeError:
            self.adam = torch.optim.AdamW(self.copy, foreach=True, **arguments)
            self.kind = "foreach"

    def step(self):
        if self.copy is not self.model:
            for master, p in zip(self.copy, self.model):
                master.grad, p.grad = p.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.copy, 1.0, foreach=True)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        if self.copy is not self.model:
            with torch.no_grad():
                torch._foreach_copy_(self.model, self.copy)


def train(o):
    from transformers import AutoModelForCausalLM
    dtype = torch.bfloat16 if o.way == "master" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.float32, attn_implementation="sdpa")
    model.config.use_cache = False
    model.train()
    if o.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    master = Master(model, o.way == "master")
    for p in model.parameters():  # after the copy was made from the fp32 weights; buffers (rope's) stay fp32
        p.data = p.data.to(dtype)
    forward = torch.compile(model) if o.compile else model
    with open(o.rows, encoding="utf-8") as f:
        rows = json.load(f)
    seconds, losses = [], []
    for i in range(o.steps):
        begin = time.monotonic()
        ids = torch.tensor([rows[i]])
        with torch.autocast("cpu", torch.bfloat16, enabled=o.way == "autocast"):
            loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        master.step()
        losses.append(loss.item())
        seconds.append(time.monotonic() - begin)
        print(f"step {i + 1}/{o.steps}", flush=True)
    print(json.dumps({"seconds": seconds, "loss": losses, "adamw": master.kind}), flush=True)


def ceiling(o):
    """the fastest, not the mean: what a neighbour takes is not in it"""
    m, k, n = 2048, 1024, 4096
    dtype = torch.bfloat16 if o.dtype == "bf16" else torch.float32
    a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
    best = float("inf")
    with torch.no_grad():
        for _ in range(20):
            begin = time.perf_counter()
            torch.mm(a, b)
            best = min(best, time.perf_counter() - begin)
    print(json.dumps({"gflops": 2 * m * k * n / best / 1e9}))


def version(_):
    import transformers
    print(f"PyTorch {torch.__version__}, transformers {transformers.__version__}, "
          f"CPU capability {torch.backends.cpu.get_cpu_capability()}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["train", "ceiling", "version"])
    p.add_argument("--model")
    p.add_argument("--rows")
    p.add_argument("--way", choices=["fp32", "autocast", "master"], default="fp32")
    p.add_argument("--dtype", choices=["bf16", "fp32"], default="fp32")
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--recompute", action="store_true")
    p.add_argument("--compile", action="store_true")
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    {"train": train, "ceiling": ceiling, "version": version}[o.what](o)


main()
