#!/usr/bin/env python3
"""The gathered gradient of every tensor at 1, 2 and 4 ranks, as `verify --dump` writes them.

Two rows are dealt to the ranks, so of four ranks two have none: their share must be exactly nothing.  Numbers
are compared with one rank's: an element sums 96 tokens' terms, in another order on other ranks, so it moves
by about sqrt(96)·2^-24 = 6e-7 of its terms' size; TENSOR = 2e-5 of a tensor's norm leaves room for terms that
cancel each other.  A mean over ranks instead of tokens would be off by 0.1.
"""

import struct

import runs

TENSOR = 2e-5


class Gradients(runs.Case):
    def setUp(self):
        self.scratch = runs.Scratch()
        self.addCleanup(self.scratch.close)

    def dump(self, model, ranks, strategy):
        path = self.scratch.dir / f"{model}-{ranks}-{strategy}.safetensors"
        folder = runs.GOLDEN / model
        result = runs.run(
            ranks,
            "verify",
            folder,
            "--reference",
            folder / "reference.safetensors",
            "--strategy",
            strategy,
            "--threads",
            1,
            "--dump",
            path,
        )
        self.ends(result, 0)
        return runs.safetensors(path)

    def numbers(self, tensors):
        return {
            n: struct.unpack(f"<{len(data) // 4}f", data)
            for n, (_, _, data) in tensors.items()
            if n.startswith("grad.") or n == "loss"
        }

    def compare(self, model):
        one = self.dump(model, 1, "fsdp2")
        names = set(runs.safetensors(runs.GOLDEN / model / "model.safetensors"))
        self.assertEqual(
            {n[5:] for n in one if n.startswith("grad.")}, names, "a gradient for every tensor on disk"
        )
        exact, worst = self.numbers(one), 0
        for ranks in (2, 4):
            ddp, fsdp = self.dump(model, ranks, "ddp"), self.dump(model, ranks, "fsdp2")
            self.assertEqual(
                ddp,
                fsdp,
                f"{model}, {ranks} ranks: every byte of ddp's and fsdp2's gradients, loss and logits",
            )
            for name, values in self.numbers(fsdp).items():
                error = runs.distance({name: exact[name]}, {name: values})
                self.assertLessEqual(error, TENSOR, f"{model}, {ranks} ranks: {name}")
                worst = max(worst, error)
        runs.note(f"{model}: largest difference {worst:.1e}")

    def test_gradients__plain(self):
        self.compare("llama")

    def test_gradients__tied_head_bias_uneven_heads(self):
        self.compare("qwen3_tied_bias")


if __name__ == "__main__":
    runs.main()
