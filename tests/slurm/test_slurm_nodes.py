#!/usr/bin/env python3
"""A node that dies under a job: its daemon alone, and all that runs on it.  Slurm finds out and queues the job
again; it goes on when the node is back, with the bits of an undisturbed run.   test_slurm_nodes.py [CASE …]"""

import contextlib
import os
import pathlib
import time

import cluster
import runs


class Nodes(cluster.Case):
    settings = {"AM_SLURM_TIMEOUT": 1}  # Slurm's default is 300 s, which this test will not wait for

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.undisturbed = cls.cluster.scratch.fresh("mpirun")
        result = runs.run(2, "train", cls.cluster.scratch.recipe(cls.undisturbed, **cls.long()))
        if result.code != 0:
            raise AssertionError(str(result))

    @staticmethod
    def long():
        return {"step_scheduler": {"max_steps": 40, "ckpt_every_steps": 4}}

    def daemons(self, job, node):
        """slurmstepd processes of the job on the node."""
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                command = pathlib.Path("/proc", entry, "cmdline").read_bytes()
                env = pathlib.Path("/proc", entry, "environ").read_bytes().split(b"\0")
                ours = f"SLURM_CONF={self.cluster.env['SLURM_CONF']}".encode() in env
                if command.startswith(b"slurmstepd") and ours and f"SLURMD_NODENAME={node}".encode() in env:
                    found.append(int(entry))
        return found

    def lost(self, name, victims):
        run_dir = self.fresh(name)
        job = self.sft(
            self.recipe(run_dir, **self.long()), options=("--ntasks-per-node=1",), env={"AM_COMM_DELAY_MS": 15}
        )
        job.until_step(run_dir, 5)
        ranks, dying = job.processes(), victims(job)
        self.assertEqual(len(ranks), 2)
        cluster.kill(dying)
        begin = time.monotonic()
        # 4 s until this Slurm misses the node, and up to the 5 s that slurmd leaves between SIGTERM and SIGKILL; on a
        # busy machine more
        job.until(lambda: not runs.alive(ranks), "the end of all ranks", 30)
        runs.note(f"all ranks gone {time.monotonic() - begin:.1f} s after the kill")
        job.until(lambda: job.field("Restarts") == "1", "a requeue")
        self.cluster.restart("n2")
        self.succeeds(job)
        self.assertRegex(job.output(), r"start 2: (.|\n)*resuming after step \d+ of 40")
        self.assertEqual(runs.curve(run_dir), runs.curve(self.undisturbed))
        self.assertEqual(runs.export_bytes(run_dir, 40), runs.export_bytes(self.undisturbed, 40))

    def test_slurm_nodes__slurmd_is_killed(self):
        """The ranks are alive until Slurm misses the node; then they are asked to save, and killed."""
        self.lost("slurmd", lambda job: [self.cluster.pid_of("slurmd.n2")])

    def test_slurm_nodes__a_node_is_gone(self):
        self.lost(
            "node",
            lambda job: [self.cluster.pid_of("slurmd.n2"), *self.daemons(job, "n2"), *job.processes("n2")],
        )


if __name__ == "__main__":
    cluster.main()
