#!/usr/bin/env python3
"""What `automodel doctor` says about Slurm: the plugins that srun lists, with an srun of the test's own in
PATH, and the allocation of the job it runs in, from Slurm's variables."""

import json
import os
import pathlib
import tempfile
import time

import installed
from installed import PROGRAM, run

# What `srun --mpi=list` prints: Slurm 22.05's words (on stdout), and those of 20.11 (on stderr).
LIST_22_WITHOUT = "MPI plugin types are...\n\tnone\n\tcray_shasta\n\tpmi2\n"
LIST_22 = LIST_22_WITHOUT + "\tpmix\nspecific pmix plugin versions available: pmix_v4\n"
LIST_20 = "srun: MPI types are...\nsrun: none\nsrun: pmix_v3\nsrun: pmix\nsrun: pmi2\n"


class Doctor(installed.Case):
    def check(self, name, env=None, code=0):
        """The entry of that name in the report, None where there is none."""
        done = run(
            [PROGRAM, "doctor", "--json"],
            {"AM_CARDS": str(installed.SOURCE / "configs" / "models"), **(env or {})},
        )
        self.assertEqual(done.code, code, str(done))
        found = [c for c in json.loads(done.out)["checks"] if c["name"] == name]
        return found[0] if found else None

    def slurm(self, script, name="Slurm"):
        folder = tempfile.mkdtemp(dir=self.scratch)
        srun = os.path.join(folder, "srun")
        with open(srun, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\n" + script)
        os.chmod(srun, 0o755)
        return self.check(name, {"PATH": f"{folder}:{installed.ENV['PATH']}"})

    def says(self, text, stream=1):
        return f"[ \"$*\" = --mpi=list ] || exit 9\ncat >&{stream} <<'END'\n{text}END\n"

    def test_doctor__slurm_with_pmix(self):
        for script in (self.says(LIST_22), self.says(LIST_20, 2)):
            found = self.slurm(script)
            self.assertIs(found["ok"], True)
            self.assertNotIn("note", found)
            self.assertIn("srun --mpi=pmix", found["found"])

    def test_doctor__slurm_without_pmix(self):
        for script in (self.says(LIST_22_WITHOUT), self.says(LIST_22_WITHOUT + "\tnopmix\n\tpmix2\n")):
            found = self.slurm(script)
            self.assertTrue(found["ok"] and found["note"])
            self.assertIn(
                "no pmix plugin (srun --mpi=list: MPI plugin types are... none cray_shasta pmi2",
                found["found"],
            )
            self.assertIn(
                "start ranks with mpirun inside the allocation; slurm/sft.sh does so by itself",
                found["found"],
            )

    def test_doctor__srun_without_a_slurm(self):
        found = self.slurm(
            "echo 'srun: error: no' >&2\n"
            "echo 'srun: fatal: Could not establish a configuration source' >&2\nexit 1\n"
        )
        self.assertTrue(found["ok"] and found["note"])
        self.assertIn(
            "no Slurm answers it (srun: fatal: Could not establish a configuration source)", found["found"]
        )

    def test_doctor__srun_that_hangs(self):
        """It and what it started are ended after 5 s."""
        mark = os.path.join(self.scratch, "pids")
        start = time.monotonic()
        found = self.slurm(f"sleep 60 &\necho $$ $! > {mark}\nwait\n")
        self.assertLess(time.monotonic() - start, 15)
        self.assertTrue(found["ok"] and found["note"])
        self.assertIn("srun --mpi=list gave no answer in 5 s", found["found"])
        with open(mark, encoding="utf-8") as f:
            pids = f.read().split()
        end = time.monotonic() + 5
        while any(self.runs(p) for p in pids) and time.monotonic() < end:
            time.sleep(0.1)
        self.assertEqual([p for p in pids if self.runs(p)], [])

    @staticmethod
    def runs(pid):
        """A process that nobody waited for yet is over too."""
        try:
            return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        except FileNotFoundError:
            return False

    def test_doctor__srun_that_says_a_lot(self):
        found = self.slurm(
            "i=0; while [ $i -lt 3000 ]; do echo 'a line of sixty characters, to fill the pipe and more …'; "
            "i=$((i + 1)); done\n"
        )
        self.assertIn("no pmix plugin", found["found"])

    def test_doctor__no_slurm(self):
        folder = tempfile.mkdtemp(dir=self.scratch)
        os.symlink("/bin/true", os.path.join(folder, "mpirun"))
        env = {"PATH": folder}
        self.assertIsNone(self.check("Slurm", env))
        self.assertIsNone(self.check("allocation", env))

    def test_doctor__in_a_job(self):
        job = {
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURMD_NODENAME": "n1",
            "SLURM_NTASKS": "8",
            "SLURM_NPROCS": "8",
            "SLURM_TASKS_PER_NODE": "4(x2)",
            "SLURM_CPUS_PER_TASK": "3",
            "SLURM_JOB_CPUS_PER_NODE": "12(x2)",
            "SLURM_CPUS_ON_NODE": "12",
            "SLURM_MEM_PER_NODE": "2000",
            "SLURM_RESTART_COUNT": "1",
        }
        found = self.check("allocation", job)
        for text in (
            "job 4711",
            "node n1 of 2",
            "8 ranks",
            "at most 4 a node",
            "--cpus-per-task=3",
            "12 CPUs of this node",
            "2.10 GB of its memory (--mem)",
            "requeued 1 time.",
        ):
            self.assertIn(text, found["found"] + ".")

    def test_doctor__variables_that_no_slurm_wrote(self):
        found = self.check("allocation", {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "many"}, code=4)
        self.assertIs(found["ok"], False)
        self.assertIn("SLURM_NTASKS", found["found"])
        self.assertIn("many", found["found"])


if __name__ == "__main__":
    installed.main()
