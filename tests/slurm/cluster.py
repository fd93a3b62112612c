"""Jobs in a Slurm of two virtual nodes for the tests beside this file (tools/slurm_loopback.sh), on top of the
helpers for whole runs in tests/train/runs.py.  A script that imports this ends with 77 where Slurm is missing.

A Cluster lives as long as the test script; a Folder is what a user would have: slurm/, recipes, data."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

SOURCE = pathlib.Path(os.environ.get("AM_SOURCE_DIR") or pathlib.Path(__file__).resolve().parents[2])
sys.path.insert(0, str(SOURCE / "tests" / "train"))
import runs  # noqa: E402

LOOPBACK = SOURCE / "tools" / "slurm_loopback.sh"
LIMIT = 120  # seconds after which something counts as hanging


class Cluster:
    """A Slurm of its own.  `settings` are those of tools/slurm_loopback.sh (AM_SLURM_NODES=…)."""

    def __init__(self, **settings):
        self.scratch = runs.Scratch()
        self.dir = self.scratch.dir / "slurm"
        self.env = dict(os.environ, AM_SLURM_DIR=str(self.dir), **{k: str(v) for k, v in settings.items()})
        for name in [n for n in self.env if n.startswith(("SLURM_", "OMPI_", "PMIX_"))]:
            del self.env[name]
        self.loopback("up")
        for line in self.loopback("env").stdout.splitlines():
            for name, value in re.findall(r"(\w+)=(\S+)", line):
                self.env[name] = value
        self.env["PATH"] = f"{pathlib.Path(runs.PROGRAM).parent}:{self.env['PATH']}"
        self.env["OMP_NUM_THREADS"] = "1"

    def run(self, *command, env=None, cwd=None):
        return subprocess.run(
            list(map(str, command)),
            env=dict(self.env, **{k: str(v) for k, v in (env or {}).items()}),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )

    def loopback(self, *arguments):
        done = self.run(LOOPBACK, *arguments)
        if done.returncode != 0:
            raise RuntimeError(f"{LOOPBACK.name} {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done

    def close(self):
        if os.environ.get("AM_KEEP"):
            sockets = lambda folder, names: [n for n in names if pathlib.Path(folder, n).is_socket()]  # noqa: E731
            shutil.copytree(self.dir, self.scratch.dir / "slurm_kept", ignore=sockets)
        self.loopback("down")
        self.scratch.close()

    def ask(self, *command, check=True):
        """The output of a Slurm command."""
        done = self.run(*command)
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def pid_of(self, daemon):
        return int((self.dir / f"{daemon}.pid").read_text())

    def restart(self, node):
        self.loopback("node", node)
        until = time.monotonic() + 60
        while self.ask("sinfo", "-h", "-n", node, "-o", "%T").rstrip("*~#") != "idle":
            if time.monotonic() > until:
                raise AssertionError(f"{node} is not idle again: {self.ask('sinfo', '-N', '-l')}")
            time.sleep(0.2)


class Job:
    """A submitted batch job."""

    def __init__(self, cluster, number, cwd):
        self.cluster, self.id, self.cwd = cluster, number, pathlib.Path(cwd)

    @classmethod
    def submit(cls, cluster, *arguments, env=None, cwd):
        done = cluster.run("sbatch", "--parsable", *arguments, env=env, cwd=cwd)
        if done.returncode != 0:
            raise AssertionError(f"sbatch {arguments}: {done.stderr}")
        return cls(cluster, done.stdout.strip().split(";")[0], cwd)

    def output(self):
        return "".join(p.read_text() for p in sorted(self.cwd.glob(f"*-{self.id}.out")))

    def field(self, name):
        shown = self.cluster.ask("scontrol", "show", "job", self.id)
        return re.search(rf"\b{name}=(\S*)", shown).group(1)

    def state(self):
        return self.field("JobState")

    def processes(self, node=None):
        """Process ids of its ranks (on one node)."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError):
                if os.path.basename(os.readlink(f"/proc/{entry}/exe")) != "automodel":
                    continue
                env = pathlib.Path("/proc", entry, "environ").read_bytes().split(b"\0")
                if f"SLURM_CONF={self.cluster.env['SLURM_CONF']}".encode() not in env:
                    continue
                if f"SLURM_JOB_ID={self.id}".encode() not in env or b"SLURM_STEP_ID" not in b"".join(env):
                    continue
                if node is None or f"SLURMD_NODENAME={node}".encode() in env:
                    found.append(int(entry))
        return found

    def until(self, condition, what, limit=LIMIT):
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                why = self.cluster.ask("squeue", "-h", "-j", self.id, "-o", "%T %r", check=False)
                nodes = self.cluster.ask("sinfo", "-N", "-l", check=False)
                raise AssertionError(f"{limit} s passed without {what}; job {self.state()} ({why})\n{nodes}\n{self.output()}")
            time.sleep(0.02)

    def until_step(self, run_dir, step):
        """It has made this step in the run's log."""
        self.until(lambda: any(line["step"] >= step for line in runs.training_log(run_dir)), f"step {step}")

    def end(self, limit=LIMIT):
        """Wait; (state, exit code) as Slurm has them."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.until(lambda: self.state() in ended, "its end", limit)
        self.until(lambda: self.cluster.ask("squeue", "-h", "-j", self.id, check=False) == "", "completion", limit)
        return self.state(), int(self.field("ExitCode").split(":")[0])


class Case(runs.Case):
    """Cases on one cluster; `settings` of the class are the cluster's."""

    settings = {}

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(**cls.settings)
        cls.addClassCleanup(cls.cluster.close)
        cls.folder = cls.cluster.scratch.dir / "user"
        cls.folder.mkdir()
        (cls.folder / "slurm").symlink_to(SOURCE / "slurm")

    def recipe(self, run_dir, **changes):
        return self.cluster.scratch.recipe(run_dir, **changes)

    def fresh(self, name):
        return self.cluster.scratch.fresh(name)

    def sft(self, recipe, *overrides, options=(), env=None):
        """sbatch slurm/sft.sh on two nodes, two ranks each unless `options` say otherwise."""
        options = options or ("--ntasks-per-node=2",)
        return Job.submit(
            self.cluster,
            *options,
            "slurm/sft.sh",
            *overrides,
            env={"CONFIG": recipe, **(env or {})},
            cwd=self.folder,
        )

    def succeeds(self, job):
        self.assertEqual(job.end(), ("COMPLETED", 0), job.output())


def kill(pids, sig=signal.SIGKILL):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


def main():
    for path in (runs.PROGRAM, runs.MAKE_SHARDS):
        if not os.access(path, os.X_OK):
            print(f"skipped: {path} is not there")
            sys.exit(77)
    missing = [p for p in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin")]
    if missing:
        print(f"skipped: Slurm is not installed here ({', '.join(missing)} missing): tools/packages.sh slurm")
        sys.exit(77)
    unittest.main(verbosity=2)
