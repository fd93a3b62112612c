#!/usr/bin/env python3
"""A run directory that two jobs, or two nodes, cannot spoil: the lock of a run, and that all ranks see one
directory.

Two nodes on one machine: mpirun starts its daemon for node n2 by a script of ours, which gives it a host
name and mounts of its own (unshare). What n2 sees is then arranged by mounting something over the run
directory there. The ranks of a run that must not go on meanwhile are stopped (SIGSTOP)."""

import contextlib
import os
import pathlib
import platform
import re
import shlex
import signal
import subprocess
import time

import runs

STEPS = 24
SLOW = {"AM_COMM_DELAY_MS": 2}
PATIENCE = 5  # seconds a run waits for one that is ending
SHIM = runs.BUILD / "tests" / "train" / "liblock_shim.so"


def said(job):
    return os.pread(job.err.fileno(), 1 << 20, 0).decode(errors="replace")


def lock_text(directory):
    with contextlib.suppress(FileNotFoundError):
        return pathlib.Path(directory, "lock").read_bytes()


class Base(runs.CaseBesideARun):
    @classmethod
    def recipe(cls, run_dir, name=None, steps=STEPS, **checkpoint):
        return cls.scratch.recipe(
            run_dir,
            name,
            checkpoint=checkpoint,
            step_scheduler={
                "local_batch_size": 4,
                "max_steps": steps,
                "ckpt_every_steps": 4,
                "save_checkpoint_every_epoch": False,
            },
        )

    def same_as_undisturbed(self, run_dir):
        self.assertEqual(runs.curve(run_dir), runs.curve(self.undisturbed))
        ours, theirs = runs.export_bytes(run_dir, STEPS), runs.export_bytes(self.undisturbed, STEPS)
        self.assertTrue(ours == theirs, "the exported weights differ")

    def left_in_order(self, run_dir):
        """Locks are there, and empty; nothing is left of the look around."""
        self.assertEqual(lock_text(run_dir), b"")
        self.assertEqual(lock_text(run_dir / "checkpoints"), b"")
        self.assertEqual([p.name for p in run_dir.glob(".seen*")], [])


