"""Whole runs of automodel for the tests beside this file: a scratch folder with data and recipes, mpirun with
a limit of time, what a run leaves behind (training.jsonl, weights), and the ranks' processes.  Standard
library only.

Environment: AM_BUILD_DIR (set by ctest), AM_SOURCE_DIR; AM_PROGRAM and AM_MAKE_SHARDS name binaries
elsewhere. A case is a method of unittest.TestCase; main() ends with 77 where nothing can be run."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

SOURCE = pathlib.Path(os.environ.get("AM_SOURCE_DIR") or pathlib.Path(__file__).resolve().parents[2])
BUILD = pathlib.Path(os.environ.get("AM_BUILD_DIR") or SOURCE / "build")
GOLDEN = SOURCE / "tests" / "golden"
PROGRAM = os.environ.get("AM_PROGRAM") or str(BUILD / "automodel")
MAKE_SHARDS = os.environ.get("AM_MAKE_SHARDS") or str(BUILD / "tests" / "train" / "make_shards")
MPIRUN = os.environ.get("AM_MPIRUN") or shutil.which("mpirun") or ""

ROW = 64  # tokens of a row
LIMIT = 120  # seconds after which a run counts as hanging


# ---- scratch, recipes, data ------------------------------------------------------------------------------


class Scratch:
    """A folder with data and runs, removed at the end (kept, and named, with AM_KEEP=1)."""

    def __init__(self, model="llama", **data):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="am_train_"))
        self.model = GOLDEN / model
        self.count = 0
        self.data = self.shards("data", **data)

    def close(self):
        if os.environ.get("AM_KEEP"):
            print("kept:", self.dir)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def shards(self, name, **keys):
        path = self.dir / name
        done = subprocess.run(
            [MAKE_SHARDS, str(path)] + [f"{k}={v}" for k, v in keys.items()],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode != 0:
            raise RuntimeError(f"make_shards: {done.stderr}")
        return path

    def copy_model(self, model="llama", name="model"):
        """A copy of a golden model that a test may damage."""
        path = self.dir / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for file in ("config.json", "model.safetensors"):
            shutil.copy(GOLDEN / model / file, path / file)
        return path

    def fresh(self, name=None):
        """A run directory that does not exist yet."""
        self.count += 1
        return self.dir / f"run{self.count:03d}{'_' + name if name else ''}"

    def recipe(self, run_dir, name=None, **changes):
        """Write a recipe; `changes` are merged into its sections, a value None takes the section or key
        out."""
        sections = {
            "run": {"dir": str(run_dir), "threads": 1},
            "step_scheduler": {"global_batch_size": 16, "local_batch_size": 1, "max_steps": 12},
            "rng": {"seed": 7},
            "model": {
                "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
                "pretrained_model_name_or_path": str(self.model),
                "torch_dtype": "float32",
            },
            "distributed": {"strategy": "fsdp2"},
            "dataset": {"_target_": "automodel.ShardDataset", "data_dir": str(self.data)},
            "packed_sequence": {"packed_sequence_size": ROW},
            "dataloader": {"shuffle": True},
            "optimizer": {
                "_target_": "torch.optim.AdamW",
                "lr": 5e-3,
                "betas": [0.9, 0.95],
                "weight_decay": 0.01,
            },
            "clip_grad_norm": {"max_norm": 1.0},
            "checkpoint": {"enabled": True, "save_consolidated": "final"},
        }
        for section, keys in changes.items():
            if keys is None:
                sections.pop(section, None)
                continue
            merged = sections.setdefault(section, {})
            for key, value in keys.items():
                merged.pop(key, None)
                if value is not None:
                    merged[key] = value
        path = self.dir / f"{name or pathlib.Path(run_dir).name}.yaml"
        path.write_text("".join(_yaml(section, keys) for section, keys in sections.items()))
        return path


def _scalar(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(v) for v in value) + "]"
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    return json.dumps(value) if isinstance(value, str) else str(value)


def _yaml(section, keys):
    return f"{section}:\n" + "".join(f"  {k}: {_scalar(v)}\n" for k, v in keys.items())


# ---- processes -------------------------------------------------------------------------------------------


class Result:
    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    def ours(self):
        """What automodel itself said, without the launcher's words."""
        return [line for line in self.err.splitlines() if line.startswith("automodel")]

    def __str__(self):
        streams = f"--- stdout\n{self.out[-3000:]}\n--- stderr\n{self.err[-6000:]}\n---"
        return f"exit code {self.code} after {self.seconds:.1f} s\n{streams}"


class Job:
    """A started command; end() waits for it, kills it after `limit` seconds, and gives the Result."""

    def __init__(self, command, env=None, cwd=None):
        self.out, self.err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.begin = time.monotonic()
        full = dict(os.environ, OMP_NUM_THREADS="1", **{k: str(v) for k, v in (env or {}).items()})
        self.process = subprocess.Popen(
            command, stdout=self.out, stderr=self.err, env=full, cwd=cwd or SOURCE, start_new_session=True
        )

    def ranks(self):
        """{rank: pid} of the processes that mpirun started."""
        found = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = pathlib.Path("/proc", entry, "stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) != self.process.pid:
                    continue
                environment = pathlib.Path("/proc", entry, "environ").read_bytes().split(b"\0")
                rank = [v for v in environment if v.startswith(b"OMPI_COMM_WORLD_RANK=")]
                found[int(rank[0].split(b"=")[1])] = int(entry)
        return found

    def wait_for(self, condition, what, limit=LIMIT):
        until = time.monotonic() + limit
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(f"the run ended before {what}: {self.end()}")
            if time.monotonic() > until:
                self.kill()
                raise AssertionError(f"{limit} s passed without {what}: {self.end()}")
            time.sleep(0.005)

    def kill(self):
        pids = list(self.ranks().values()) if self.process.poll() is None else []
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self, limit=LIMIT):
        timed_out = False
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            timed_out = True
            self.kill()
            self.process.wait()
        seconds = time.monotonic() - self.begin
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read())
            file.close()
        result = Result(self.process.returncode, *texts, seconds)
        if timed_out:
            raise AssertionError(f"hanging: {result}")
        return result


