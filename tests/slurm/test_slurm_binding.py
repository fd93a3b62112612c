#!/usr/bin/env python3
"""Ranks agree with a Slurm that binds tasks (TaskPlugin=task/affinity), and rank 0 warns of what the allocation
wastes, naming sbatch's option.  Both virtual nodes have the two cores of this machine.   test_slurm_binding.py [CASE …]"""

import os
import re
import sys

import cluster
import runs


class Binding(cluster.Case):
    settings = {"AM_SLURM_TASK": "task/affinity"}

    def placements(self, job):
        """{rank: (node, cores, of, threads)} and the warnings."""
        self.succeeds(job)
        text = job.output()
        found = {
            int(r): (node, int(cores), int(of), int(threads))
            for r, node, cores, of, threads in re.findall(
                r"\[rank (\d+)\] (\S+): (\d+) of (\d+) cores .*?, (\d+) compute thread", text
            )
        }
        return found, re.findall(r"warning: (.*(?:core|used by no rank).*)", text)

    def one_step(self, name, **run):
        return self.recipe(self.fresh(name), step_scheduler={"max_steps": 1}, run={"threads": None, **run})

    def plain(self, name, ranks, bind):
        """srun without sft.sh's care."""
        script = self.folder / f"{name}.sh"
        recipe = self.one_step(name)
        script.write_text(f"#!/bin/sh\nsrun --mpi=pmix --ntasks={ranks} --cpu-bind={bind} automodel train {recipe}\n")
        options = ("--nodes=1", "--ntasks=2", f"--output={name}-%j.out")
        return cluster.Job.submit(self.cluster, *options, script, cwd=self.folder)

    def test_slurm_binding__a_core_for_each_of_two_ranks(self):
        job = self.sft(self.one_step("two"), options=("--nodes=1", "--ntasks-per-node=2"))
        found, warnings = self.placements(job)
        self.assertEqual(found, {0: ("n1", 1, 2, 1), 1: ("n1", 1, 2, 1)})
        self.assertEqual(warnings, [], job.output())
        for rank in (0, 1):
            self.assertRegex(job.output(), rf"\[rank {rank}\] n1: .*hardware threads {rank},.*: Slurm's binding")

    def test_slurm_binding__whole_nodes(self):
        """Without --cpus-per-task the script divides a node's CPUs among its ranks."""
        job = self.sft(self.one_step("whole"), options=("--ntasks-per-node=1",))
        found, warnings = self.placements(job)
        self.assertEqual(found, {0: ("n1", 2, 2, 2), 1: ("n2", 2, 2, 2)})
        self.assertEqual(warnings, [], job.output())

    def test_slurm_binding__cores_that_no_rank_uses(self):
        """--exclusive gives the job two cores a node, and --cpus-per-task=1 lets it use one."""
        job = self.sft(self.one_step("unused"), options=("--ntasks-per-node=1", "--cpus-per-task=1", "--exclusive"))
        found, warnings = self.placements(job)
        self.assertEqual(found[1][:2], ("n2", 1))
        self.assertEqual(len(warnings), 1, job.output())
        self.assertRegex(warnings[0], r"1 of node n1's 2 cores of this job is used by no rank .*--cpus-per-task=2")

    def test_slurm_binding__two_ranks_on_one_core(self):
        job = self.plain("clash", 2, "map_cpu:0,0")
        _, warnings = self.placements(job)
        self.assertEqual(len(warnings), 2, job.output())
        self.assertRegex(warnings[0], r"ranks 0 and 1 of node n1 run on the same core .*--cpus-per-task=1")
        self.assertRegex(warnings[1], r"1 of node n1's 2 cores of this job is used by no rank")

    def test_slurm_binding__more_ranks_than_cores(self):
        script = self.folder / "crowd.sh"
        recipe = self.one_step("crowd")
        script.write_text(f"#!/bin/sh\nsrun --mpi=pmix --ntasks=4 --overcommit automodel train {recipe}\n")
        job = cluster.Job.submit(self.cluster, "--nodes=1", "--ntasks=2", "--output=crowd-%j.out", script, cwd=self.folder)
        _, warnings = self.placements(job)
        self.assertTrue(any(re.search(r"4 ranks .*2 cores", w) for w in warnings), job.output())


if __name__ == "__main__":
    if os.cpu_count() != 2:  # slurm.conf says two; with more, Slurm's numbers and the machine's are not comparable
        print(f"skipped: this machine has {os.cpu_count()} hardware threads, and the virtual nodes of this test claim two")
        sys.exit(77)
    cluster.main()
