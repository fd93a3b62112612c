"""What the scripts of this folder share: installing the existing build into a scratch prefix, uninstalling
it, running things there.  Standard library only.

Environment: AM_BUILD_DIR and AM_SOURCE_DIR, set by ctest; AM_KEEP=1 keeps the scratch folder.  The build's
own install_manifest.txt (of an installation that the user of this build made) is put aside and back again."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(
    os.environ.get("AM_SOURCE_DIR") or pathlib.Path(__file__).resolve().parents[2]
).resolve()
BUILD = pathlib.Path(os.environ.get("AM_BUILD_DIR") or SOURCE / "build" / "release").resolve()
PROGRAM = BUILD / "automodel"
MANIFEST = BUILD / "install_manifest.txt"
CMAKE = shutil.which("cmake")
LIMIT = 120  # seconds after which a command counts as hanging


def outside(folder):
    """neither of the source nor of the build tree"""
    path = pathlib.Path(folder).resolve()
    return not any(tree in (path, *path.parents) for tree in (SOURCE, BUILD))


# What a command gets: nothing of the environment that the tests were started in leads to the build.  Each
# folder once, since Lmod leaves out what stands twice in PATH.
ENV = {
    "PATH": ":".join(
        dict.fromkeys(
            os.path.normpath(d) for d in os.environ["PATH"].split(":") if d.startswith("/") and outside(d)
        )
    ),
    "LC_ALL": "C.UTF-8",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


class Done:
    """A command that has ended: code, stdout, stderr, both."""

    def __init__(self, command, done):
        self.command, self.code = command, done.returncode
        self.out, self.err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        self.said = self.out + self.err

    def __str__(self):
        return f"{self.command}\nexit code {self.code}\n{self.out[-3000:]}\n{self.err[-3000:]}"


def run(command, env=None, cwd="/"):
    command = [str(c) for c in command]
    return Done(
        command,
        subprocess.run(
            command,
            capture_output=True,
            timeout=LIMIT,
            env={**ENV, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
        ),
    )


def version():
    """of the build, by its own word"""
    return run([PROGRAM, "--version"]).out.split()[1]


def commands():
    """the subcommands that --help lists"""
    listed = run([PROGRAM, "--help"]).out
    return re.findall(r"^  ([a-z]+) ", listed, re.M)


def listing(folder):
    """{relative path: None for a folder, else (executable?, bytes or the link's target)} of all there is"""
    found = {}
    for at, folders, files in os.walk(folder):
        for name in folders + files:
            path = pathlib.Path(at, name)
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = (False, os.readlink(path))
            elif path.is_dir():
                found[key] = None
            else:
                found[key] = (os.access(path, os.X_OK), path.read_bytes())
    return found


class Case(unittest.TestCase):
    """A scratch folder a case; install() and uninstall()."""

    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        cls.manifest = MANIFEST.read_bytes() if MANIFEST.exists() else None
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="am_install_")).resolve()
        for tree in (SOURCE, BUILD):
            assert (
                tree not in cls.scratch.parents
            ), f"the scratch folder {cls.scratch} lies in {tree}: set TMPDIR"

    @classmethod
    def tearDownClass(cls):
        MANIFEST.unlink(missing_ok=True)
        if cls.manifest is not None:
            MANIFEST.write_bytes(cls.manifest)
        if os.environ.get("AM_KEEP"):
            print("kept:", cls.scratch)
        else:
            shutil.rmtree(cls.scratch, ignore_errors=True)

    def fresh(self, name="prefix"):
        """A path in the scratch folder that does not exist yet."""
        self.__class__.count = getattr(self.__class__, "count", 0) + 1
        return self.scratch / str(self.count) / name

    @classmethod
    def try_install(cls, prefix, destdir=None, cwd="/"):
        env = {"DESTDIR": str(destdir)} if destdir else {}
        return run([CMAKE, "--install", BUILD, "--prefix", prefix], env, cwd)

    @classmethod
    def install(cls, prefix, destdir=None):
        done = cls.try_install(prefix, destdir)
        assert done.code == 0, str(done)
        return prefix

    @staticmethod
    def uninstall(destdir=None):
        return run(
            [CMAKE, "--build", BUILD, "--target", "uninstall"], {"DESTDIR": str(destdir)} if destdir else {}
        )

    @staticmethod
    def module_file(prefix):
        return pathlib.Path(f"{prefix}/share/modulefiles/automodel/{version()}")

    def ok(self, done):
        self.assertEqual(done.code, 0, str(done))
        return done

    def refused(self, done, *texts):
        self.assertNotEqual(done.code, 0, str(done))
        flat = re.sub(r"\s+", " ", done.said)
        for text in texts:
            self.assertIn(text, flat, str(done))


def main():
    if not CMAKE:
        skip("there is no cmake in PATH")
    if not os.access(PROGRAM, os.X_OK):
        skip(f"{PROGRAM} is not built")
    unittest.main(verbosity=2)
