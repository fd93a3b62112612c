#!/usr/bin/env python3
"""The installed module under one module system:      test_install_modules.py lmod|environment_modules [CASE…]

Modules: what loading sets, that unloading and switching restore the environment bit by bit, conflict, help,
whatis, show, man, prereq.  Alone: `module load automodel`, doctor and a model, while source and build trees
cannot be reached.  Every check is a bash that sources the system's start file as a user's shell does; `env
-0` tells what it came to.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import installed
from installed import BUILD, SOURCE, run

SYSTEMS = {
    # start files; variables that are the system's own and not compared
    "lmod": (
        ("/usr/share/lmod/lmod/init/bash",),
        r"_ModuleTable(\d+|_Sz)_|LOADEDMODULES|_LMFILES_|__LMOD_REF_COUNT_\w+",
    ),
    "environment_modules": (
        ("/usr/share/modules/init/bash", "/usr/share/Modules/init/bash"),
        r"LOADEDMODULES|_LMFILES_|__MODULES_\w+",
    ),
}
SYSTEM = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in SYSTEMS else "lmod"
START = next((f for f in SYSTEMS[SYSTEM][0] if os.path.exists(f)), None)
OWN = re.compile(rf"(?:{SYSTEMS[SYSTEM][1]}|_|SHLVL)$")
# MANPATH as users have it; None: not set.  A colon at an end, or two in a row, stand for the system's own
# pages.
MANPATHS = (None, "/a", "/a:/b", ":/a", "/a::/b", "/a:", ":", "")


def expected_manpath(before):
    """After loading and unloading.  Empty means not set, to man as well; and whatever module Lmod loads, it
    writes a colon at the end twice (its own rule, and man reads both alike)."""
    if before == "":
        return None
    if SYSTEM == "lmod" and before and before.endswith(":"):
        return before + ":"
    return before


class Shell(installed.Case):
    def bash(self, lines, manpath=None, around=()):
        """Runs lines after the start file (which may have its own idea of MANPATH), in bash; `snapshot NAME`
        keeps the environment for snapshot()."""
        home = self.scratch / "home"
        home.mkdir(exist_ok=True)
        script = [
            f". {START}",
            f'snapshot() {{ env -0 > "{self.scratch}/$1.env"; }}',
            "unset MANPATH" if manpath is None else f'export MANPATH="{manpath}"',
            *lines,
            "",
        ]
        return run(
            [*around, "bash", "--noprofile", "--norc", "-c", "\n".join(script)], {"HOME": str(home)}, cwd=home
        )

    def snapshot(self, name):
        """{variable: value} without the module system's own"""
        pairs = (self.scratch / f"{name}.env").read_bytes().decode().split("\0")
        found = dict(p.split("=", 1) for p in pairs if p)
        return {k: v for k, v in found.items() if not OWN.match(k)}

    def use(self, prefix):
        return f'module use "{prefix}/share/modulefiles"'


