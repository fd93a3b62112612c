#!/usr/bin/env python3
"""A signal to the launcher or to one rank alone: all ranks stop after the same step, the checkpoint is
committed, the exit code is 6, and the run that is started again has the bits of an undisturbed one."""

import os
import pathlib
import re
import signal
import time

import runs

SLOW = {"AM_COMM_DELAY_MS": 2}
STEPS = 24
DEADLINE = 10  # seconds from the signal to the end: Slurm's GraceTime is seldom shorter


class Signals(runs.CaseBesideARun):
    @classmethod
    def recipe(cls, run_dir, local=4, **checkpoint):
        return cls.scratch.recipe(
            run_dir,
            checkpoint=checkpoint,
            step_scheduler={
                "local_batch_size": local,
                "max_steps": STEPS,
                "save_checkpoint_every_epoch": False,
            },
        )

    def interrupted(self, recipe, run_dir, send, ranks=2):
        """Start, let three steps pass, signal.  The result, with the step it stopped after."""
        job = runs.start(ranks, "train", recipe, env=SLOW)
        job.wait_for(lambda: len(runs.training_log(run_dir)) >= 3, "three steps")
        send(job)
        begin = time.monotonic()
        result = job.end()
        self.assertLess(time.monotonic() - begin, DEADLINE, str(result))
        self.ends(result, 6)
        self.assertEqual([line for line in result.ours() if "error" in line], [], str(result))
        step = len(runs.training_log(run_dir))
        self.assertGreaterEqual(step, 3)
        self.assertLess(step, STEPS, "it went on to the end")
        self.assertEqual(runs.checkpoints(run_dir), [step], str(result))
        self.assertEqual(len(re.findall(r"committed", result.err)), 1, str(result))
        self.assertRegex(result.err, f"saving a checkpoint after step {step} and leaving")
        self.assertFalse(runs.exported(run_dir, STEPS).exists())
        return result, step

    def goes_on(self, recipe, run_dir, step, ranks=2):
        result = runs.run(ranks, "train", recipe)
        self.ends(result, 0, f"resuming after step {step} of {STEPS}")
        self.assertEqual(runs.curve(run_dir), runs.curve(self.undisturbed))
        self.assertTrue(
            runs.export_bytes(run_dir, STEPS) == runs.export_bytes(self.undisturbed, STEPS),
            "the exported weights differ",
        )

    def whole(self, send, words, **checkpoint):
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir, **checkpoint)
        result, step = self.interrupted(recipe, run_dir, send)
        self.assertRegex(result.err, words)
        self.goes_on(recipe, run_dir, step)

    def test_signals__sigusr1_to_mpirun(self):
        self.whole(lambda job: os.kill(job.process.pid, signal.SIGUSR1), "SIGUSR1")

    def test_signals__sigterm_to_one_rank(self):
        self.whole(lambda job: os.kill(job.ranks()[1], signal.SIGTERM), "SIGTERM")

    def test_signals__sigusr1_to_one_rank(self):
        self.whole(lambda job: os.kill(job.ranks()[0], signal.SIGUSR1), "SIGUSR1")

    def test_signals__with_asynchronous_checkpoints(self):
        self.whole(lambda job: os.kill(job.ranks()[1], signal.SIGUSR2), "SIGUSR2", is_async=True)

    def test_signals__before_the_first_step(self):
        """As soon as the ranks listen: one step is trained, since the request is agreed on after it."""
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir)
        job = runs.start(2, "train", recipe, env=SLOW)
        job.wait_for(lambda: pathlib.Path(run_dir, "run.json").exists(), "run.json")
        os.kill(job.ranks()[1], signal.SIGTERM)
        self.ends(job.end(), 6)
        (step,) = runs.checkpoints(run_dir)
        self.assertLessEqual(step, 2)
        self.goes_on(recipe, run_dir, step)

    def test_signals__during_a_long_validation(self):
        """Of 10,000 rows, a pair at a time, after the first step: it is left, and the run goes on without
        it."""
        held_out = self.scratch.shards("held_out", seed=2, sequences=6000)
        run_dir = self.scratch.fresh()
        steps = {"local_batch_size": 1, "max_steps": STEPS, "save_checkpoint_every_epoch": False}
        validation = {"_target_": "automodel.ShardDataset", "data_dir": str(held_out)}
        recipe = self.scratch.recipe(
            run_dir, step_scheduler={**steps, "val_every_steps": 1}, validation_dataset=validation
        )
        job = runs.start(2, "train", recipe)
        job.wait_for(lambda: pathlib.Path(run_dir, "run.json").exists(), "run.json")
        rank = job.ranks()[1]  # looked for now: on a busy machine that takes as long as a validation
        job.wait_for(lambda: len(runs.training_log(run_dir)) >= 1, "a step")
        time.sleep(0.1)
        os.kill(rank, signal.SIGTERM)
        self.ends(job.end(), 6)
        self.assertEqual(runs.training_log(run_dir, "validation.jsonl"), [])
        self.assertEqual(runs.checkpoints(run_dir), [1])
        result = runs.run(2, "train", self.scratch.recipe(run_dir, "without", step_scheduler=steps))
        self.ends(result, 0, f"resuming after step 1 of {STEPS}")
        self.same_curve(runs.curve(self.undisturbed), runs.curve(run_dir), 1e-5, "left in validation")

    def test_signals__twice_saves_once(self):
        def send(job):
            for rank in (0, 1, 1):
                os.kill(job.ranks()[rank], signal.SIGTERM)
                time.sleep(0.02)

        # the second and third arrive while the first one's checkpoint is being written
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir)
        job = runs.start(2, "train", recipe, env={**SLOW, "AM_CKPT_DELAY_S": "0.5@1"})
        job.wait_for(lambda: len(runs.training_log(run_dir)) >= 3, "three steps")
        send(job)
        time.sleep(0.2)
        send(job)
        result = job.end()
        self.ends(result, 6)
        self.assertEqual(len(re.findall("committed", result.err)), 1, str(result))
        self.assertEqual(len(re.findall("saving a checkpoint after", result.err)), 1, str(result))
        self.assertEqual(runs.checkpoints(run_dir), [len(runs.training_log(run_dir))])
        self.goes_on(recipe, run_dir, runs.checkpoints(run_dir)[0])

    def test_signals__one_process_without_a_launcher(self):
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir)
        job = runs.Job([runs.PROGRAM, "train", str(recipe)])
        job.wait_for(lambda: runs.training_log(run_dir), "a step")
        os.kill(job.process.pid, signal.SIGTERM)
        result = job.end()
        if result.code != 0:  # a fast machine may be through
            self.ends(result, 6, "SIGTERM: saving a checkpoint")
        self.ends(runs.run(0, "train", recipe), 0)
        self.same_curve(runs.curve(self.undisturbed), runs.curve(run_dir), 1e-5, "one process")

    def test_signals__without_checkpoints_nothing_is_promised(self):
        """Exit code 6 says that a checkpoint was committed."""
        run_dir = self.scratch.fresh()
        job = runs.start(2, "train", self.recipe(run_dir, enabled=False, save_consolidated=False), env=SLOW)
        job.wait_for(lambda: len(runs.training_log(run_dir)) >= 3, "three steps")
        os.kill(job.ranks()[1], signal.SIGTERM)
        result = job.end()
        self.ends(result, 3)
        self.one_message(result, r"step \d+ is lost: checkpoint.enabled is false")


if __name__ == "__main__":
    runs.main()
