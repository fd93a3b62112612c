#!/usr/bin/env python3
"""Writes light_reference.h: inputs and expected outputs of the light kernels, computed by torch and transformers.

Run it with a Python that has both:  python make_light_reference.py > light_reference.h
All inputs are representable in bf16, so that one set of numbers serves f64, f32 and bf16; expected values are computed in
float64 by torch (gradients by torch.autograd) unless the name ends in _bf16_bits (bit patterns of a bf16 computation)."""
import torch
import transformers
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

torch.manual_seed(20)


def rand(*shape, scale=1.0):
    return (torch.randn(*shape, dtype=torch.float64) * scale).to(torch.bfloat16).to(torch.float64)


def emit(name, values, ctype="double"):
    flat = values.detach().flatten().tolist()
    text = ", ".join(repr(v) if ctype == "double" else str(v) for v in flat)
    lines, line = [], "   "
    for word in text.split(" "):
        if len(line) + len(word) > 108:
            lines.append(line)
            line = "   "
        line += " " + word
    print(f"static const {ctype} {name}[] = {{\n" + "\n".join(lines + [line]) + "};")


def bits(t):
    return t.to(torch.bfloat16).view(torch.int16).to(torch.int32) & 0xFFFF


def activations():
    x, u, dy = rand(24, scale=2.5), rand(24), rand(24)
    emit("act_x", x), emit("act_u", u), emit("act_dy", dy)
    F = torch.nn.functional
    for name, f in dict(silu=F.silu, gelu=F.gelu, gelu_tanh=lambda t: F.gelu(t, approximate="tanh"), relu=F.relu,
                        relu2=lambda t: F.relu(t).square(), sigmoid=torch.sigmoid, tanh=torch.tanh).items():
        g, v = x.clone().requires_grad_(), u.clone().requires_grad_()
        emit(f"act_{name}_y", f(g))
        emit(f"act_{name}_dx", torch.autograd.grad(f(g), g, dy)[0])
        y = f(g) * v
        dg, du = torch.autograd.grad(y, (g, v), dy)
        emit(f"act_{name}_mul_y", y), emit(f"act_{name}_mul_dg", dg), emit(f"act_{name}_mul_du", du)


def softcap():
    x, dy = rand(16, scale=40), rand(16)
    t = x.clone().requires_grad_()
    y = 30 * torch.tanh(t / 30)
    emit("softcap_x", x), emit("softcap_dy", dy), emit("softcap_y", y)
    emit("softcap_dx", torch.autograd.grad(y, t, dy)[0])


def rmsnorm():
    x, w, dy = rand(5, 37), rand(37), rand(5, 37)
    emit("norm_x", x), emit("norm_w", w), emit("norm_dy", dy)
    for name, plus in dict(llama=0.0, gemma=1.0).items():
        t, v = x.clone().requires_grad_(), w.clone().requires_grad_()
        rstd = torch.rsqrt(t.square().mean(-1, keepdim=True) + 1e-5)
        y = t * rstd * (v + plus)
        dx, dw = torch.autograd.grad(y, (t, v), dy)
        emit(f"norm_{name}_y", y), emit(f"norm_{name}_dx", dx), emit(f"norm_{name}_dw", dw)
        emit("norm_rstd", rstd) if name == "llama" else None
    t = x.clone().requires_grad_()
    y = torch.nn.functional.rms_norm(t, (37,), None, 1e-5)
    emit("norm_bare_y", y), emit("norm_bare_dx", torch.autograd.grad(y, t, dy)[0])
    for name, norm in dict(llama=LlamaRMSNorm(37, 1e-5), gemma=Gemma3RMSNorm(37, 1e-5)).items():
        norm.weight.data = w.to(torch.bfloat16)
        emit(f"norm_{name}_bf16_bits", bits(norm(x.to(torch.bfloat16))), "uint16_t")


def rope():
    pos = torch.tensor([0, 1, 77, 4095, 131071, 1000003], dtype=torch.int32)
    inv = (500000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)).to(torch.float32)
    emit("rope_pos", pos, "int32_t"), emit("rope_inv_freq", inv.double())
    angle = (pos.float()[:, None] * inv[None]).double()  # rounded to f32, then exact
    emit("rope_cos", angle.cos()), emit("rope_sin", angle.sin())
    exact = pos.double()[:, None] * inv.double()[None]
    emit("rope_cos_f64", exact.cos()), emit("rope_sin_f64", exact.sin())
    x = rand(6, 2, 10)  # 6 tokens, 2 heads of 10 features, 8 of them turned
    emit("rope_x", x)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b, rest = x[..., :4], x[..., 4:8], x[..., 8:]
    emit("rope_halves_y", torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1))
    z = torch.view_as_complex(x[..., :8].reshape(6, 2, 4, 2).contiguous()) * torch.polar(torch.ones_like(angle), angle)[:, None]
    emit("rope_pairs_y", torch.cat([torch.view_as_real(z).flatten(-2), rest], -1))
    full = rand(1, 2, 6, 8).to(torch.bfloat16)  # transformers: (B, H, T, d)
    c, s = (torch.cat([t, t], -1)[None].to(torch.bfloat16) for t in (angle.cos().float(), angle.sin().float()))
    emit("rope_bf16_x", full.transpose(1, 2).double())
    emit("rope_bf16_y", apply_rotary_pos_emb(full, full, c, s)[0].transpose(1, 2).double())


def embed():
    ids = torch.tensor([3, 0, 3, 5, 1, 3], dtype=torch.int32)
    table, dy = rand(6, 5), rand(6, 5)
    t = table.clone().requires_grad_()
    y = torch.nn.functional.embedding(ids.long(), t)
    emit("embed_ids", ids, "int32_t"), emit("embed_table", table), emit("embed_dy", dy), emit("embed_y", y)
    emit("embed_dtable", torch.autograd.grad(y, t, dy)[0])
    emit("embed_db", dy.sum(0))


def adamw():
    p = torch.randn(19, dtype=torch.float32)
    emit("adamw_p", p.double())
    grads = torch.randn(10, 19, dtype=torch.float32)
    emit("adamw_g", grads.double())
    lrs = [1e-3 * (k + 1) for k in range(10)]
    for name, betas, eps in (("usual", (0.9, 0.95), 1e-8), ("low", (0.3, 0.999), 1e-2)):
        q = torch.nn.Parameter(p.clone())
        opt = torch.optim.AdamW([q], lr=0.0, betas=betas, eps=eps, weight_decay=0.1, foreach=False, fused=False)
        for k in range(10):
            opt.param_groups[0]["lr"] = lrs[k]
            q.grad = grads[k] * torch.tensor(0.5)  # clipped by 0.5
            opt.step()
        state = opt.state[q]
        emit(f"adamw_{name}_p", q.double()), emit(f"adamw_{name}_m", state["exp_avg"].double())
        emit(f"adamw_{name}_v", state["exp_avg_sq"].double())


print("/* light_reference: written by make_light_reference.py with torch", torch.__version__.split("+")[0],
      "and transformers", transformers.__version__, "*/\n#include <stdint.h>\n#pragma GCC diagnostic ignored \"-Wunused-const-variable\"\n")
for section in (activations, softcap, rmsnorm, rope, embed, adamw):
    section()
