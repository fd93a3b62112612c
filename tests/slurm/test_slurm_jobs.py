#!/usr/bin/env python3
"""slurm/sft.sh in a Slurm of two nodes: the same numbers as under mpirun, and what happens to a job that is
signalled, cancelled, requeued, or loses a rank or a node.   test_slurm_jobs.py [CASE …]"""

import json
import random
import re
import socket
import time

import cluster
import runs

SLOW = {"AM_COMM_DELAY_MS": 20}  # a step then takes long enough to be hit


class Jobs(cluster.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.undisturbed = cls.cluster.scratch.fresh("mpirun")
        recipe = cls.cluster.scratch.recipe(cls.undisturbed, name="mpirun")
        result = runs.run(4, "train", recipe)
        if result.code != 0:
            raise AssertionError(str(result))

    def same_bits(self, run_dir):
        """Log and exported weights of the run that mpirun did at one go, on the same number of ranks."""
        self.assertEqual(runs.curve(run_dir), runs.curve(self.undisturbed))
        self.assertEqual(runs.export_bytes(run_dir, 12), runs.export_bytes(self.undisturbed, 12))

    def test_slurm_jobs__two_nodes_train_as_mpirun_does(self):
        run_dir = self.fresh("two_nodes")
        job = self.sft(self.recipe(run_dir))
        self.succeeds(job)
        self.same_bits(run_dir)
        self.assertRegex(job.output(), r"job \d+, start 1: 4 ranks of 1 CPUs on n\[1-2\]")
        record = json.loads((run_dir / "run.json").read_text())
        self.assertEqual(record["slurm"], {"job": job.id, "nodes": 2, "restarts": 0})
        self.assertEqual(len(record["placements"]), 4)
        for rank in range(4):
            self.assertRegex(record["placements"][rank], rf"^rank {rank} on n{1 + rank // 2}: 1 of")
            self.assertRegex(job.output(), rf"\[rank {rank}[^\]]*\] n{1 + rank // 2}: 1 of", "ranks in blocks a node")

    def test_slurm_jobs__a_slurm_without_pmix(self):
        """mpirun inside the allocation; B:USR1 reaches its ranks through the script."""
        run_dir = self.fresh("mpirun_inside")
        fake = self.folder / "bin"
        fake.mkdir(exist_ok=True)
        srun = self.cluster.ask("which", "srun")
        (fake / "srun").write_text(
            f'#!/bin/sh\n[ "$1" = --mpi=list ] && {{ echo "MPI plugin types are..."; echo "\tnone"; echo "\tpmi2"; exit 0; }}\nexec {srun} "$@"\n'
        )
        (fake / "srun").chmod(0o755)
        job = self.sft(self.recipe(run_dir), env={"PATH": f"{fake}:{self.cluster.env['PATH']}", **SLOW})
        job.until_step(run_dir, 2)
        self.cluster.ask("scancel", "--batch", "--signal=USR1", job.id)
        job.until(lambda: "back into the queue" in job.output(), "a requeue")
        self.assertIn("this Slurm has no pmix plugin: starting the ranks with mpirun", job.output())
        self.succeeds(job)
        self.same_bits(run_dir)
        self.assertIn("resuming after step", job.output())

    def requeued(self, name, send, before_it_runs_again=lambda job: None):
        run_dir = self.fresh(name)
        job = self.sft(self.recipe(run_dir), env=SLOW)
        job.until_step(run_dir, 2)
        send(job)
        job.until(lambda: job.field("Restarts") == "1", "a requeue")
        before_it_runs_again(job)
        committed = runs.checkpoints(run_dir)
        self.assertLess(committed[-1], 12, "the signal came before the end")
        self.succeeds(job)
        self.same_bits(run_dir)
        self.assertRegex(job.output(), rf"start 2: .*(.|\n)*resuming after step {committed[-1]} of 12")
        return job

    def test_slurm_jobs__usr1_to_the_ranks_requeues(self):
        job = self.requeued("usr1", lambda job: self.cluster.ask("scancel", "--signal=USR1", job.id))
        self.assertRegex(job.output(), r"SIGUSR1: saving a checkpoint after step \d+ and leaving")

    def test_slurm_jobs__usr1_to_the_script_requeues(self):
        job = self.requeued("b_usr1", lambda job: self.cluster.ask("scancel", "--batch", "--signal=USR1", job.id))
        self.assertIn("sft.sh: a signal came", job.output())

    def test_slurm_jobs__a_socket_that_a_killed_step_left(self):
        """Slurm's pmix plugin leaves it when a slurmstepd is killed, and starts no step of the same number on that node again."""

        def leave(job):
            job.until(lambda: job.state() == "PENDING", "the end of the first start")
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(self.cluster.dir / "spool.n2" / f"stepd.slurm.pmix.{job.id}.0"))

        self.requeued("socket", lambda job: self.cluster.ask("scancel", "--signal=USR1", job.id), leave)

    def test_slurm_jobs__usr1_while_the_job_is_starting(self):
        """At random moments of the first 0.4 s of the script, while it, srun, or MPI is on: nothing is lost, and it runs later.
        (A signal that comes before there is a script is dropped by Slurm; the job then knows nothing of it.)"""
        jobs = []
        for _ in range(6):
            run_dir = self.fresh("early")
            job = self.sft(self.recipe(run_dir, step_scheduler={"max_steps": 6}), env={"AM_COMM_DELAY_MS": 5})
            job.until(lambda: "start 1" in job.output(), "its start")
            delay = random.uniform(0, 0.4)
            time.sleep(delay)
            self.cluster.ask("scancel", "--batch", "--signal=USR1", job.id)
            # srun may drop the first one while it starts ranks; the script sends the next after 10 s, and this job is shorter
            job.until(
                lambda: job.field("Restarts") == "1" or job.state() == "COMPLETED",
                f"a requeue or its end after a signal at {delay:.3f} s",
            )
            jobs.append((job, run_dir, delay))
        for job, run_dir, delay in jobs:
            self.succeeds(job)
            self.assertEqual(len(runs.training_log(run_dir)), 6, f"after a signal at {delay:.3f} s\n{job.output()}")

    def test_slurm_jobs__a_job_that_may_not_be_requeued(self):
        run_dir = self.fresh("no_requeue")
        job = self.sft(self.recipe(run_dir), options=("--ntasks-per-node=2", "--no-requeue"), env=SLOW)
        job.until_step(run_dir, 2)
        self.cluster.ask("scancel", "--signal=USR1", job.id)
        self.assertEqual(job.end(), ("FAILED", 6), job.output())
        self.assertIn("it could not be requeued; sbatch the same again to go on", job.output())
        self.assertEqual(runs.checkpoints(run_dir)[-1], len(runs.training_log(run_dir)), "no step is lost")

    def test_slurm_jobs__usr1_twice_is_one_save(self):
        def twice(job):
            self.cluster.ask("scancel", "--batch", "--signal=USR1", job.id)
            self.cluster.ask("scancel", "--signal=USR1", job.id, check=False)

        job = self.requeued("twice", twice)
        self.assertEqual(len(re.findall(r"saving a checkpoint after step", job.output())), 1, job.output())

    def test_slurm_jobs__preemption_requeues(self):
        """A job of a partition of higher priority takes the nodes; SIGTERM, and the grace time is enough for a checkpoint."""

        def urgent(job):
            script = self.folder / "urgent.sh"
            script.write_text("#!/bin/sh\nsleep 1\n")
            options = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=urgent-%j.out")
            self.urgent = cluster.Job.submit(self.cluster, *options, script, cwd=self.folder)

        job = self.requeued("preempted", urgent)
        self.succeeds(self.urgent)
        self.assertRegex(job.output(), r"SIGTERM: saving a checkpoint after step \d+ and leaving")

    def test_slurm_jobs__the_time_limit_comes_near(self):
        """#SBATCH --signal=B:USR1@300 as on the command line.  Slurm looks at limits every 30 s and signals up to 30 s early:
        here 20 to 50 s after the start, when steps have been made, and 70 s or more before the end."""
        run_dir = self.fresh("limit")
        long = {"step_scheduler": {"max_steps": 400, "ckpt_every_steps": 400}, "checkpoint": {"save_consolidated": None}}
        job = self.sft(
            self.recipe(run_dir, **long),
            options=("--ntasks-per-node=1", "--time=2", "--signal=B:USR1@70"),
            env={"AM_COMM_DELAY_MS": 50},
        )
        job.until(lambda: job.field("Restarts") == "1", "a requeue before the limit")
        self.assertIn("sft.sh: a signal came", job.output())
        self.assertEqual(runs.checkpoints(run_dir)[-1], len(runs.training_log(run_dir)), "no step is lost")
        self.assertLess(runs.checkpoints(run_dir)[-1], 400)
        self.cluster.ask("scancel", job.id)
        self.assertEqual(job.end()[0], "CANCELLED")

    def test_slurm_jobs__a_cancelled_job_stays_cancelled(self):
        run_dir = self.fresh("cancelled")
        job = self.sft(self.recipe(run_dir), env=SLOW)
        job.until_step(run_dir, 2)
        self.cluster.ask("scancel", job.id)
        self.assertEqual(job.end()[0], "CANCELLED", job.output())
        time.sleep(1)
        self.assertEqual((job.state(), job.field("Restarts")), ("CANCELLED", "0"), job.output())
        self.assertEqual(job.processes(), [])

    def test_slurm_jobs__a_killed_rank_ends_all(self):
        run_dir = self.fresh("rank_killed")
        recipe = self.recipe(run_dir)
        job = self.sft(recipe, env=SLOW)
        job.until_step(run_dir, 3)
        victim, others = job.processes("n2")[:1], job.processes()
        self.assertEqual(len(others), 4)
        cluster.kill(victim)
        begin = time.monotonic()
        job.until(lambda: not runs.alive(others), "the end of all ranks", 10)
        runs.note(f"all ranks gone {time.monotonic() - begin:.1f} s after SIGKILL of one")
        self.assertEqual(job.end(), ("FAILED", 4), job.output())
        self.assertRegex(job.output(), r"a rank or its node was killed \(exit code \d+\)")
        self.assertEqual(job.field("Restarts"), "0", "a death is not requeued as an interruption is")
        again = self.sft(recipe)
        self.succeeds(again)
        self.assertRegex(again.output(), r"resuming after step \d+ of 12")
        self.same_bits(run_dir)

    def test_slurm_jobs__an_array_of_jobs(self):
        run_dir = self.fresh("array")
        job = self.sft(
            self.recipe(run_dir, checkpoint={"enabled": False, "save_consolidated": None}),
            f"--run.dir={run_dir}_%a",
            "--rng.seed=%a",
            options=("--array=1-2", "--ntasks-per-node=1", "--output=array-%A_%a.out"),
        )
        job.until(lambda: self.cluster.ask("squeue", "-h", "-j", job.id, check=False) == "", "the array's end")
        seeds = [re.search(r"seed: (\d+)", (run_dir.parent / f"{run_dir.name}_{a}" / "config.yaml").read_text()).group(1) for a in (1, 2)]
        self.assertEqual(seeds, ["1", "2"])
        curves = [runs.curve(f"{run_dir}_{a}") for a in (1, 2)]
        self.assertEqual([len(c) for c in curves], [12, 12])
        self.assertNotEqual(*curves)


if __name__ == "__main__":
    cluster.main()