def mpi_command(ranks, *arguments):
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [MPIRUN, *root, "--oversubscribe", "-np", str(ranks), *map(str, arguments)]


def start(ranks, *arguments, env=None):
    """automodel under mpirun (ranks 0: without it)."""
    command = mpi_command(ranks, PROGRAM, *arguments) if ranks else [PROGRAM, *map(str, arguments)]
    return Job(command, env)


def run(ranks, *arguments, env=None, limit=LIMIT):
    return start(ranks, *arguments, env=env).end(limit)


def alive(pids):
    """Those of the processes that are still there (a zombie is not)."""
    left = []
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            if pathlib.Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                left.append(pid)
    return left


def gone(pids, limit=2):
    """Those that are still there when `limit` seconds have passed."""
    until = time.monotonic() + limit
    while alive(pids) and time.monotonic() < until:
        time.sleep(0.01)
    return alive(pids)


# ---- what a run leaves behind ----------------------------------------------------------------------------


def training_log(run_dir, name="training.jsonl"):
    """The whole lines of a log, as dictionaries."""
    path = pathlib.Path(run_dir, name)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def curve(run_dir, *fields):
    """One tuple a step, after checking that the steps count from 1."""
    log = training_log(run_dir)
    if [line["step"] for line in log] != list(range(1, len(log) + 1)):
        raise AssertionError(f"{run_dir}: steps {[line['step'] for line in log]}")
    return [tuple(line[f] for f in fields or ("loss", "grad_norm")) for line in log]


def checkpoints(run_dir):
    """Steps with a manifest, ascending."""
    return sorted(
        int(p.parent.name[5:])
        for p in pathlib.Path(run_dir, "checkpoints").glob("step_*/manifest.json")
        if re.fullmatch(r"step_\d+", p.parent.name)
    )


def safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return {
        name: (
            t["dtype"],
            t["shape"],
            data[8 + size + t["data_offsets"][0] : 8 + size + t["data_offsets"][1]],
        )
        for name, t in header.items()
    }


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def exported(run_dir, step):
    return pathlib.Path(run_dir, "hf", f"step_{step:08d}")


def export_bytes(run_dir, step):
    """{file name: content} of the Hugging Face directory."""
    folder = exported(run_dir, step)
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def weights(run_dir, step):
    """{name: [numbers]} of an export in F32."""
    found = {}
    for path in sorted(exported(run_dir, step).glob("*.safetensors")):
        for name, (dtype, _, content) in safetensors(path).items():
            if dtype != "F32":
                raise AssertionError(f"{path}: {name} is {dtype}")
            found[name] = struct.unpack(f"<{len(content) // 4}f", content)
    return found


def distance(a, b):
    """‖a − b‖ / ‖a‖ over all tensors."""
    if a.keys() != b.keys():
        raise AssertionError(f"other tensors: {sorted(a.keys() ^ b.keys())}")
    difference = sum((x - y) ** 2 for name in a for x, y in zip(a[name], b[name]))
    return (difference / sum(x * x for name in a for x in a[name])) ** 0.5


# ---- cases -----------------------------------------------------------------------------------------------


class Case(unittest.TestCase):
    """Checks on results; a failing one shows what the program said."""

    maxDiff = None

    def ends(self, result, code, *words):
        self.assertEqual(result.code, code, str(result))
        for word in words:
            self.assertRegex(result.err, word, str(result))

    def one_message(self, result, *words):
        """Exactly one line on stderr is an error of automodel, and it says all of this."""
        lines = [
            line
            for line in result.ours()
            if not re.match(r"automodel: (warning|\[)", line) or "error" in line
        ]
        errors = [line for line in lines if "error" in line]
        self.assertEqual(len(errors), 1, f"{len(errors)} messages\n{result}")
        for word in words:
            self.assertRegex(errors[0], word, str(result))

    def same_curve(self, a, b, tolerance, what):
        self.assertEqual(len(a), len(b), what)
        worst = max(abs(x[0] - y[0]) / abs(x[0]) for x, y in zip(a, b))
        self.assertLessEqual(worst, tolerance, f"{what}: losses differ by {worst:.3g}")
        return worst


class CaseBesideARun(Case):
    """Cases that compare with an undisturbed run of cls.recipe(run_dir) on two ranks."""

    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.close)
        cls.undisturbed = cls.scratch.fresh("undisturbed")
        done = run(2, "train", cls.recipe(cls.undisturbed))
        assert done.code == 0, str(done)


def note(text):
    """A measured figure, into the report beside the case."""
    print(f"[{text}] ", end="", file=sys.stderr, flush=True)


def main():
    for path in (PROGRAM, MAKE_SHARDS, MPIRUN):
        if not path or not os.access(path, os.X_OK):
            print(f"skipped: {path or 'mpirun'} is not there")
            sys.exit(77)
    unittest.main(verbosity=2)
