#!/usr/bin/env python3
"""The same global batch on every layout of ranks: one loss curve, the same tokens, and the same bits wherever
nothing but the place of a number changes.

Tolerances, derived and not fitted (fp32, u = 2^-24 = 6e-8; measured are 6e-8 on losses and 2e-7 on weights):
  An element of a gradient is a sum over about K = 1000 tokens.  Another order of the sum moves it by about
  sqrt(K)·u = 2e-6 of the gradients' own scale r.  AdamW turns an element g into a step of at most
  lr·|g|/(|g|+eps), so an error e of g moves the weight by at most lr·e/|g|, and the loss, to first order, by
  |g| times that: lr·e.  Over n = 45,000 elements that is at most lr·e·n = lr·2e-6·|G|·sqrt(n) (|G| =
  r·sqrt(n) is the norm, clipped to 1) = 5e-3·2e-6·212 = 2e-6 a step if every error pulled the same way, 1e-8
  a step with random signs.  Twelve steps lie between 1e-7 and 2.5e-5 on losses between 5.4 and 0.9.  LOSS =
  1e-5 demands that errors are random; a wrong normalisation, a lost micro-batch or a row read twice moves the
  loss by 1e-4 or more.
  A weight whose gradient is near 0 may take its step of lr the other way round; these
  are a share e/r = 2e-6 of the elements, so |w - w'| <= 12·lr·sqrt(2e-6·n) = 0.02 against |w| of about 20:
  WEIGHTS = 1e-3."""

import json

import runs

LOSS, WEIGHTS, NORM = 1e-5, 1e-3, 1e-4
STEPS = 12