class Locks(Base):
    @contextlib.contextmanager
    def stopped(self, run_dir, recipe, ranks=2, env=None):
        """A run that has made three steps and then stands still, but holds its lock."""
        job = runs.start(ranks, "train", recipe, env={**SLOW, **(env or {})})
        try:
            job.wait_for(lambda: len(runs.training_log(run_dir)) >= 3, "three steps")
            job.pids = list(job.ranks().values()) if ranks else [job.process.pid]
            job.first = job.ranks()[0] if ranks else job.process.pid
            self.send(job, signal.SIGSTOP)
            yield job
        finally:
            if not job.out.closed:
                job.kill()
                job.end()

    def send(self, job, what):
        for pid in job.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    def goes_on(self, job):
        self.send(job, signal.SIGCONT)
        result = job.end()
        self.ends(result, 0)
        return result

    def refused(self, recipe, *words, ranks=2, env=None):
        result = runs.run(ranks, "train", recipe, env=env)
        self.ends(result, 4)
        self.one_message(result, *words)
        self.assertGreater(result.seconds, PATIENCE)
        self.assertLess(result.seconds, PATIENCE + 20)
        return result

    # ---- two runs in one directory -----------------------------------------------------------------------

    def test_locks__a_second_run_is_refused_and_the_first_undisturbed(self):
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir)
        with self.stopped(run_dir, recipe) as first:
            files = {p: p.stat().st_mtime_ns for p in run_dir.rglob("*")}
            self.refused(
                recipe,
                rf"run\.dir {run_dir} is in use by process {first.first} on node {platform.node()}, ",
                "2 ranks, ",
                r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: ",
                rf"wait for it, end it \(kill {first.first} there\), or give .* \(--run\.dir=DIR\)",
            )
            self.assertEqual({p: p.stat().st_mtime_ns for p in run_dir.rglob("*")}, files, "it wrote there")
            self.goes_on(first)
        self.same_as_undisturbed(run_dir)
        self.left_in_order(run_dir)

    def test_locks__a_job_of_slurm_is_named(self):
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir)
        with self.stopped(run_dir, recipe, ranks=0, env={"SLURM_JOB_ID": 123}) as first:
            words = (r"in use by Slurm job 123 on node \S+, 1 rank, since", r"end it \(scancel 123\)")
            self.refused(recipe, *words)
            self.refused(recipe, *words, ranks=0, env={"SLURM_JOB_ID": 124})
            self.goes_on(first)
        self.same_curve(runs.curve(self.undisturbed), runs.curve(run_dir), 1e-5, "one process")

    def test_locks__a_run_that_is_ending_is_waited_for(self):
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir)
        with self.stopped(run_dir, recipe) as first:
            second = runs.start(2, "train", recipe)
            second.wait_for(lambda: "waiting up to 5 s for its end" in said(second), "it waits")
            self.send(first, signal.SIGUSR1)
            self.send(first, signal.SIGCONT)
            self.ends(first.end(), 6)
            self.ends(second.end(), 0, rf"resuming after step \d+ of {STEPS}")
        self.same_as_undisturbed(run_dir)
        self.left_in_order(run_dir)

    def test_locks__an_earlier_start_of_the_same_job_is_waited_for_longer(self):
        """Requeued by Slurm since it ended: only the file server may not know yet."""
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir)
        again = {"SLURM_JOB_ID": 123, "SLURM_RESTART_COUNT": 1}
        with self.stopped(run_dir, recipe, ranks=0, env={"SLURM_JOB_ID": 123}) as first:
            second = runs.start(0, "train", recipe, env=again)
            second.wait_for(lambda: "waiting up to 120 s for its end" in said(second), "it waits")
            time.sleep(PATIENCE + 2)
            self.assertIsNone(second.process.poll(), said(second))
            first.kill()
            self.ends(second.end(), 0)
        self.same_curve(runs.curve(self.undisturbed), runs.curve(run_dir), 1e-5, "one process")

    # ---- what a dead run leaves --------------------------------------------------------------------------

    def test_locks__after_sigkill_the_next_run_begins_at_once(self):
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir)
        job = runs.start(2, "train", recipe, env=SLOW)
        job.wait_for(lambda: runs.checkpoints(run_dir), "the first checkpoint")
        for pid in [job.process.pid, *job.ranks().values()]:
            os.kill(pid, signal.SIGKILL)
        job.end()
        self.assertIn(b"process: ", lock_text(run_dir))
        result = runs.run(2, "train", recipe)
        self.ends(result, 0, rf"resuming after step \d+ of {STEPS}")
        self.assertNotRegex(result.err, "is in use by|file lock")
        self.same_as_undisturbed(run_dir)
        self.left_in_order(run_dir)

    def test_locks__garbage_in_the_file_hinders_nobody(self):
        for garbage in (os.urandom(5000), b"\n\nnonce: x\nprocess: -1\njob: \x1b[31m", b"job: 7"):
            run_dir = self.scratch.fresh()
            (run_dir / "checkpoints").mkdir(parents=True)
            for folder in (run_dir, run_dir / "checkpoints"):
                (folder / "lock").write_bytes(garbage)
            self.ends(runs.run(2, "train", self.recipe(run_dir)), 0)
            self.same_as_undisturbed(run_dir)
            self.left_in_order(run_dir)

    def test_locks__what_another_wrote_is_printed_harmlessly(self):
        """Whoever may write the file must not reach the terminal of who reads the message."""
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir)
        with self.stopped(run_dir, recipe):
            (run_dir / "lock").write_bytes(b"job: 7\x1b[31m\x00\nnode: " + 4000 * b"n")
            result = self.refused(recipe, r"in use by Slurm job 7\?\[31m")
            self.assertNotIn("\x1b", result.err)
            (run_dir / "lock").write_bytes(b"")
            self.refused(recipe, "in use by a run that did not write its name: ", "wait for it, or give")

    # ---- the directory of checkpoints --------------------------------------------------------------------

    def test_locks__two_runs_with_one_checkpoint_directory(self):
        """Their own run.dir, and the other's checkpoints: beside it, or within it."""
        shared, first_dir = self.scratch.fresh("shared"), self.scratch.fresh()
        recipe = self.recipe(first_dir, checkpoint_dir=str(shared))
        with self.stopped(first_dir, recipe):
            run_dir = self.scratch.fresh()
            self.refused(
                self.recipe(run_dir, checkpoint_dir=str(shared)),
                rf"checkpoint\.checkpoint_dir {shared} is in use by process",
                r"\(--checkpoint\.checkpoint_dir=DIR\)",
            )
            self.assertEqual(sorted(p.name for p in run_dir.iterdir()), ["lock"])
        first_dir = self.scratch.fresh()
        with self.stopped(first_dir, self.recipe(first_dir)):
            inside = first_dir / "checkpoints"
            recipe = self.recipe(self.scratch.fresh(), checkpoint_dir=str(inside))
            self.refused(recipe, rf"checkpoint\.checkpoint_dir {inside} is in use by process")

    def test_locks__one_directory_for_both(self):
        """A run does not lock itself out, whatever the directory is called."""
        run_dir = self.scratch.fresh()
        other_name = self.scratch.dir / "other_name"
        other_name.symlink_to(run_dir, target_is_directory=True)
        for name in (run_dir, other_name):
            result = runs.run(2, "train", self.recipe(run_dir, checkpoint_dir=str(name)))
            self.ends(result, 0)
        self.assertRegex(result.err, f"resuming after step {STEPS} of {STEPS}")

    def test_locks__a_umask_of_zero(self):
        """Nothing that a run makes for itself may be written by everybody: it would not trust it later."""
        run_dir = self.scratch.fresh()
        arguments = shlex.join([runs.PROGRAM, "train", str(self.recipe(run_dir))])
        result = runs.Job(["sh", "-c", f"umask 0; exec {arguments}"]).end()
        self.ends(result, 0)
        for path in (run_dir, run_dir / "lock", run_dir / "checkpoints", run_dir / "checkpoints" / "lock"):
            self.assertEqual(path.stat().st_mode & 0o002, 0, path)

    # ---- file systems without locks ----------------------------------------------------------------------

    def shim(self, what):
        self.assertTrue(SHIM.exists(), SHIM)
        return {"LD_PRELOAD": SHIM, "AM_LOCK_SHIM": what}

    def test_locks__a_file_system_without_locks_is_a_warning(self):
        for error, words in (
            ("ENOLCK", "No locks available"),
            ("ENOSYS", "Function not [a-z]+"),
            ("EOPNOTSUPP", "Operation not supported"),
            ("EINVAL", "Invalid argument"),
        ):
            run_dir = self.scratch.fresh()
            result = runs.run(2, "train", self.recipe(run_dir), env=self.shim(error))
            self.ends(result, 0)
            warning = [line for line in result.ours() if "without file locks" in line]
            self.assertEqual(len(warning), 1, str(result))  # the checkpoints' directory lies in run.dir
            self.assertRegex(
                warning[0],
                rf"warning: run\.dir {run_dir} lies on a file system without file locks \({words}\): "
                r"a second run in it would not be noticed",
            )
            self.assertNotRegex(warning[0], "still names")
            self.same_as_undisturbed(run_dir)
            self.left_in_order(run_dir)

    def test_locks__without_locks_the_text_is_all_there_is(self):
        """A run that may be running is told of."""
        run_dir = self.scratch.fresh()
        recipe = self.recipe(run_dir)
        with self.stopped(run_dir, recipe, env=self.shim("ENOLCK")) as first:
            first.kill()
        result = runs.run(2, "train", recipe, env=self.shim("ENOLCK"))
        words = rf"still names process {first.first} on node .*: that run was killed, or it is running"
        self.ends(result, 0, words)

    def test_locks__an_error_is_not_taken_for_no_locks(self):
        run_dir = self.scratch.fresh()
        result = runs.run(2, "train", self.recipe(run_dir), env=self.shim("EIO"))
        self.ends(result, 3)
        self.one_message(result, rf"cannot lock {run_dir}/lock: Input/output error")


