#!/usr/bin/env python3
"""Writes word_reference.h: inputs and expected outputs of the kernels behind the cards' light words, computed by torch and
transformers in float64 (gradients by torch.autograd).  All inputs are representable in bf16.

Run it with a Python that has both:  python make_word_reference.py > word_reference.h"""
import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN, XIELUActivation

torch.manual_seed(41)


def rand(*shape, scale=1.0):
    return (torch.randn(*shape, dtype=torch.float64) * scale).to(torch.bfloat16).to(torch.float64)


def emit(name, values):
    lines, line = [], "   "
    for value in values.detach().flatten().tolist():
        if len(line) + len(repr(value)) > 106:
            lines.append(line)
            line = "   "
        line += f" {value!r},"
    print(f"static const double {name}[] = {{\n" + "\n".join(lines + [line]) + "};")


def case(name, f, inputs, dy=None):
    """name_y, and name_d0 … for the inputs."""
    xs = [x.clone().requires_grad_() for x in inputs]
    y = f(*xs)
    dy = rand(*y.shape) if dy is None else dy
    grads = torch.autograd.grad(y, xs, dy, allow_unused=True)
    emit(f"{name}_dy", dy), emit(f"{name}_y", y)
    for i, g in enumerate(grads):
        if g is not None:
            emit(f"{name}_d{i}", g)


def maps():
    x = rand(40, scale=1.5)
    x = torch.where(x.abs() < 0.01, torch.full_like(x, 0.5), x)
    p = x.abs() + 0.25
    p = p.to(torch.bfloat16).double()
    emit("map_x", x), emit("map_p", p)
    for name, f in dict(exp=torch.exp, expm1=torch.expm1, abs=torch.abs, softplus=F.softplus, square=torch.square,
                        clamp=lambda t: t.clamp(-0.5, 0.75), affine=lambda t: t * -1.5 + 0.25).items():
        case(f"map_{name}", f, [x])
    for name, f in dict(log=torch.log, log1p=torch.log1p, root=torch.sqrt, rsqrt=torch.rsqrt,
                        reciprocal=lambda t: 3.0 / t).items():
        case(f"map_{name}", f, [p])
    emit("map_floor_y", x.floor()), emit("map_lt_y", (x < 0.5).double()), emit("map_ge_y", (x >= 0.5).double())


def activations():
    x = rand(48, scale=3)
    emit("more_x", x)
    for name in ("quick_gelu", "relu6", "leaky_relu", "mish", "laplace"):
        case(f"more_{name}", ACT2FN[name], [x])
    act = XIELUActivation(dtype=torch.float64)
    with torch.no_grad():
        act.alpha_p.fill_(0.375), act.alpha_n.fill_(-0.625)
        act.beta.fill_(0.4375), act.eps.fill_(-0.125)
    t = x.clone().requires_grad_()
    y, dy = act(t), rand(48)
    dx, dp, dn = torch.autograd.grad(y, (t, act.alpha_p, act.alpha_n), dy)
    emit("xielu_dy", dy), emit("xielu_y", y), emit("xielu_dx", dx), emit("xielu_dp", dp), emit("xielu_dn", dn)


def pairs():
    a, b = rand(5, 3, 4), rand(5, 3, 4)
    b = torch.where(b.abs() < 0.25, torch.full_like(b, 0.5), b)
    emit("pair_a", a), emit("pair_b", b)
    shapes = dict(last=(1, 1, 4), middle=(1, 3, 1), first=(5, 1, 1), tail=(1, 3, 4), head=(5, 3, 1), ends=(5, 1, 4), one=(1, 1, 1))
    for name, shape in shapes.items():
        s = b[:shape[0], :shape[1], :shape[2]].contiguous()
        emit(f"pair_{name}", s)
        dy = rand(5, 3, 4)
        case(f"add_{name}", lambda x, y: x + y, [a, s], dy)
        case(f"mul_{name}", lambda x, y: x * y, [a, s], dy)
        emit(f"sub_{name}_y", a - s), emit(f"div_{name}_y", a / s)
    emit("where_y", torch.where(a > b, a, b))
    emit("where_c", (a > b).double())


def rows():
    x = rand(6, 21, scale=2)
    emit("row_x", x)
    case("softmax", lambda t: t.softmax(-1), [x])
    case("row_max", lambda t: t.max(-1).values, [x])


def layernorm():
    x, w, b = rand(6, 40), rand(40), rand(40)
    emit("ln_x", x), emit("ln_w", w), emit("ln_b", b)
    emit("ln_mean", x.mean(-1)), emit("ln_rstd", (x.var(-1, unbiased=False) + 1e-5).rsqrt())
    case("ln_full", lambda t, v, c: F.layer_norm(t, (40,), v, c, 1e-5), [x, w, b])
    case("ln_plus", lambda t, v: F.layer_norm(t, (40,), v + 1, None, 1e-5), [x, w])
    case("ln_bare", lambda t: F.layer_norm(t, (40,), None, None, 1e-5), [x])
    g = x.view(24, 10)
    emit("ln_group_mean", g.mean(-1)), emit("ln_group_rstd", (g.var(-1, unbiased=False) + 1e-5).rsqrt())
    case("ln_group", lambda t, v, c: (F.layer_norm(t.view(6, 4, 10), (10,), None, None, 1e-5).view(6, 40) * v + c), [x, w, b])
    rms = lambda t: t * torch.rsqrt(t.square().mean(-1, keepdim=True) + 1e-5)
    emit("rms_group_rstd", torch.rsqrt(g.square().mean(-1) + 1e-5))
    case("rms_group", lambda t, v: rms(t.view(6, 4, 10)).view(6, 40) * v, [x, w])


def cat():
    a, b, c = rand(6, 5), rand(3, 2), rand(6, 3)
    emit("cat_a", a), emit("cat_b", b), emit("cat_c", c)
    case("cat", lambda p, q, r: torch.cat((p, q.repeat_interleave(2, 0), r), -1), [a, b, c])


print("/* word_reference: written by make_word_reference.py with torch", torch.__version__.split("+")[0] + ". */")
print("#pragma GCC diagnostic ignored \"-Wunused-const-variable\"")
maps(), activations(), pairs(), rows(), layernorm(), cat()