class Layouts(runs.Case):
    @classmethod
    def setUpClass(cls):
        cls.scratch = runs.Scratch()
        cls.reference = cls.scratch.fresh("reference")
        done = runs.run(
            1,
            "train",
            cls.scratch.recipe(
                cls.reference, step_scheduler={"local_batch_size": 16}, distributed={"strategy": "ddp"}
            ),
        )
        assert done.code == 0, str(done)
        cls.reference_weights = runs.weights(cls.reference, STEPS)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.close()

    def train(self, ranks, accumulation, model="float32", recipe=None, env=None, **distributed):
        run_dir = self.scratch.fresh()
        changes = dict(recipe or {})
        changes["step_scheduler"] = {
            "local_batch_size": 16 // ranks // accumulation,
            **changes.get("step_scheduler", {}),
        }
        changes["distributed"] = distributed
        changes["model"] = {"torch_dtype": model, **changes.get("model", {})}
        self.ends(runs.run(ranks, "train", self.scratch.recipe(run_dir, **changes), env=env), 0)
        return run_dir

    def same_bits(self, a, b, what):
        self.assertEqual(runs.curve(a), runs.curve(b), what)
        self.assertEqual(runs.export_bytes(a, STEPS).keys(), runs.export_bytes(b, STEPS).keys(), what)
        for name, content in runs.export_bytes(a, STEPS).items():
            self.assertTrue(content == runs.export_bytes(b, STEPS)[name], f"{what}: {name} differs")

    def close(self, run_dir, what):
        """Against one rank, DDP, one micro-batch."""
        fields = ("loss", "grad_norm", "lr", "num_label_tokens", "num_tokens_per_step", "epoch")
        ours, theirs = runs.curve(run_dir, *fields), runs.curve(self.reference, *fields)
        self.assertEqual(len(ours), STEPS)
        worst = self.same_curve(theirs, ours, LOSS, what)
        self.assertEqual([line[2:] for line in ours], [line[2:] for line in theirs], f"{what}: tokens a step")
        for a, b in zip(theirs, ours):
            self.assertLessEqual(abs(a[1] - b[1]), NORM * a[1], f"{what}: gradient norms")
        self.assertLessEqual(
            runs.distance(self.reference_weights, runs.weights(run_dir, STEPS)), WEIGHTS, what
        )
        return worst

    def matrix(self, ranks, layouts):
        """Every layout × recompute × accumulation; at equal ranks and accumulation all of `layouts` but HSDP
        have the same bits (HSDP adds within its groups first)."""
        worst = 0
        for accumulation in (1, 2, 4):
            base = None
            for name, distributed in layouts.items():
                plain = None
                for recompute in ("none", "full"):
                    what = f"{ranks} ranks, {name}, recompute {recompute}, {accumulation} micro-batches"
                    run_dir = self.train(ranks, accumulation, recompute=recompute, **distributed)
                    if plain:
                        self.same_bits(plain, run_dir, f"{what}: against recompute none")
                    else:
                        worst = max(worst, self.close(run_dir, what))
                    plain = plain or run_dir
                if name != "hsdp" and base:
                    self.same_bits(base, plain, f"{what}: against ddp")
                base = base or plain
        runs.note(f"largest difference of a loss {worst:.1e}")

    def test_layouts__the_loss_falls(self):
        losses = [line[0] for line in runs.curve(self.reference)]
        self.assertLess(min(losses[-3:]), 0.9 * losses[0], losses)

    def test_layouts__one_rank(self):
        self.matrix(1, {"ddp": {"strategy": "ddp"}, "fsdp2": {"strategy": "fsdp2"}})

    def test_layouts__two_ranks(self):
        self.matrix(2, {"ddp": {"strategy": "ddp"}, "fsdp2": {"strategy": "fsdp2"}})

    def test_layouts__four_ranks(self):
        self.matrix(
            4,
            {
                "ddp": {"strategy": "ddp"},
                "fsdp2": {"strategy": "fsdp2"},
                "hsdp": {"strategy": "fsdp2", "dp_replicate_size": 2},
            },
        )

    def test_layouts__order_of_communication_changes_no_bit(self):
        base = self.train(2, 2)
        self.same_bits(base, self.train(2, 2, overlap=False), "overlap off")
        self.same_bits(base, self.train(2, 2, reshard_after_forward=False), "weights kept for the step")
        self.same_bits(base, self.train(2, 2, env={"AM_COMM_DELAY_MS": 3}), "slow messages")
        self.close(self.train(2, 2, defer_fsdp_grad_sync=False), "gradients reduced every micro-batch")

    def test_layouts__the_same_command_twice(self):
        for distributed in ({"strategy": "ddp"}, {"strategy": "fsdp2", "dp_replicate_size": 2}):
            a, b = (self.train(4, 2, **distributed) for _ in range(2))
            self.same_bits(a, b, f"twice, {distributed}")

    def test_layouts__bfloat16(self):
        """bf16 rounds products, so other ranks may differ; equal ranks may not.  The weights stay fp32."""
        base = self.train(2, 2, "bfloat16", strategy="ddp")
        self.same_bits(
            base,
            self.train(2, 2, "bfloat16", strategy="fsdp2", recompute="full"),
            "bf16: fsdp2 with recompute against ddp",
        )
        losses, exact = [line[0] for line in runs.curve(base)], [
            line[0] for line in runs.curve(self.reference)
        ]
        self.assertLess(min(losses[-3:]), 0.9 * losses[0], losses)
        # the first loss, before any step: a value is rounded to 2^-9 relative some 40 times on its way, and the
        # errors add up as a random walk
        self.assertLess(abs(losses[0] - exact[0]) / exact[0], 40**0.5 * 2**-9)

    def test_layouts__fused_operators_and_their_twins(self):
        """Sums in another order, nothing else; and the fused step costs less."""
        flops = {}
        for fuse in (True, False):
            run_dir = self.train(2, 2, recipe={"run": {"fuse": fuse}})
            self.close(run_dir, f"fuse {fuse}")
            program = (run_dir / "program.txt").read_text()
            for op in ("act_mul", "linear_ce_grad"):
                self.assertEqual(f" {op} " in program, fuse, op)
            flops[fuse] = json.loads((run_dir / "run.json").read_text())["plan"]["flops_per_step"]
        # the logits once instead of twice: 2·48·128 FLOPs for each of the rank's 8 rows of 64 tokens
        self.assertEqual(flops[False] - flops[True], 2 * 48 * 128 * 8 * runs.ROW)

    def test_layouts__tied_head_and_uneven_heads(self):
        """A head tied to the embedding is one parameter with two uses; 9 heads share 3 key-value heads; rows
        are not packed."""
        changes = {
            "model": {"pretrained_model_name_or_path": str(runs.GOLDEN / "qwen3_tied_bias")},
            "packed_sequence": None,
            "dataset": {"seq_length": runs.ROW},
        }
        base = runs.curve(self.train(1, 1, recipe=changes, strategy="ddp"))
        for ranks, accumulation in ((2, 2), (4, 1)):
            ddp, fsdp = (
                self.train(ranks, accumulation, recipe=changes, strategy=s) for s in ("ddp", "fsdp2")
            )
            self.same_bits(ddp, fsdp, f"tied, {ranks} ranks: fsdp2 against ddp")
            self.same_curve(base, runs.curve(fsdp), LOSS, f"tied, {ranks} ranks")


if __name__ == "__main__":
    runs.main()
