#!/usr/bin/env python3
"""What must not change a bit of training: evaluating between the steps (WALLS 6), and freezing of the
parameters that are not frozen (WALLS 1).  And what a numerical failure leaves untouched."""

import fnmatch
import json
import pathlib
import struct

import runs


class Unchanged(runs.Case):
    @classmethod
    def setUpClass(cls):
        cls.scratch = runs.Scratch()

    @classmethod
    def tearDownClass(cls):
        cls.scratch.close()

    def train(self, ranks=2, code=0, **changes):
        run_dir = self.scratch.fresh()
        changes["step_scheduler"] = {"local_batch_size": 4, **changes.get("step_scheduler", {})}
        result = runs.run(ranks, "train", self.scratch.recipe(run_dir, **changes))
        self.ends(result, code)
        self.result = result
        return run_dir

    def exported_tensors(self, run_dir, step):
        return runs.safetensors(runs.exported(run_dir, step) / "model.safetensors")

    # ---- evaluation --------------------------------------------------------------------------------------

    def test_unchanged__evaluating_after_every_step(self):
        held_out = self.scratch.shards("held_out", seed=2, shards=2, sequences=11)
        validation = {"validation_dataset": {"_target_": "automodel.ShardDataset", "data_dir": str(held_out)}}
        losses = {}
        for ranks, distributed in (
            (2, {"strategy": "fsdp2"}),
            (2, {"strategy": "ddp"}),
            (4, {"strategy": "fsdp2", "dp_replicate_size": 2}),
        ):
            what = f"{ranks} ranks, {distributed}"
            without = self.train(ranks, distributed=distributed)
            run_dir = self.train(
                ranks, distributed=distributed, step_scheduler={"val_every_steps": 1}, **validation
            )
            fields = ("loss", "grad_norm", "lr", "num_label_tokens")
            self.assertEqual(runs.curve(without, *fields), runs.curve(run_dir, *fields), what)
            self.assertTrue(
                runs.export_bytes(without, 12) == runs.export_bytes(run_dir, 12),
                f"{what}: the exported weights differ",
            )
            lines = runs.training_log(run_dir, "validation.jsonl")
            self.assertEqual([line["step"] for line in lines], list(range(1, 13)), what)
            losses[what] = [line["val_loss"] for line in lines]
            self.assertLess(losses[what][-1], 0.9 * losses[what][0])
            self.assertEqual(len({line["num_label_tokens"] for line in lines}), 1)
        first, *others = losses.values()
        for other in others:  # rows are dealt otherwise; tolerance as in test_train_layouts.py
            for a, b in zip(first, other):
                self.assertLess(abs(a - b) / a, 1e-5)
        # the last one again, by another command, from the exported weights
        result = runs.run(
            0,
            "eval",
            "--model",
            runs.exported(run_dir, 12),
            "--data",
            held_out,
            "--seq-len",
            runs.ROW,
            "--threads",
            1,
            "--json",
        )
        self.ends(result, 0)
        self.assertLess(abs(json.loads(result.out)["loss"] - first[-1]) / first[-1], 1e-5)

    # ---- freezing ----------------------------------------------------------------------------------------

    def regions(self, ranks, local, **changes):
        recipe = self.scratch.recipe(
            self.scratch.fresh(),
            step_scheduler={"local_batch_size": local},
            distributed={"recompute": "none"},  # with selective, no activation is kept for a weight's gradient alone
            **changes,
        )
        result = runs.run(0, "train", recipe, "--dry-run", "--ranks", ranks, "--json")
        self.ends(result, 0)
        return json.loads(result.out)

    def test_unchanged__freezing_takes_exactly_its_bytes_out_of_the_plan(self):
        """*mlp*: gate, up and down of 64 x 48 in two layers: 18,432 elements (a multiple of 256 per tensor
        and of 1024 per layer, so no padding moves).  m and v go from the store, the gradient from the memory
        of a step; masters stay.  Where several micro-batches are added up before the exchange, the whole
        gradients of a rank go too."""
        elements = 2 * 3 * 64 * 48
        frozen_mlp = {"freeze_config": {"patterns": ["*mlp*"]}}
        for ranks, local in ((1, 16), (1, 4), (2, 8), (2, 4), (4, 4), (4, 1)):
            whole = ranks > 1 and ranks * local < 16
            for plain, frozen in zip(self.regions(ranks, local), self.regions(ranks, local, **frozen_mlp)):
                gone = {name: plain["regions"][name] - frozen["regions"][name] for name in plain["regions"]}
                self.assertEqual(gone["store"], 2 * 4 * elements // ranks, f"{ranks} ranks: m and v")
                self.assertEqual(
                    gone["step"], 4 * elements // ranks + whole * 4 * elements, f"{ranks} ranks: the gradient"
                )
                self.assertGreater(gone["frame"], 0, "activations that only those gradients needed")
                self.assertGreaterEqual(gone["arena"], 0)
                self.assertEqual([gone[name] for name in ("scalars", "const", "state")], [0, 0, 0])
                # dw of a matrix is one product of 2·tokens·64·48 operations, and dx one more that stays
                self.assertGreaterEqual(
                    plain["flops_per_step"] - frozen["flops_per_step"],
                    2 * elements * 16 // ranks * runs.ROW,
                    "the products of dw",
                )

    def checkpoint_tensors(self, run_dir, step):
        """{role/name: bytes of all pieces in order of rank}"""
        found = {}
        for path in sorted(pathlib.Path(run_dir, "checkpoints", f"step_{step:08d}").glob("*.safetensors")):
            for name, (_, _, content) in runs.safetensors(path).items():
                found[name] = found.get(name, b"") + content
        return found

    def test_unchanged__the_gradients_that_are_not_frozen(self):
        """Their first moment after one step is (1 - beta1) times the gradient: compared bit by bit, in the
        checkpoint, with DDP, where no padding moves a cut."""
        for pattern in ("*mlp*", "model.layers.1.*", "*embed_tokens*", "lm_head*"):
            runs_of = [
                self.train(
                    step_scheduler={"max_steps": 1},
                    clip_grad_norm=None,
                    distributed={"strategy": "ddp"},
                    **changes,
                )
                for changes in ({}, {"freeze_config": {"patterns": [pattern]}})
            ]
            plain, frozen = (self.checkpoint_tensors(d, 1) for d in runs_of)
            moments = {n for n in plain if n.startswith(("m/", "v/"))}
            self.assertTrue(moments, sorted(plain))
            left = {n for n in frozen if n.startswith(("m/", "v/"))}
            names = {n.split("/", 1)[1] for n in moments - left}
            self.assertTrue(names, pattern)
            self.assertTrue(all(fnmatch.fnmatch(n, pattern) for n in names), (pattern, names))
            self.assertFalse(any(fnmatch.fnmatch(n.split("/", 1)[1], pattern) for n in left), pattern)
            for name in left:
                self.assertTrue(frozen[name] == plain[name], f"{pattern} frozen: {name} changed")
            source, ours = runs.safetensors(self.scratch.model / "model.safetensors"), self.exported_tensors(
                runs_of[1], 1
            )
            for name, tensor in source.items():
                self.assertEqual(
                    ours[name] == tensor, fnmatch.fnmatch(name, pattern), f"{pattern} frozen: {name}"
                )

    def test_unchanged__frozen_runs_on_every_layout(self):
        """Twelve steps: frozen tensors leave as they came, on ddp and fsdp2 with the same bits; a tied head
        counts once."""
        for model, pattern in (("llama", "*self_attn*"), ("qwen3_tied_bias", "*embed_tokens*")):
            section = {"pretrained_model_name_or_path": str(runs.GOLDEN / model)}
            a, b = (
                self.train(4, model=section, distributed=d, freeze_config={"patterns": [pattern]})
                for d in ({"strategy": "ddp"}, {"strategy": "fsdp2", "recompute": "full"})
            )
            self.assertEqual(runs.curve(a, "loss"), runs.curve(b, "loss"))
            self.assertTrue(runs.export_bytes(a, 12) == runs.export_bytes(b, 12))
            source, ours = runs.safetensors(runs.GOLDEN / model / "model.safetensors"), self.exported_tensors(
                a, 12
            )
            frozen = [n for n in source if fnmatch.fnmatch(n, pattern)]
            self.assertTrue(frozen)
            self.assertTrue(all(ours[n] == source[n] for n in frozen))
            self.assertLess(runs.curve(a)[-1][0], 0.9 * runs.curve(a)[0][0], "the rest learns")

    # ---- numbers that are none ---------------------------------------------------------------------------

    def broken_model(self, value):
        folder = self.scratch.copy_model()
        tensors = runs.safetensors(folder / "model.safetensors")
        dtype, shape, content = tensors["model.norm.weight"]
        tensors["model.norm.weight"] = (dtype, shape, struct.pack("<f", value) + content[4:])
        runs.write_safetensors(folder / "model.safetensors", tensors)
        return {"pretrained_model_name_or_path": str(folder)}

    def test_unchanged__three_steps_that_are_not_finite_end_the_run(self):
        for value in (float("inf"), float("nan")):
            for ranks in (1, 2):
                run_dir = self.train(
                    ranks,
                    5,
                    model=self.broken_model(value),
                    step_scheduler={"save_checkpoint_every_epoch": False},
                )
                self.one_message(
                    self.result,
                    r"not finite in steps 1 to 3 \(samples 0 to 47\)",
                    "nothing was updated in them",
                )
                log = runs.training_log(run_dir)
                self.assertEqual(
                    [(line["step"], line["skipped"], line["loss"]) for line in log],
                    [(s, True, None) for s in (1, 2, 3)],
                )
                self.assertEqual(runs.checkpoints(run_dir), [])
                self.assertLess(self.result.seconds, 10)

    def test_unchanged__a_skipped_step_updates_nothing(self):
        """Two steps are skipped and the run ends: weights as they came, moments 0.  (Three in a row end a
        run; the two that come before that must not have done harm.)"""
        section = self.broken_model(float("inf"))
        run_dir = self.train(model=section, step_scheduler={"max_steps": 2})
        source = runs.safetensors(pathlib.Path(section["pretrained_model_name_or_path"], "model.safetensors"))
        self.assertEqual(self.exported_tensors(run_dir, 2), source)
        for name, content in self.checkpoint_tensors(run_dir, 2).items():
            if name.startswith(("m/", "v/")):
                self.assertEqual(content, bytes(len(content)), name)


if __name__ == "__main__":
    runs.main()
