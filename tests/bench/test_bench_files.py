#!/usr/bin/env python3
"""What bench/ writes and computes without running a model: llm.c's checkpoint against bytes put together here from the
format's definition, random weights, counts of parameters and FLOPs against published or hand-made figures, refusals."""
import json
import os
import statistics
import struct
import tempfile

from bench_test import BENCH, bench, shapes  # first: it finds bench/

import fits
import llmc_files

C, LAYERS, HEADS, POSITIONS, VOCAB = 4, 2, 2, 3, 5
CONFIG = {"model_type": "gpt2", "n_embd": C, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS,
          "vocab_size": VOCAB}


def write_safetensors(path, tensors, dtype="F32"):
    """tensors: {name: rows of numbers, or numbers}"""
    header, data = {}, b""
    for name, rows in tensors.items():
        matrix = isinstance(rows[0], list)
        flat = [x for row in rows for x in row] if matrix else rows
        piece = struct.pack(f"<{len(flat)}f", *flat)
        header[name] = {"dtype": dtype, "shape": [len(rows), len(rows[0])] if matrix else [len(rows)],
                        "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def numbered(k, rows, columns=None):
    """the k-th tensor: every element another number"""
    if columns is None:
        return [1000.0 * k + i for i in range(rows)]
    return [[1000.0 * k + i * columns + j for j in range(columns)] for i in range(rows)]


def small_model():
    """{name: values} as Hugging Face stores them: matrices of a layer [in, out]"""
    out = {"wte.weight": numbered(0, VOCAB, C), "wpe.weight": numbered(1, POSITIONS, C)}
    for i in range(LAYERS):
        k, at = 10 + 20 * i, f"h.{i}."
        out.update({at + "ln_1.weight": numbered(k, C), at + "ln_1.bias": numbered(k + 1, C),
                    at + "attn.c_attn.weight": numbered(k + 2, C, 3 * C), at + "attn.c_attn.bias": numbered(k + 3, 3 * C),
                    at + "attn.c_proj.weight": numbered(k + 4, C, C), at + "attn.c_proj.bias": numbered(k + 5, C),
                    at + "ln_2.weight": numbered(k + 6, C), at + "ln_2.bias": numbered(k + 7, C),
                    at + "mlp.c_fc.weight": numbered(k + 8, C, 4 * C), at + "mlp.c_fc.bias": numbered(k + 9, 4 * C),
                    at + "mlp.c_proj.weight": numbered(k + 10, 4 * C, C), at + "mlp.c_proj.bias": numbered(k + 11, C)})
    return {**out, "ln_f.weight": numbered(2, C), "ln_f.bias": numbered(3, C)}


def expected_checkpoint():
    """The file by its definition: the header, then tensors in the order of llm.c's ParameterTensors."""
    floats = []

    def layers(first, width, inner=None):
        for i in range(LAYERS):
            k = first + 20 * i
            floats.extend([1000.0 * k + j for j in range(width)] if inner is None else
                          [1000.0 * k + row * width + column for column in range(width) for row in range(inner)])
    floats += [float(i) for i in range(VOCAB * C)] + [0.0] * (128 - VOCAB) * C  # wte (Vp, C)
    floats += [1000.0 + i for i in range(POSITIONS * C)]  # wpe (maxT, C)
    layers(10, C), layers(11, C)  # ln1w, ln1b
    layers(12, 3 * C, C), layers(13, 3 * C)  # qkvw (L, 3C, C), qkvb
    layers(14, C, C), layers(15, C)  # attprojw (L, C, C), attprojb
    layers(16, C), layers(17, C)  # ln2w, ln2b
    layers(18, 4 * C, C), layers(19, 4 * C)  # fcw (L, 4C, C), fcb
    layers(20, C, 4 * C), layers(21, C)  # fcprojw (L, C, 4C), fcprojb
    floats += [2000.0 + i for i in range(C)] + [3000.0 + i for i in range(C)]  # lnfw, lnfb
    header = [20240326, 3, POSITIONS, VOCAB, LAYERS, HEADS, C, 128] + [0] * 248
    return struct.pack("<256i", *header) + struct.pack(f"<{len(floats)}f", *floats)


def model_folder(parent, name, files, config=None):
    folder = os.path.join(parent, name)
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config or CONFIG, f)
    for file, (tensors, dtype) in files.items():
        write_safetensors(os.path.join(folder, file), tensors, dtype)
    return folder


