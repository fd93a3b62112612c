#!/usr/bin/env python3
"""`cmake --install` and the target `uninstall`: which files lie where, what stands in the module file, with
DESTDIR and with a blank in the prefix; that uninstalling takes away what was installed and nothing else."""

import os
import pathlib
import re
import shutil

import installed
from installed import BUILD, MANIFEST, PROGRAM, SOURCE, listing, run


def expected_files():
    """{path below the prefix: the file it is a copy of, or None} from the source tree"""
    files = {"bin/automodel": None, f"share/modulefiles/automodel/{installed.version()}": None}
    for name in ("README.md", "INSTALL", "LICENSE"):
        files[f"share/doc/automodel/{name}"] = SOURCE / name
    for page in (SOURCE / "docs").glob("**/*.md"):
        files[f"share/doc/automodel/{page.relative_to(SOURCE)}"] = page
    for file in (SOURCE / "configs").glob("**/*"):
        if file.is_file():
            files[f"share/automodel/{file.relative_to(SOURCE)}"] = file
    for script in (SOURCE / "slurm").glob("**/*.sh"):
        files[f"share/automodel/{script.relative_to(SOURCE)}"] = script
    for page in ["automodel"] + [f"automodel-{c}" for c in installed.commands()]:
        files[f"share/man/man1/{page}.1"] = None
    return files


class Files(installed.Case):
    def check_tree(self, root, prefix):
        """All files below root/prefix, copies equal to their sources, the module naming the prefix alone."""
        here = pathlib.Path(f"{root}{prefix}")
        found = {p: v for p, v in listing(here).items() if v is not None}
        wanted = expected_files()
        self.assertEqual(sorted(found), sorted(wanted))
        for path, source in wanted.items():
            executable, data = found[path]
            self.assertEqual(executable, path == "bin/automodel" or path.endswith(".sh"), path)
            if source:
                self.assertEqual(data, source.read_bytes(), path)
        module = self.module_file(here).read_text()
        self.assertTrue(module.startswith("#%Module1.0\n"))
        self.assertIn(f"\nset root    {{{prefix}}}\n", module)
        self.assertNotRegex(module, r"@\w+@")
        if root:
            self.assertNotIn(str(root), module)

    def test_files__into_a_prefix(self):
        prefix = self.install(self.fresh())
        self.check_tree("", prefix)
        done = self.ok(run([prefix / "bin" / "automodel", "--version"]))
        self.assertEqual(done.out, run([PROGRAM, "--version"]).out)

    def test_files__into_a_staging_folder(self):
        stage = self.fresh("stage")
        self.install("/opt-of-some-site/automodel", destdir=stage)
        self.check_tree(stage, "/opt-of-some-site/automodel")
        self.assertFalse(os.path.exists("/opt-of-some-site"))

    def test_files__a_prefix_with_a_blank(self):
        prefix = self.fresh("my apps")
        done = self.ok(self.try_install(prefix))
        self.assertIn("Lmod does not read module files below a path with a blank", done.said)
        self.check_tree("", prefix)
        self.ok(run([prefix / "bin" / "automodel", "inspect", SOURCE / "tests" / "golden" / "llama"]))

    def test_files__a_prefix_that_no_module_file_can_name(self):
        for name in ("a:b", "a;b", "a{b", "a$b", 'a"b', "a[b"):
            prefix = self.fresh(name)
            self.refused(
                self.try_install(prefix), "cannot stand in a module file", "absolute path without any of"
            )
            self.assertFalse(prefix.exists())
        where = self.fresh("here")
        where.mkdir(parents=True)
        self.refused(self.try_install("relative", cwd=where), "cannot stand in a module file")
        self.assertEqual(listing(where), {})

    def test_files__the_program_uses_what_was_installed(self):
        """Needs no rights: a card that only the prefix has is seen; no library comes from the build."""
        prefix = self.install(self.fresh())
        cards = prefix / "share" / "automodel" / "configs" / "models"
        text = (cards / "llama.card").read_text()
        (cards / "onlyhere.card").write_text(re.sub(r"^family \w+", "family onlyhere", text, flags=re.M))
        done = self.ok(run([prefix / "bin" / "automodel", "doctor"]))
        self.assertRegex(done.out, rf"model cards .* in {len(list(cards.glob('*.card')))} cards of {re.escape(str(cards))}")
        done = self.ok(run([prefix / "bin" / "automodel", "inspect", SOURCE / "tests" / "golden" / "llama", "--card", "onlyhere"]))
        self.assertRegex(done.out, r"family +onlyhere")
        for tool in (["ldd"], ["readelf", "-d"]):
            if shutil.which(tool[0]):
                told = self.ok(run([*tool, prefix / "bin" / "automodel"])).out
                self.assertNotIn("not found", told)
                self.assertNotIn(str(BUILD), told)
                self.assertNotIn(str(SOURCE), told)


