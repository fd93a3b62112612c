#!/usr/bin/env python3
"""What a batch job is refused for, each with one sentence and an exit code that a script can act upon.
test_slurm_refusals.py [CASE …]"""

import re
import shutil
import subprocess
import unittest

import cluster
import runs


def sentence(job):
    """The one error of automodel in a job's output."""
    lines = [x for x in job.output().splitlines() if re.match(r"automodel: (\[[^\]]*\] )?error: ", x)]
    if len(lines) != 1:
        raise AssertionError(f"{len(lines)} errors:\n{job.output()}")
    return lines[0]


class Refusals(cluster.Case):
    def refused(self, job, code, *words):
        self.assertEqual(job.end(), ("FAILED", code), job.output())
        for word in words:
            self.assertRegex(sentence(job), word)

    def test_slurm_refusals__not_a_batch_job(self):
        for script in ("sft.sh", "llama70b_sft.sh"):
            done = subprocess.run(
                ["bash", f"slurm/{script}"], cwd=self.folder, capture_output=True, text=True, env=self.cluster.env
            )
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("this is a batch script: CONFIG=", done.stderr)

    def test_slurm_refusals__no_automodel(self):
        tools = self.folder / "only_slurm"
        tools.mkdir(exist_ok=True)
        job = self.sft("any.yaml", env={"PATH": f"{tools}:/usr/bin:/bin"})
        self.assertEqual(job.end(), ("FAILED", 4), job.output())
        self.assertIn("there is no automodel in PATH on n1: module load automodel before sbatch", job.output())

    def test_slurm_refusals__no_recipe(self):
        self.refused(self.sft("there_is_none.yaml"), 2, r"there_is_none\.yaml")

    def test_slurm_refusals__an_unknown_launcher(self):
        job = self.sft(self.recipe(self.fresh("launcher")), env={"AM_LAUNCHER": "rsh"})
        self.assertEqual(job.end(), ("FAILED", 2), job.output())
        self.assertIn("AM_LAUNCHER is srun or mpirun, not rsh", job.output())

    def test_slurm_refusals__no_mpirun_either(self):
        """A Slurm without PMIx, and no mpirun: the sentence shows what Slurm has."""
        tools = self.folder / "no_mpirun"
        tools.mkdir(exist_ok=True)
        for name in ("sbatch", "squeue", "scontrol", "bash", "sed", "sort", "head", "tr", "grep", "hostname"):
            link = tools / name
            link.unlink(missing_ok=True)
            link.symlink_to(shutil.which(name, path=self.cluster.env["PATH"]))
        (tools / "automodel").unlink(missing_ok=True)
        (tools / "automodel").symlink_to(runs.PROGRAM)
        (tools / "srun").write_text('#!/bin/sh\nprintf "MPI plugin types are...\\n\\tnone\\n\\tpmi2\\n"\n')
        (tools / "srun").chmod(0o755)
        env = {"PATH": str(tools), "AM_CARDS": str(cluster.SOURCE / "configs" / "models")}
        job = self.sft(self.recipe(self.fresh("no_mpirun")), env=env)
        self.assertEqual(job.end(), ("FAILED", 4), job.output())
        self.assertRegex(job.output(), r"no pmix plugin \(srun --mpi=list: .*none +pmi2 *\), and there is no mpirun in PATH")

    def test_slurm_refusals__srun_without_pmix(self):
        """Each task would train alone."""
        script = self.folder / "plain_srun.sh"
        script.write_text(f'#!/bin/sh\nsrun --mpi=none --ntasks=2 automodel train {self.recipe(self.fresh("plain"))}\n')
        job = cluster.Job.submit(self.cluster, "--nodes=2", "--ntasks=2", "--output=plain-%j.out", script, cwd=self.folder)
        state, code = job.end()
        self.assertEqual((state, code), ("FAILED", 4), job.output())
        self.assertIn("start them with 'srun --mpi=pmix'", job.output())

    def test_slurm_refusals__ranks_that_the_batch_does_not_divide(self):
        run_dir = self.fresh("ranks")
        job = self.sft(self.recipe(run_dir, step_scheduler={"global_batch_size": 6}))
        self.refused(job, 2, r"global_batch_size = 6 is no multiple of .* 1 × 4")
        self.assertFalse(run_dir.exists(), "nothing was begun")

    def test_slurm_refusals__memory_of_the_allocation(self):
        run_dir = self.fresh("memory")
        job = self.sft(self.recipe(run_dir), options=("--ntasks-per-node=2", "--mem=100"))
        self.refused(job, 4, r"2 ranks of a node 0\.1\d GB, and 0\.10 GB are there \(--mem of Slurm job \d+\)")
        self.assertFalse(run_dir.exists(), "nothing was begun")

    def test_slurm_refusals__two_jobs_in_one_run_directory(self):
        slow = self.fresh("held")
        recipe = self.recipe(slow)
        first = self.sft(recipe, options=("--nodes=1", "--ntasks-per-node=2", "--nodelist=n1"), env={"AM_COMM_DELAY_MS": 40})
        first.until_step(slow, 1)
        second = self.sft(recipe, options=("--nodes=1", "--ntasks-per-node=2", "--nodelist=n2"))
        self.refused(second, 4, rf"Slurm job {first.id}\b", "n1", re.escape(str(slow)))
        self.succeeds(first)
        undisturbed = self.fresh("undisturbed")
        self.ends(runs.run(2, "train", self.recipe(undisturbed)), 0)
        self.assertEqual(runs.curve(slow), runs.curve(undisturbed))