def check_checkpoint(parent):
    tensors, path = small_model(), os.path.join(parent, "model.bin")
    prefixed = {"transformer." + name: x for name, x in tensors.items()}
    halves = [dict(list(prefixed.items())[i::2]) for i in range(2)]
    for folder in (model_folder(parent, "bare", {"model.safetensors": (tensors, "F32")}),
                   model_folder(parent, "two", {f"model-{i}.safetensors": (x, "F32") for i, x in enumerate(halves)})):
        llmc_files.write_model(folder, path)
        with open(path, "rb") as f:
            assert f.read() == expected_checkpoint(), folder
    fewer = {name: x for name, x in tensors.items() if name != "h.1.ln_2.bias"}
    for name, files, says in (("fewer", {"a.safetensors": (fewer, "F32")}, "has no h.1.ln_2.bias"),
                              ("half", {"a.safetensors": (tensors, "I32")}, "is I32 [5, 4], not F32 [5, 4]")):
        try:
            llmc_files.write_model(model_folder(parent, name, files), path)
        except ValueError as error:
            assert says in str(error), error
        else:
            raise AssertionError(f"{name} was not refused")
    llmc_files.write_rows([[0, 50256], [7, -1]], path)
    with open(path, "rb") as f:
        assert f.read() == struct.pack("<4i", 0, 50256, 7, -1)


def check_shapes():
    """Parameters as transformers counts them; FLOPs of GPT-2 by hand: 12 layers of 12·768², the head, attention."""
    nowhere = os.path.join(BENCH, "results")  # holds no weights
    for name, count in (("gpt2", 124439808), ("smollm2", 134515008), ("llama1b", 1235814400)):
        assert shapes.parameters(nowhere, shapes.SHAPES[name]) == count, name
    matrices = 12 * 12 * 768 ** 2 + 50257 * 768
    assert shapes.flops_per_token(nowhere, shapes.SHAPES["gpt2"], 512) == 6 * matrices + 6 * 512 * 768 * 12
    untied = dict(shapes.SHAPES["smollm2"], tie_word_embeddings=False)
    assert shapes.parameters(nowhere, untied) == 134515008 + 49152 * 576
    assert shapes.matrix_parameters(nowhere, untied) == shapes.matrix_parameters(nowhere, shapes.SHAPES["smollm2"])


def check_random_weights(parent):
    config = dict(CONFIG, n_embd=64, n_head=4)
    folder = model_folder(parent, "random", {}, config)
    shapes.write_random_weights(folder, config)
    header, begin = shapes.read_header(os.path.join(folder, "model.safetensors"))
    assert {name: t["shape"] for name, t in header.items()} == shapes.expected_tensors(config)
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        data = f.read()[begin:]
    assert len(data) == 4 * shapes.parameters(folder, config)
    for name, t in header.items():
        at, end = t["data_offsets"]
        values = struct.unpack(f"<{(end - at) // 4}f", data[at:end])
        around = 1 if "ln_" in name and name.endswith("weight") else 0
        assert abs(statistics.mean(values) - around) < 0.02 and 0.01 < statistics.stdev(values) < 0.03, name


def check_memory():
    """llm.c tells how many activations it holds; as many gradients, and the states.  The estimate leaves out what lies
    above the diagonal of one square of scores a head, which nothing is written to."""
    told_by_llmc, unwritten = 212755968, 12 * 12 * 512 * 512 // 2  # "num_activations", GPT-2, 1 row of 512 tokens
    exact = 4 * (2 * told_by_llmc - unwritten) + 16 * 124439808
    least = fits.llmc_bytes(shapes.SHAPES["gpt2"], 124439808, 512)
    assert 0.999 * exact < least <= exact, (least, exact)


def check_refusals(parent):
    sources = os.path.join(parent, "sources")
    os.makedirs(sources)
    with open(os.path.join(sources, "train_gpt2.c"), "w", encoding="utf-8"):
        pass
    gpt2 = model_folder(parent, "gpt2", {})
    narrow = model_folder(parent, "narrow", {}, dict(CONFIG, n_inner=3 * C))
    relu = model_folder(parent, "relu", {}, dict(CONFIG, activation_function="relu"))
    llmc = ["--peer", "llmc", "--llmc", sources]
    for arguments, says in ((["--model", gpt2, "--peer", "llmc"], "needs the folder of llm.c's sources: --llmc DIR"),
                            (["--model", gpt2, "--peer", "llmc", "--llmc", parent], "no train_gpt2.c in it"),
                            (["--model", gpt2, "--llmc", sources], "--llmc goes with --peer llmc"),
                            (["--model", gpt2, *llmc, "--dtype", "bf16"], "computes in fp32: --dtype fp32, not bf16"),
                            (["--model", gpt2, *llmc, "--recompute"], "go with --peer torch"),
                            (["--model", gpt2, *llmc, "--seq", "4"], "--seq 4: the model has 3 positions"),
                            (["--shape", "smollm2", *llmc], "llm.c computes GPT-2 only: config.json has model_type = llama"),
                            (["--model", relu, *llmc, "--seq", "3"], "activation_function = relu, not gelu_new"),
                            (["--model", narrow, *llmc, "--seq", "3"], "config.json has n_inner = 12")):
        bench(*arguments, code=2, says=says)
    bench("--model", gpt2, *llmc, "--seq", "3", code=4, says="there is no compiler no-such-cc", env={"CC": "no-such-cc"})


def main():
    with tempfile.TemporaryDirectory() as parent:
        check_checkpoint(parent)
        check_shapes()
        check_random_weights(parent)
        check_memory()
        check_refusals(parent)
    print("test_bench_files: checkpoint, shapes, weights, memory, refusals")


main()