class Uninstall(installed.Case):
    # What a prefix like /usr/local holds besides.
    OTHERS = (
        "bin/other",
        "share/man/man1/other.1",
        "share/modulefiles/other/1.0",
        "share/doc/other/README",
        "share/automodel-not-ours/x",
    )

    def site(self, *own):
        """A prefix in use, with files of others and `own`; its listing."""
        prefix = self.fresh()
        for name in (*self.OTHERS, *own):
            (prefix / name).parent.mkdir(parents=True, exist_ok=True)
            (prefix / name).write_text(f"{name} is not automodel's\n")
        return prefix, listing(prefix)

    def test_uninstall__leaves_what_was_there(self):
        prefix, before = self.site()
        self.install(prefix)
        files = [p for p, v in listing(prefix).items() if v is not None and p not in before]
        done = self.ok(self.uninstall())
        self.assertEqual(listing(prefix), before)
        for path in files:
            self.assertIn(f"removed: {prefix / path}\n", done.said)
        self.assertIn(f"{len(files)} files removed", done.said)

    def test_uninstall__leaves_no_file_in_a_prefix_of_its_own(self):
        prefix = self.install(self.fresh())
        self.ok(self.uninstall())
        shared = {"bin", "share", "share/doc", "share/man", "share/man/man1", "share/modulefiles"}
        self.assertLessEqual(set(listing(prefix)), shared)
        self.assertNotIn(False, [v is None for v in listing(prefix).values()])

    def test_uninstall__in_a_prefix_named_automodel(self):
        prefix = self.install(self.fresh("automodel") / "automodel-1")
        self.ok(self.uninstall())
        self.assertTrue((prefix / "bin").is_dir() and (prefix / "share").is_dir())

    def test_uninstall__a_file_of_the_users_own_survives(self):
        own = (
            "share/automodel/configs/models/ours.card",
            "share/automodel/.hidden",
            "share/modulefiles/automodel/9.9",
        )
        prefix, before = self.site(*own)
        self.install(prefix)
        done = self.ok(self.uninstall())
        self.assertEqual(listing(prefix), before)
        self.assertIn(f"left alone, not empty: {prefix}/share/automodel/\n", done.said)

    def test_uninstall__twice(self):
        self.install(self.fresh())
        self.ok(self.uninstall())
        self.refused(self.uninstall(), f"There is no {MANIFEST}", "uninstalled already")

    def test_uninstall__under_a_staging_folder(self):
        stage = self.fresh("stage")
        self.install("/opt-of-some-site", destdir=stage)
        self.refused(self.uninstall(), "was it installed with another DESTDIR?")
        self.assertTrue((stage / "opt-of-some-site/bin/automodel").exists())
        self.ok(self.uninstall(destdir=stage))
        self.assertEqual([p for p, v in listing(stage).items() if v is not None], [])

    def test_uninstall__some_files_are_gone(self):
        prefix = self.install(self.fresh())
        (prefix / "share/doc/automodel/LICENSE").unlink()
        self.assertIn("already gone: ", self.ok(self.uninstall()).said)
        self.assertEqual([p for p, v in listing(prefix).items() if v is not None], [])

    def test_uninstall__a_damaged_manifest(self):
        prefix = self.install(self.fresh())
        before = listing(prefix)
        MANIFEST.write_text("../../somewhere\n" + MANIFEST.read_text())
        self.refused(self.uninstall(), "is damaged", "../../somewhere", "is no absolute path")
        self.assertEqual(listing(prefix), before)


class Prereq(installed.Case):
    def test_prereq__is_written_when_asked_for(self):
        """write_module.cmake alone, as an installation with -DAM_MODULE_PREREQ=… runs it."""
        prefix = self.fresh()
        self.ok(
            run(
                [
                    installed.CMAKE,
                    f"-DAM_SOURCE_DIR={SOURCE}",
                    f"-DCMAKE_INSTALL_PREFIX={prefix}",
                    "-DAM_VERSION=1",
                    "-DAM_MPI_NAME=MPI of a test",
                    "-DAM_MODULE_PREREQ=openmpi/4.1;hdf5",
                    "-P",
                    SOURCE / "modulefiles" / "write_module.cmake",
                ]
            )
        )
        module = (prefix / "share/modulefiles/automodel/1").read_text()
        self.assertEqual(re.findall(r"^prereq (.*)$", module, re.M), ["openmpi/4.1", "hdf5"])
        self.assertIn("set mpi     {MPI of a test}", module)


if __name__ == "__main__":
    installed.main()