class Modules(Shell):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.prefix = cls.install(cls.scratch / "one" / "automodel")
        cls.other = cls.install(cls.scratch / "two" / "automodel")
        # A site's folder with both as versions 1 and 2.
        cls.site = cls.scratch / "modules"
        (cls.site / "automodel").mkdir(parents=True)
        for name, prefix in (("1", cls.prefix), ("2", cls.other)):
            shutil.copy(cls.module_file(prefix), cls.site / "automodel" / name)

    def test_modules__what_loading_sets(self):
        self.ok(
            self.bash(
                [
                    self.use(self.prefix),
                    "snapshot before",
                    "module load automodel",
                    "rc=$?",
                    "snapshot after",
                    "command -v automodel",
                    "exit $rc",
                ]
            )
        )
        before, after = self.snapshot("before"), self.snapshot("after")
        self.assertEqual(after.pop("PATH"), f"{self.prefix}/bin:{before.pop('PATH')}")
        self.assertEqual(after.pop("MANPATH"), f"{self.prefix}/share/man:")
        self.assertEqual(after.pop("AUTOMODEL_ROOT"), str(self.prefix))
        self.assertEqual(after.pop("AUTOMODEL_SLURM"), f"{self.prefix}/share/automodel/slurm")
        self.assertEqual(after, before)

    def restored(self, manpath, lines):
        """The environment after `lines` is the one before, but for what expected_manpath says."""
        done = self.ok(
            self.bash([f'module use "{self.site}"', "snapshot before", *lines, "snapshot after"], manpath)
        )
        before, after = self.snapshot("before"), self.snapshot("after")
        self.assertEqual(before.pop("MANPATH", None), manpath)
        self.assertEqual(after.pop("MANPATH", None), expected_manpath(manpath), str(done))
        self.assertEqual(after, before)

    def test_modules__unloading_restores(self):
        for manpath in MANPATHS:
            with self.subTest(manpath=manpath):
                self.restored(manpath, ["module load automodel/1", "module unload automodel"])

    def test_modules__loading_twice_and_unloading_restores(self):
        for manpath in MANPATHS:
            with self.subTest(manpath=manpath):
                self.restored(manpath, ["module load automodel/1"] * 2 + ["module unload automodel/1"])

    def test_modules__switching_and_unloading_restores(self):
        for manpath in MANPATHS:
            with self.subTest(manpath=manpath):
                self.restored(
                    manpath,
                    [
                        "module load automodel/1",
                        "module switch automodel/1 automodel/2",
                        "snapshot switched",
                        "module unload automodel",
                    ],
                )
                switched = self.snapshot("switched")
                self.assertEqual(switched["AUTOMODEL_ROOT"], str(self.other))
                self.assertNotIn(str(self.prefix), " ".join(switched.values()))
                self.assertTrue(switched["MANPATH"].startswith(f"{self.other}/share/man:"))

    def test_modules__another_module_between(self):
        """Its entry of MANPATH stays when ours goes, in whichever order they go."""
        other = self.site / "editor"
        other.mkdir(exist_ok=True)
        (other / "1").write_text("#%Module1.0\nprepend-path MANPATH /editor/man\n")
        for manpath in ("/a", "/a:/b", ":/a"):
            with self.subTest(manpath=manpath):
                self.restored(
                    manpath,
                    [
                        "module load automodel/1 editor/1",
                        "module unload automodel",
                        "snapshot between",
                        "module unload editor",
                    ],
                )
                self.assertEqual(self.snapshot("between")["MANPATH"], f"/editor/man:{manpath}")
        self.ok(
            self.bash(
                [
                    f'module use "{self.site}"',
                    "module load automodel/1 editor/1",
                    "module unload automodel",
                    "snapshot between",
                ]
            )
        )
        self.assertIn(self.snapshot("between")["MANPATH"], ("/editor/man:", "/editor/man::"))

    def test_modules__two_versions_are_never_loaded_together(self):
        done = self.bash(
            [
                f'module use "{self.site}"',
                "module load automodel/1",
                "snapshot one",
                "module load automodel/2",
                "echo code $?",
                "snapshot two",
            ]
        )
        one, two = self.snapshot("one"), self.snapshot("two")
        if SYSTEM == "lmod":  # takes the one out by itself
            self.assertIn("code 0", done.out)
            self.assertEqual(two["PATH"], one["PATH"].replace(str(self.prefix), str(self.other)))
        else:
            self.assertIn("code 1", done.out)
            self.assertIn("conflict", done.said)
            self.assertEqual(two, one)

    def test_modules__help_whatis_show(self):
        say = {
            what: self.ok(self.bash([self.use(self.prefix), f"module {what} automodel"])).said
            for what in ("help", "whatis", "show")
        }
        for text in (
            "automodel doctor",
            f"{self.prefix}/share/automodel/configs",
            f"{self.prefix}/share/doc/automodel",
            "$AUTOMODEL_SLURM/sft.sh",
            f"automodel {installed.version()}:",
        ):
            self.assertIn(text, say["help"])
        mpirun = shutil.which("mpirun")
        is_open_mpi = re.search(r"\(Open MPI\) (\S+)", run([mpirun, "--version"]).out) if mpirun else None
        if is_open_mpi:
            self.assertIn(f"built with Open MPI v{is_open_mpi.group(1)})", say["help"])
        for text in (
            "Name: automodel",
            f"Version: {installed.version()}",
            "Category: ",
            "Description: fine-tuning",
        ):
            self.assertIn(text, say["whatis"])
        for text in (
            f"{self.prefix}/bin",
            f"{self.prefix}/share/man",
            "AUTOMODEL_ROOT",
            "AUTOMODEL_SLURM",
            "conflict",
        ):
            self.assertIn(text, say["show"])

    def test_modules__man_finds_our_pages_and_the_systems(self):
        if not shutil.which("man"):
            self.skipTest("there is no man here")
        of_system = run(["man", "-w", "man"]).out
        for manpath in (None, "/a:"):  # PATH is set back: it is MANPATH that leads there
            done = self.ok(
                self.bash(
                    [
                        self.use(self.prefix),
                        "module load automodel",
                        "PATH=/usr/local/bin:/usr/bin:/bin",
                        "man -w automodel automodel-train && man -w man | sed 's/^/system: /'",
                    ],
                    manpath,
                )
            )
            pages = [f"{self.prefix}/share/man/man1/{name}.1\n" for name in ("automodel", "automodel-train")]
            self.assertEqual(
                done.out, "".join(pages) + (f"system: {of_system}" if of_system else ""), str(done)
            )

    def test_modules__a_prefix_with_a_blank(self):
        prefix = self.install(self.scratch / "my apps")
        where = f"{prefix}/share/modulefiles"
        if SYSTEM == "lmod":  # cannot read a file there; the note of the installation says to copy it
            where = self.scratch / "copied"
            (where / "automodel").mkdir(parents=True)
            shutil.copy(self.module_file(prefix), where / "automodel" / "3")
        done = self.ok(
            self.bash(
                [
                    f'module use "{where}"',
                    "snapshot before",
                    "module load automodel",
                    "command -v automodel",
                    "automodel --version",
                    'echo "$AUTOMODEL_SLURM"',
                    "module unload automodel",
                    "snapshot after",
                ]
            )
        )
        self.assertEqual(
            done.out,
            f"{prefix}/bin/automodel\nautomodel {installed.version()}\n{prefix}/share/automodel/slurm\n",
        )
        self.assertEqual(self.snapshot("before"), self.snapshot("after"))

    def test_modules__prereq(self):
        """A site's own module of its MPI, required by -DAM_MODULE_PREREQ=sitempi/4."""
        tree = self.scratch / "prereq"
        (tree / "sitempi").mkdir(parents=True)
        (tree / "sitempi" / "4").write_text("#%Module1.0\nsetenv SITEMPI 4\n")
        self.ok(
            run(
                [
                    installed.CMAKE,
                    f"-DAM_SOURCE_DIR={SOURCE}",
                    f"-DCMAKE_INSTALL_PREFIX={tree}",
                    "-DAM_VERSION=1",
                    "-DAM_MPI_NAME=Site MPI 4",
                    "-DAM_MODULE_PREREQ=sitempi/4",
                    "-P",
                    SOURCE / "modulefiles" / "write_module.cmake",
                ]
            )
        )
        load = "module load automodel && echo $AUTOMODEL_ROOT"
        self.refused(self.bash([self.use(tree), load]), "sitempi/4")
        done = self.ok(self.bash([self.use(tree), f'module use "{tree}"', "module load sitempi/4", load]))
        self.assertEqual(done.out, f"{tree}\n")