# ---- several nodes ---------------------------------------------------------------------------------------

UNSHARE = ["unshare", *(["--user", "--map-root-user"] if os.geteuid() else []), "--uts", "--mount"]


def no_nodes():
    """Why two nodes cannot be made of this machine; None when they can."""
    try:
        trial = "hostname n1 && mount -t tmpfs none /mnt && exec unshare --uts --mount true"
        done = subprocess.run([*UNSHARE, "sh", "-c", trial], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as why:
        return f"unshare cannot be run: {why}"
    return None if done.returncode == 0 else f"no host names and mounts of our own: {done.stderr.strip()}"


class Nodes(Base):
    @classmethod
    def setUpClass(cls):
        cls.why_not = no_nodes()
        super().setUpClass()

    def setUp(self):
        if self.why_not:
            name = self._testMethodName
            print(f"[ RUN      ] {name}\n{self.why_not}\n[  SKIPPED ] {name}")
            self.skipTest(self.why_not)

    def start(self, recipe, on_n2="true", ranks=2, env=None):
        """A run on nodes n1 and n2, half of the ranks each; `on_n2`: shell, before n2 starts anything."""
        remote = self.scratch.dir / f"remote{self.scratch.count}.sh"
        second = f'hostname "$0" && {on_n2} && exec sh -c "$1"'
        run = f'exec unshare --uts --mount sh -c {shlex.quote(second)} "$host" "$*"'
        remote.write_text(f"#!/bin/sh\nhost=$1\nshift\n{run}\n")
        remote.chmod(0o755)
        options = "--allow-run-as-root --mca plm rsh --mca btl self,tcp --mca btl_tcp_if_include lo".split()
        options += f"--mca oob_tcp_if_include lo --host n1:{ranks // 2},n2:{ranks // 2}".split()
        options += ["--mca", "plm_rsh_agent", str(remote), "-np", str(ranks)]
        command = shlex.join([runs.MPIRUN, *options, runs.PROGRAM, "train", str(recipe)])
        return runs.Job([*UNSHARE, "sh", "-c", f"hostname n1 && exec {command}"], env)

    def run_on_nodes(self, recipe, *arguments, **keys):
        return self.start(recipe, *arguments, **keys).end()

    def refused(self, recipe, on_n2, *words):
        """By one message of one rank; the node is in its label."""
        result = self.run_on_nodes(recipe, on_n2)
        self.ends(result, 4)
        self.one_message(result, *words)
        return result

    def made(self):
        run_dir = self.scratch.fresh()
        run_dir.mkdir()
        return run_dir

    # ---- in order ----------------------------------------------------------------------------------------

    def test_nodes__two_that_share_the_directory(self):
        run_dir = self.scratch.fresh()
        result = self.run_on_nodes(self.recipe(run_dir))
        self.ends(result, 0, r"automodel: \[rank 0 n1\] ")
        self.assertNotRegex(result.err, "warning: (run.dir|checkpoint)")
        self.same_as_undisturbed(run_dir)
        self.left_in_order(run_dir)

    def test_nodes__four_ranks_and_checkpoints_elsewhere(self):
        run_dir, elsewhere = self.scratch.fresh(), self.scratch.fresh("elsewhere")
        (run_dir / ".seen-of-a-start-that-was-killed").mkdir(parents=True)  # not even a file
        (run_dir / ".seen-of-another").touch()
        recipe = self.recipe(run_dir, checkpoint_dir=str(elsewhere), save_consolidated=False)
        self.ends(self.run_on_nodes(recipe, ranks=4), 0)
        self.assertEqual(list(run_dir.glob(".seen-of-another")), [])
        self.assertEqual(list(elsewhere.glob(".seen*")), [])
        self.assertEqual(lock_text(elsewhere), b"")

    def test_nodes__a_directory_that_appears_late(self):
        """As where a node has cached that there is no such directory."""
        run_dir, go = self.made(), self.scratch.dir / "go"
        late = f"(while [ ! -e {go} ]; do sleep 0.1; done; umount {run_dir}) >/dev/null 2>&1 &"
        job = self.start(self.recipe(run_dir), f"mount -t tmpfs none {run_dir} && {{ {late} }}")
        job.wait_for(lambda: "looking for up to 8 s more" in said(job), "rank 0 says what it waits for")
        go.touch()
        result = job.end()
        self.ends(result, 0, rf"\[rank 0 n1\] rank 1 does not see run\.dir {run_dir} yet")
        self.same_as_undisturbed(run_dir)

    # ---- refused -----------------------------------------------------------------------------------------

    def test_nodes__a_directory_of_its_own(self):
        run_dir = self.made()
        self.refused(
            self.recipe(run_dir),
            f"mount -t tmpfs none {run_dir}",
            r"automodel: \[rank 1 n2\] error: ",
            rf"rank 1 on node n2 does not see run\.dir {run_dir} as rank 0 on node n1 does "
            r"\(file lock there: No such file or directory\); run\.dir must lie on a file system that all ",
        )
        self.assertEqual([p.name for p in run_dir.iterdir()], ["lock"], "something was written")

    def test_nodes__a_lock_of_its_own(self):
        """The path exists on both, even with a lock of another run in it."""
        run_dir = self.made()
        self.refused(
            self.recipe(run_dir),
            f"mount -t tmpfs none {run_dir} && echo 'nonce: {32 * 'a'}' >{run_dir}/lock",
            rf"rank 1 on node n2 does not see run\.dir {run_dir} as .*\(file lock there: it has other",
        )

    def test_nodes__checkpoints_on_a_disk_of_its_own(self):
        run_dir, elsewhere = self.scratch.fresh(), self.made()
        self.refused(
            self.recipe(run_dir, checkpoint_dir=str(elsewhere)),
            f"mount -t tmpfs none {elsewhere}",
            rf"rank 1 on node n2 does not see checkpoint\.checkpoint_dir {elsewhere} as rank 0 on node",
            r"checkpoint\.checkpoint_dir must lie on a file system that all nodes share",
        )

    def test_nodes__mounted_read_only(self):
        run_dir = self.made()
        result = self.refused(
            self.recipe(run_dir),
            f"mount --bind {run_dir} {run_dir} && mount -o remount,ro,bind {run_dir}",
            r"\[rank 1 n2\] error: ",
            rf"rank 1 on node n2 cannot write into run\.dir {run_dir}: Read-only file system; all",
        )
        self.assertLess(result.seconds, 10)

    def test_nodes__a_copy_on_write(self):
        """n2 reads the shared directory, and what it writes stays with it."""
        run_dir, private = self.made(), self.scratch.dir / "private"
        (run_dir / "lock").touch()
        layers = f"lowerdir={run_dir},upperdir={private}/upper,workdir={private}/work"
        self.refused(
            self.recipe(run_dir),
            f"mkdir -p {private} && mount -t tmpfs none {private} && mkdir {private}/upper {private}/work && "
            f"mount -t overlay none -o {layers} {run_dir}",
            r"\[rank 0 n1\] error: ",
            rf"rank 0 on node n1 does not see in run\.dir {run_dir} what rank 1 on node n2 wrote there",
        )

    def test_nodes__locks_that_stay_within_a_node(self):
        run_dir = self.scratch.fresh()
        shim = {"LD_PRELOAD": SHIM, "AM_LOCK_SHIM": "node"}
        result = self.run_on_nodes(self.recipe(run_dir), env=shim)
        self.ends(
            result,
            0,
            rf"\[rank 0 n1\] warning: run\.dir {run_dir}: the lock that rank 0 holds there is not seen on "
            r"node n2; .*Lustre: mount it with flock.*two jobs on different nodes",
        )
        self.assertEqual(len(re.findall("is not seen on node", result.err)), 1, str(result))
        self.same_as_undisturbed(run_dir)


class WorkingDirectories(Base):
    def test_working_directories__a_relative_run_dir(self):
        """Two ranks that mean two directories by one name: told at once, without the patience for caches."""
        first, second = self.scratch.dir / "first", self.scratch.dir / "second"
        first.mkdir()
        second.mkdir()
        recipe = str(self.recipe("the_run"))
        one = [runs.PROGRAM, "train", recipe]
        begin = runs.mpi_command(1, "--wdir", first, *one)
        result = runs.Job([*begin, ":", "-np", "1", "--wdir", str(second), *one]).end()
        self.ends(result, 4)
        self.one_message(
            result,
            rf"\[rank 1\] error: rank 1 on node \S+ does not see run\.dir {second}/the_run as rank 0 ",
            rf"for which it is {first}/the_run \(file lock there: No such file or directory\)",
            "relative path: start all ranks in one working directory",
        )
        self.assertFalse((second / "the_run").exists(), "a directory was made that nobody wants")
        self.assertLess(result.seconds, 8)
        result = runs.Job(runs.mpi_command(2, "--wdir", first, *one)).end()
        self.ends(result, 0)
        self.same_as_undisturbed(first / "the_run")


if __name__ == "__main__":
    runs.main()
