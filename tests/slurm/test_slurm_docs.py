#!/usr/bin/env python3
"""Every command of docs/slurm.md, in its order, as a user would type them: in a folder with a model and data, with automodel
installed as a module, in a Slurm of eight nodes.  JOB is the last number that sbatch printed.   test_slurm_docs.py"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import cluster
import runs

PAGE = cluster.SOURCE / "docs" / "slurm.md"
MODULE_INITS = ("/usr/share/lmod/lmod/init/bash", "/usr/share/modules/init/bash")


def commands():
    """(line number, command) of the page's code blocks"""
    return [(n, line.strip()) for n, line in enumerate(PAGE.read_text().splitlines(), 1) if re.match(r"    \S", line)]


class Docs(cluster.Case):
    settings = {"AM_SLURM_NODES": 8, "AM_SLURM_CPUS": 64, "AM_SLURM_MEMORY": 500_000}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        (cls.folder / "slurm").unlink()  # the user copies them
        (cls.folder / "tools").symlink_to(cluster.SOURCE / "tools")
        cls.prefix = cls.cluster.scratch.dir / "prefix"
        subprocess.run(["cmake", "--install", runs.BUILD, "--prefix", cls.prefix], check=True, stdout=subprocess.DEVNULL)
        model = cls.folder / "demo" / "model"
        subprocess.run([sys.executable, cluster.SOURCE / "tools" / "make_demo_model.py", model], check=True)
        (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": cls.template()}))
        (cls.folder / "demo" / "data").mkdir()
        for name, words in (("train", range(200)), ("heldout", range(200, 220))):
            chats = [cls.chat(i) for i in words]
            (cls.folder / "demo" / "data" / f"{name}.jsonl").write_text("".join(json.dumps(c) + "\n" for c in chats))
        cls.environment = {k: v for k, v in cls.cluster.env.items() if k != "AM_CARDS"}
        cls.environment["PATH"] = os.environ["PATH"]  # automodel comes from the module
        cls.environment.update(AM_COMM_DELAY_MS="4", OMP_WAIT_POLICY="passive", MODULEPATH=f"{cls.prefix}/share/modulefiles")

    @staticmethod
    def template():
        return (
            "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
        )

    @staticmethod
    def chat(i):
        question, answer = f"What is {i} and one?", f"It is {i + 1}, of course."
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}

    def setUp(self):
        self.loaded = [f". {next(p for p in MODULE_INITS if os.path.exists(p))}"]
        self.jobs = []

    def type(self, command):
        return subprocess.run(
            ["bash", "-c", "\n".join([*self.loaded, command])],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=cluster.LIMIT,
        )

    def job(self, number):
        return cluster.Job(self.cluster, number, self.folder)

    def finish(self):
        """All jobs so far; those with a signal have been requeued once and went on."""
        for number, signalled in self.jobs:
            job = self.job(number)
            job.until(lambda: self.cluster.ask("squeue", "-h", "-j", number, check=False) == "", "its end")
            states = set(re.findall(r"JobState=(\S+)", self.cluster.ask("scontrol", "show", "job", number)))
            self.assertEqual(states, {"COMPLETED"}, job.output())
            if signalled:
                self.assertEqual(job.field("Restarts"), "1", job.output())
                self.assertRegex(job.output(), r"start 2: (.|\n)*resuming after step")
        self.jobs = []

    def follow(self, line, command):
        if command.startswith("scancel"):
            job = self.job(self.jobs[-1][0])
            job.until(lambda: "step 3/" in job.output(), "step 3")
            self.jobs[-1] = (self.jobs[-1][0], True)
        elif not command.startswith("squeue"):
            number = self.jobs[-1][0] if self.jobs else self.last
            self.finish()
            self.last = number
        command = re.sub(r"\bJOB\b", str(self.last), command)
        result = self.type(command)
        self.assertEqual(result.returncode, 0, f"docs/slurm.md:{line}: {command}\n{result.stdout}{result.stderr}")
        if command.startswith("module"):
            self.loaded.append(command)
        number = re.search(r"^Submitted batch job (\d+)", result.stdout, re.M)
        if number:
            self.last = number.group(1)
            self.jobs.append((self.last, False))
        return result

    def test_slurm_docs__every_command(self):
        self.last = "0"
        begin, done = time.monotonic(), commands()
        self.assertGreater(len(done), 15)
        for line, command in done:
            result = self.follow(line, command)
            if command.startswith("tail"):
                self.assertIn("Hugging Face directory", result.stdout)
        self.finish()
        runs.note(f"{len(done)} commands in {time.monotonic() - begin:.0f} s")
        # what the page promises of them
        self.assertTrue((self.folder / "demo" / "run" / "hf").is_dir())
        for run in ("second", "third", "by_mpirun", "seed_1", "seed_2", "seed_3"):
            self.assertEqual(len(runs.training_log(self.folder / "runs" / run)), 40, run)
        self.assertEqual(runs.curve(self.folder / "runs" / "second"), runs.curve(self.folder / "runs" / "third"))


if __name__ == "__main__":
    if not any(map(os.path.exists, MODULE_INITS)):
        print("skipped: neither Lmod nor environment-modules is installed: tools/packages.sh lmod")
        sys.exit(77)
    cluster.main()
