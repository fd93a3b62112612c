#!/usr/bin/env python3
"""A run that is killed and started again ends where an undisturbed one ends: the same losses, the same bits
in the exported weights.

Messages are slowed (AM_COMM_DELAY_MS), so that a step takes tens of milliseconds and a kill can hit anything:
a step, a save, the moment between data and manifest.  The moment is random; AM_TEST_SEED repeats one."""

import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import time

import runs

SLOW = {"AM_COMM_DELAY_MS": 2}
STEPS = 24
LOSS, WEIGHTS = 1e-5, 1e-3  # another layout: as derived in test_train_layouts.py


class Resume(runs.CaseBesideARun):
    @classmethod
    def setUpClass(cls):
        seed = int(os.environ.get("AM_TEST_SEED") or random.SystemRandom().randrange(1 << 30))
        cls.random = random.Random(seed)
        runs.note(f"AM_TEST_SEED={seed}")
        super().setUpClass()

    @classmethod
    def recipe(cls, run_dir, local=4, name=None, checkpoint=None, **distributed):
        return cls.scratch.recipe(
            run_dir,
            name,
            distributed=distributed,
            checkpoint={"max_recent_checkpoints": 3, **(checkpoint or {})},
            step_scheduler={
                "local_batch_size": local,
                "max_steps": STEPS,
                "ckpt_every_steps": 4,
                "save_checkpoint_every_epoch": False,
            },
        )

    def kill_after_first_checkpoint(self, ranks, recipe, run_dir):
        """SIGKILL for mpirun and all ranks at once, as when a node loses power."""
        job = runs.start(ranks, "train", recipe, env=SLOW)
        job.wait_for(lambda: runs.checkpoints(run_dir), "the first checkpoint")
        time.sleep(self.random.uniform(0, 0.4))
        ranks_of = job.ranks()
        for pid in [job.process.pid, *ranks_of.values()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        result = job.end()
        self.assertEqual(result.code, -signal.SIGKILL, str(result))
        self.assertEqual(runs.gone(ranks_of.values()), [])

    def restarted_at(self, result):
        found = re.search(r"resuming after step (\d+) of", result.err)
        self.assertTrue(found, f"it began anew\n{result}")
        step = int(found[1])
        self.assertGreater(step, 0)
        self.assertLess(step, STEPS)
        return step

    def same_as_undisturbed(self, run_dir, what):
        fields = ("loss", "grad_norm", "lr", "num_label_tokens")
        self.assertEqual(runs.curve(run_dir, *fields), runs.curve(self.undisturbed, *fields), what)
        self.assertEqual(len(runs.curve(run_dir)), STEPS)
        ours, theirs = runs.export_bytes(run_dir, STEPS), runs.export_bytes(self.undisturbed, STEPS)
        self.assertEqual(ours.keys(), theirs.keys(), what)
        for name in ours:
            self.assertTrue(ours[name] == theirs[name], f"{what}: {name} differs")
        left = [p.name for p in pathlib.Path(run_dir, "hf").iterdir()]
        self.assertEqual(left, [f"step_{STEPS:08d}"], what)

    def killed_and_restarted(self, times, **checkpoint):
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir, checkpoint=checkpoint)
        steps = []
        for _ in range(times):
            self.kill_after_first_checkpoint(2, recipe, run_dir)
        result = runs.run(2, "train", recipe)
        self.ends(result, 0)
        steps.append(self.restarted_at(result))
        self.same_as_undisturbed(run_dir, f"restarted after step {steps}")
        return steps

    def test_resume__killed(self):
        runs.note(f"restarted after {self.killed_and_restarted(1)}")

    def test_resume__killed_again_and_again(self):
        runs.note(f"restarted after {self.killed_and_restarted(3)}")

    def test_resume__killed_while_a_checkpoint_is_written_beside_training(self):
        runs.note(f"restarted after {self.killed_and_restarted(2, is_async=True)}")

    def test_resume__another_layout(self):
        for ranks, local, distributed in (
            (4, 4, {"strategy": "fsdp2", "dp_replicate_size": 2}),
            (1, 16, {"strategy": "ddp"}),
            (4, 1, {"strategy": "ddp"}),
        ):
            run_dir = self.scratch.fresh()
            self.kill_after_first_checkpoint(2, self.recipe(run_dir), run_dir)
            result = runs.run(ranks, "train", self.recipe(run_dir, local, "other", **distributed))
            self.ends(result, 0)
            step = self.restarted_at(result)
            what = f"restarted after step {step} on {ranks} ranks, {distributed}"
            exact, ours = runs.curve(self.undisturbed), runs.curve(run_dir)
            self.assertEqual(ours[:step], exact[:step], what)
            self.same_curve(exact, ours, LOSS, what)
            self.assertLessEqual(
                runs.distance(runs.weights(self.undisturbed, STEPS), runs.weights(run_dir, STEPS)),
                WEIGHTS,
                what,
            )

    def test_resume__a_finished_run_is_left_alone(self):
        """Started once more it trains no step; an export that is missing is made again, the same."""
        before = runs.export_bytes(self.undisturbed, STEPS)
        log = pathlib.Path(self.undisturbed, "training.jsonl").read_bytes()
        shutil.rmtree(runs.exported(self.undisturbed, STEPS))
        leftover = pathlib.Path(
            self.undisturbed, "hf", f"step_{STEPS:08d}.partial"
        )  # as an export leaves it that was killed
        leftover.mkdir()
        (leftover / "model.safetensors").write_bytes(b"half")
        result = runs.run(2, "train", self.recipe(self.undisturbed))
        self.ends(result, 0, f"resuming after step {STEPS} of {STEPS}")
        self.assertEqual(pathlib.Path(self.undisturbed, "training.jsonl").read_bytes(), log)
        self.assertEqual(runs.export_bytes(self.undisturbed, STEPS), before)
        self.assertFalse(leftover.exists())

    def test_resume__what_cannot_be_gone_on_from_is_refused(self):
        run_dir = self.scratch.fresh()
        first = dict(step_scheduler={"local_batch_size": 4, "max_steps": 2})
        self.ends(runs.run(2, "train", self.scratch.recipe(run_dir, **first)), 0)
        for change, words in (
            ({"rng": {"seed": 8}}, "used rng.seed 7, not 8"),
            (
                {"packed_sequence": {"packed_sequence_size": 48}},
                "trained on other data, another packing or another row length",
            ),
            (
                {"step_scheduler": {"local_batch_size": 4, "max_steps": 4, "global_batch_size": 8}},
                "write the old global_batch_size",
            ),
        ):
            result = runs.run(2, "train", self.scratch.recipe(run_dir, "changed", **{**first, **change}))
            self.ends(result, 3)
            self.one_message(result, words)
        for name in ("LATEST", str(self.scratch.dir / "nothing")):
            result = runs.run(
                2,
                "train",
                self.scratch.recipe(self.scratch.fresh(), **first, checkpoint={"restore_from": name}),
            )
            self.ends(result, 3)
            self.one_message(result, "restore_from")


if __name__ == "__main__":
    runs.main()