class Alone(Shell):
    """In a mount namespace of its own, where an empty file system covers the source and the build tree."""

    COVER = (
        'for d in "$1" "$2"; do [ -d "$d" ] && { mount -t tmpfs none "$d" || exit 99; }; done\n'
        '[ -z "$(ls -A "$1")" ] && [ -z "$(ls -A "$2" 2>/dev/null)" ] || exit 98\nshift 2\nexec "$@"'
    )

    @classmethod
    def around(cls):
        rights = ["-m"] if os.geteuid() == 0 else ["-rm"]
        return ["unshare", *rights, "sh", "-c", cls.COVER, "sh", str(SOURCE), str(BUILD)]

    def test_alone__module_doctor_and_a_model(self):
        prefix = self.install(self.fresh())
        model = self.scratch / "llama"
        shutil.copytree(SOURCE / "tests" / "golden" / "llama", model)
        lines = [
            self.use(prefix),
            f'[ ! -e "{BUILD}/automodel" ] && [ ! -e "{SOURCE}/README.md" ] || exit 97',
            "module load automodel && automodel doctor --json || exit",
            "echo ---",
            f'automodel verify "{model}" --reference "{model}/reference.safetensors" --json || exit',
            "echo ---",
            f'automodel generate "{model}" --prompt-ids 1,2,3 --max-tokens 4 --json || exit',
            "echo ---",
            'ls "$AUTOMODEL_SLURM"',
        ]
        done = self.ok(self.bash(lines, around=self.around()))
        doctor, verify, generate, scripts = done.out.split("---\n")
        cards = next(c for c in json.loads(doctor)["checks"] if c["name"] == "model cards")
        num_cards = len(list((SOURCE / "configs" / "models").glob("*.card")))
        self.assertIn(f" in {num_cards} cards of {prefix}", cards["found"])
        self.assertIs(json.loads(verify)["ok"], True)
        self.assertEqual(len(json.loads(generate)["ids"]), 4)
        self.assertEqual(scripts.split(), sorted(p.name for p in (SOURCE / "slurm").glob("*.sh")))


def main():
    if START is None:
        installed.skip(f"{SYSTEM.replace('_', '-')} is not installed: no {' or '.join(SYSTEMS[SYSTEM][0])}")
    if "Alone" in sys.argv:
        try:
            done = subprocess.run([*Alone.around(), "true"], capture_output=True, cwd="/")
            reason = (
                None
                if done.returncode == 0
                else done.stderr.decode().strip() or f"exit code {done.returncode}"
            )
        except FileNotFoundError:
            reason = "there is no unshare"
        if reason:
            installed.skip(f"no mount namespace to hide source and build trees in: {reason.splitlines()[-1]}")
    installed.main()


if __name__ == "__main__":
    main()
