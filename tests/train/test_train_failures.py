#!/usr/bin/env python3
"""One rank fails in the middle of a run: every process is gone within seconds, one sentence says why, the
exit code is the documented one, and what was committed before still is a checkpoint to go on from.  The
causes are real ones: a damaged chunk of data, a limit of the file system, a killed and a stopped process."""

import os
import resource
import signal
import struct
import time

import runs

SLOW = {"AM_COMM_DELAY_MS": 2}
SECONDS = 5


class Failures(runs.Case):
    def setUp(self):
        self.scratch = runs.Scratch()
        self.addCleanup(self.scratch.close)
        self.run_dir = self.scratch.fresh()

    def recipe(self, name=None, steps=400, **changes):
        changes = {
            "step_scheduler": {
                "global_batch_size": 8,
                "local_batch_size": 2,
                "max_steps": steps,
                "ckpt_every_steps": 4,
                "save_checkpoint_every_epoch": False,
            },
            **changes,
        }
        return self.scratch.recipe(self.run_dir, name, **changes)

    def running(self, ranks, recipe, steps=5, env=None):
        job = runs.start(ranks, "train", recipe, env={**SLOW, **(env or {})})
        job.wait_for(lambda: len(runs.training_log(self.run_dir)) >= steps, f"{steps} steps")
        return job, job.ranks()

    def ends_within(self, job, ranks, seconds=SECONDS):
        begin = time.monotonic()
        result = job.end()
        took = time.monotonic() - begin
        self.assertEqual(runs.gone(ranks.values(), seconds - took), [], str(result))
        self.assertLess(took, seconds, str(result))
        runs.note(f"all gone after {took:.1f} s")
        return result

    def checkpoints_are_sound(self):
        """What was committed is valid: a short run goes on from the last one."""
        last = runs.checkpoints(self.run_dir)[-1]
        result = runs.run(2, "train", self.recipe("again", steps=last + 1))
        self.ends(result, 0, f"resuming after step {last} of {last + 1}")

    # ---- data --------------------------------------------------------------------------------------------

    def test_failures__a_damaged_chunk_that_one_rank_reads(self):
        """One sequence a shard, in order: step s of two ranks reads shards 2s and 2s+1, so shard 21 is rank
        1's, in its eleventh step."""
        data = self.scratch.shards("single", shards=60, sequences=1, min=24, max=24)
        path = data / "shard-00021-of-00060.h5"
        content = bytearray(path.read_bytes())
        at = self.first_tokens(content)
        content[at + 40] ^= 0x10
        path.write_bytes(content)
        changes = {
            "dataset": {"data_dir": str(data), "seq_length": 32},
            "packed_sequence": None,
            "dataloader": {"shuffle": False},
            "step_scheduler": {
                "global_batch_size": 2,
                "local_batch_size": 1,
                "ckpt_every_steps": 4,
                "save_checkpoint_every_epoch": False,
            },
        }
        recipe = self.scratch.recipe(self.run_dir, **changes)
        job, ranks = self.running(2, recipe, steps=9)
        result = self.ends_within(job, ranks)
        self.ends(result, 3)
        self.one_message(result, r"\[rank 1\] error: .*shard-00021-of-00060\.h5")
        self.assertEqual([line["step"] for line in runs.training_log(self.run_dir)], list(range(1, 11)))
        self.assertEqual(runs.checkpoints(self.run_dir), [4, 8])
        # the shard repaired, the run goes on
        content[at + 40] ^= 0x10
        path.write_bytes(content)
        self.ends(runs.run(2, "train", recipe), 0, "resuming after step 8 of 12")

    def first_tokens(self, content):
        """Offset of the token data: 24 numbers of 32 bits, the first 1 (bos), the others from 3 to 34, then
        zeros to the end of the chunk."""
        for at in range(0, len(content) - 200, 4):
            if content[at : at + 4] == b"\1\0\0\0":
                tokens = struct.unpack_from("<25I", content, at)
                if all(3 <= t < 35 for t in tokens[1:24]) and tokens[24] == 0:
                    return at
        self.fail("the tokens are not found in the shard")

    # ---- file system -------------------------------------------------------------------------------------

    def not_committed(self, result):
        """Takes the reports of failed saves out of the result: they do not end a run."""
        found = [line for line in result.err.splitlines() if "is not committed" in line]
        result.err = "\n".join(line for line in result.err.splitlines() if line not in found)
        return found

    def limit(self, pid, size):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def test_failures__a_checkpoint_that_cannot_be_written(self):
        """From its fifth step on rank 1 may write no file of more than 4 kB, as on a file system that is
        full: the save fails, is reported, training goes on; at the end of the run the exit code tells that
        the last checkpoint is not there.
        """
        job, ranks = self.running(2, self.recipe(steps=40), steps=5)
        self.limit(ranks[1], 4096)
        result = job.end()
        self.ends(result, 3)
        saves = self.not_committed(result)
        self.assertRegex(
            saves[-1],
            "step_00000040 is not committed; the one before stays the latest: "
            "rank 1: cannot write .*File too large",
        )
        self.one_message(result, "step 40 is lost: its checkpoint was not committed")
        self.assertEqual(len(runs.training_log(self.run_dir)), 40, "training goes on")
        last = runs.checkpoints(self.run_dir)[-1]
        self.assertLess(last, 40)
        self.assertEqual(last + 4 * len(saves), 40, "each save that failed was reported, once")
        self.ends(runs.run(2, "train", self.recipe(steps=40)), 0, f"resuming after step {last} of 40")

    def test_failures__interrupted_and_not_saved(self):
        job, ranks = self.running(2, self.recipe(), steps=5)
        self.limit(ranks[1], 4096)
        os.kill(ranks[0], signal.SIGTERM)
        result = job.end()
        self.ends(result, 3)  # not 6: nothing was committed
        self.assertEqual(len(self.not_committed(result)), 1)
        self.one_message(result, r"step \d+ is lost: its checkpoint was not committed")
        self.checkpoints_are_sound()

    def test_failures__the_log_cannot_be_written(self):
        """Rank 0 alone writes it; the other ranks must not wait for rank 0."""
        job, ranks = self.running(
            2, self.recipe(checkpoint={"enabled": False, "save_consolidated": False}), steps=5
        )
        self.limit(ranks[0], os.path.getsize(self.run_dir / "training.jsonl"))
        result = self.ends_within(job, ranks)
        self.ends(result, 3)
        self.one_message(result, r"\[rank 0\] error: .*training\.jsonl")

    # ---- processes ---------------------------------------------------------------------------------------

    def test_failures__a_killed_rank(self):
        for ranks in (2, 4):
            self.run_dir = self.scratch.fresh()
            job, pids = self.running(ranks, self.recipe())
            os.kill(pids[1], signal.SIGKILL)
            result = self.ends_within(job, pids)
            self.assertEqual(result.code, 128 + signal.SIGKILL, str(result))
            self.assertRegex(result.err, "rank 1 .*signal 9")
            self.checkpoints_are_sound()

    def test_failures__a_killed_rank_during_an_asynchronous_save(self):
        """Between its data and the manifest: there is no checkpoint of that step, and the next save is
        clean."""
        job, pids = self.running(
            2, self.recipe(checkpoint={"is_async": True}), steps=5, env={"AM_CKPT_DELAY_S": "20@1"}
        )
        os.kill(pids[1], signal.SIGKILL)
        self.assertEqual(self.ends_within(job, pids).code, 128 + signal.SIGKILL)
        self.assertEqual(runs.checkpoints(self.run_dir), [], "a step was committed that rank 1 never wrote")
        result = runs.run(2, "train", self.recipe("again", steps=4))
        self.ends(result, 0)
        self.assertNotRegex(result.err, "resuming")
        self.assertEqual(runs.checkpoints(self.run_dir), [4])

    def test_failures__a_stopped_rank(self):
        """The watchdog of the others: after timeout_minutes one of them names the rank, the collective and
        its number; it has asked the silent rank for 2 s before.  A stopped process cannot end itself; the
        launcher kills it.  In a grid of 2 x 2 ranks 0 and 1 wait for others that wait themselves: a rank that
        waits for the stopped one has to speak."""
        timeout = 2.4
        for replicas in (1, 2):
            self.run_dir = self.scratch.fresh()
            job, pids = self.running(
                4,
                self.recipe(
                    dist_env={"timeout_minutes": timeout / 60}, distributed={"dp_replicate_size": replicas}
                ),
            )
            os.kill(pids[3], signal.SIGSTOP)
            result = self.ends_within(job, pids, timeout + 2 + SECONDS)
            self.ends(result, 7)
            self.assertGreaterEqual(result.seconds, timeout)
            inside = r"'[a-z_]+ layer -?\d+' \(.*sequence \d+ of group dp_[a-z_+]+ = ranks [012 ]*3,"
            between = r"the control call '[a-z]+' \(number \d+"  # steps, in a save
            waited = r"rank [012] waited 2\.4 s for "
            self.one_message(result, f"{waited}({inside}|{between})", "rank 3 does not answer")
        self.checkpoints_are_sound()

    def test_failures__a_slow_rank_is_no_dead_one(self):
        """Stopped for less than the timeout, and slow to write: the run goes on and its numbers do not
        know."""
        recipe = self.recipe(steps=12, dist_env={"timeout_minutes": 3 / 60})
        job, pids = self.running(2, recipe, env={"AM_CKPT_DELAY_S": "1.5@1"})
        os.kill(pids[1], signal.SIGSTOP)
        time.sleep(1.2)
        os.kill(pids[1], signal.SIGCONT)
        self.ends(job.end(), 0)
        slow = runs.curve(self.run_dir)
        self.run_dir = self.scratch.fresh()
        self.ends(runs.run(2, "train", self.recipe(steps=12)), 0)
        self.assertEqual(slow, runs.curve(self.run_dir))


if __name__ == "__main__":
    runs.main()