class LocalDisks(cluster.Case):
    """A folder of which each node has its own."""

    @classmethod
    def setUpClass(cls):
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
            raise unittest.SkipTest("no mount namespaces here (unshare --mount): a node cannot have a disk of its own")
        private = runs.Scratch()
        cls.addClassCleanup(private.close)
        cls.local = private.dir / "local"
        cls.local.mkdir()
        cls.settings = {"AM_SLURM_PRIVATE": cls.local}
        super().setUpClass()

    def on_node(self, node, command):
        script = self.folder / "on_node.sh"
        script.write_text(f"#!/bin/sh\n{command}\n")
        job = cluster.Job.submit(self.cluster, f"--nodelist={node}", "--output=on_node-%j.out", script, cwd=self.folder)
        self.succeeds(job)
        return job.output()

    def test_slurm_refusals__a_recipe_that_one_node_lacks(self):
        recipe = self.recipe(self.fresh("lacks"))
        self.on_node("n1", f"cp {recipe} {self.local}/r.yaml")
        self.assertNotIn("r.yaml", self.on_node("n2", f"ls {self.local}"))
        job = self.sft(self.local / "r.yaml")
        self.assertEqual(job.end(), ("FAILED", 2), job.output())
        self.assertRegex(sentence(job), rf"\[rank [23] n2\] error: the recipe cannot be read: .*{self.local}/r\.yaml")

    def test_slurm_refusals__a_run_directory_that_one_node_does_not_see(self):
        job = self.sft(self.recipe(self.local / "run"))
        self.assertEqual(job.end(), ("FAILED", 4), job.output())
        self.assertRegex(sentence(job), rf"rank [23] .*n2.*{self.local}/run.* n1")


class Llama70B(cluster.Case):
    """The check of slurm/llama70b_sft.sh in allocations that are stated, by a Slurm whose nodes claim to have them."""

    settings = {"AM_SLURM_NODES": 8, "AM_SLURM_CPUS": 64, "AM_SLURM_MEMORY": 500_000}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        (cls.folder / "configs").symlink_to(cluster.SOURCE / "configs")

    def submit(self, *options):
        """(sbatch's options …, "--", the script's arguments …)"""
        at = options.index("--")
        script = ("slurm/llama70b_sft.sh", "--dry-run", *options[at + 1 :])
        return cluster.Job.submit(self.cluster, *options[:at], *script, cwd=self.folder)

    def test_slurm_refusals__llama70b_fits_into_its_allocation(self):
        job = self.submit("--mem=400G", "--", "--memory-per-node=480GiB")
        self.succeeds(job)
        self.assertRegex(job.output(), r"64 ranks of 8 CPUs on n\[1-8\], configs/llama3_70b_sft\.yaml")
        self.assertRegex(job.output(), r"total +41910768512 bytes")
        self.assertRegex(job.output(), r"memory: 55\.21 GB a rank .*, 441\.65 GB for the 8 of a node, of 515\.40 GB")
        runs.note(re.search(r"memory: .*", job.output()).group(0))

    def test_slurm_refusals__llama70b_on_too_few_nodes(self):
        job = self.submit("--mem=400G", "--nodes=2", "--", "--memory-per-node=480GiB")
        self.assertEqual(job.end(), ("FAILED", 4), job.output())
        self.assertIn("it fits with sbatch --nodes=8 --ntasks-per-node=8 (55.21 GB a rank)", sentence(job))

    def test_slurm_refusals__llama70b_and_what_is_there(self):
        """Without the statement the node itself is asked."""
        job = self.submit("--mem=1G", "--")
        self.assertEqual(job.end(), ("FAILED", 4), job.output())
        self.assertRegex(sentence(job), r"441\.65 GB, and 1\.07 GB are there \(--mem of Slurm job \d+\)")


if __name__ == "__main__":
    cluster.main()
