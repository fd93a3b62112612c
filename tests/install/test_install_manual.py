#!/usr/bin/env python3
"""The manual pages: that they say what --help says, option by option; that their list of variables is
INSTALL's; that groff and man read them without a warning."""

import re
import shutil
import unittest

import installed
from installed import BUILD, PROGRAM, SOURCE, run


def flat(text):
    return re.sub(r"\s+", " ", text).strip()


def plain(roff):
    """The text that our escapes stand for: fonts, \\-, \\e, \\& and named code points."""
    text = re.sub(r"\\f[BIR]|\\&", "", roff)
    text = re.sub(r"\\\[u([0-9A-F]{4,6})\]", lambda m: chr(int(m.group(1), 16)), text)
    return flat(text.replace("\\-", "-").replace("\\e", "\\"))


def sections(page):
    """{heading: its roff}"""
    parts = re.split(r"^\.SH (.*)\n", page, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def entries(roff):
    """[(head, text)] of what .TP begins"""
    found = []
    for entry in re.split(r"^\.TP\n", roff, flags=re.M)[1:]:
        head, text = entry.split("\n", 1)
        found.append((plain(head), plain(re.split(r"^\.PP", text, flags=re.M)[0])))
    return found


def options_of_help(text):
    """[(head, text)] of `automodel COMMAND --help`"""
    listed = text[text.index("\noptions:\n") + len("\noptions:\n") :]
    return [
        (flat(m.group(1)), flat(m.group(2))) for m in re.finditer(r"^  (-\S.*)\n      (.*)\n", listed, re.M)
    ]


def page(*command):
    done = run([PROGRAM, "--man", *command])
    assert done.code == 0 and not done.err, str(done)
    return done.out


class Manual(unittest.TestCase):
    def test_manual__options_are_those_of_help(self):
        for command in installed.commands():
            told = run([PROGRAM, command, "--help"]).out
            self.assertEqual(entries(sections(page(command))["OPTIONS"]), options_of_help(told), command)
        told = run([PROGRAM, "--help"]).out
        for head, text in entries(sections(page())["OPTIONS"]):
            self.assertIn(f"{head.split(', ')[-1]}: {text}", flat(told))

    def test_manual__name_synopsis_description(self):
        for command in installed.commands():
            usage, summary = re.match(
                r"usage: (.*)\n\n(.*)\n", run([PROGRAM, command, "--help"]).out
            ).groups()
            parts = sections(page(command))
            self.assertEqual(plain(parts["SYNOPSIS"].replace(".PP\n", "")), flat(usage))
            self.assertEqual(plain(parts["DESCRIPTION"]), flat(summary))
            name, about = plain(parts["NAME"]).split(" - ", 1)
            self.assertEqual(name, f"automodel-{command}")
            self.assertTrue(flat(summary).startswith(about) and not about.endswith("."), about)
            self.assertEqual(parts["NAME"].count("\n"), 1)  # whatis reads one line

    def test_manual__commands_and_exit_codes(self):
        told, parts = run([PROGRAM, "--help"]).out, sections(page())
        summaries = {
            f"automodel {m.group(1)}": flat(m.group(2))
            for m in re.finditer(r"^  ([a-z]+) +(.*)$", told, re.M)
        }
        self.assertEqual(dict(entries(parts["COMMANDS"])), summaries)
        codes = flat(told[told.index("exit codes: ") + len("exit codes: ") :])
        for text in (page(), *(page(c) for c in installed.commands())):
            self.assertEqual(", ".join(f"{c} {t}" for c, t in entries(sections(text)["EXIT STATUS"])), codes)

    def test_manual__environment_is_that_of_install(self):
        listed = (SOURCE / "INSTALL").read_text().split("Variables of the environment\n")[1].split("\n", 1)[1]
        wanted = [
            (flat(m.group(1)), flat(m.group(2)))
            for m in re.finditer(r"^([A-Z].*?) {3,}(\S.*)$", listed, re.M)
        ]
        self.assertGreaterEqual(len(wanted), 5)
        for text in (page(), page("train")):
            self.assertEqual(entries(sections(text)["ENVIRONMENT"]), wanted)

    def test_manual__see_also_names_every_page(self):
        pages = ["automodel"] + [f"automodel-{c}" for c in installed.commands()]
        for name in pages:
            command = name.split("-")[1:]
            also = set(re.findall(r"(automodel[a-z-]*)\(1\)", plain(sections(page(*command))["SEE ALSO"])))
            self.assertEqual(also, set(pages) - {name})

    def test_manual__built_pages_are_what_the_program_prints(self):
        pages = {"automodel.1": page(), **{f"automodel-{c}.1": page(c) for c in installed.commands()}}
        built = {p.name: p.read_text() for p in (BUILD / "man").glob("*.1")}
        self.assertEqual(built, pages)

    def test_manual__an_unknown_page_is_refused(self):
        done = run([PROGRAM, "--man", "trian"])
        self.assertEqual((done.code, done.out), (2, ""))
        self.assertIn('there is no command "trian"; did you mean "train"?', done.err)


class Typeset(unittest.TestCase):
    def each(self, *command):
        for path in sorted((BUILD / "man").glob("*.1")):
            done = run([*command, path])
            self.assertEqual((done.code, done.err), (0, ""), str(done))
            yield path.stem, flat(re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.out))

    def test_typeset__groff_has_no_warning(self):
        if not shutil.which("groff"):
            self.skipTest("there is no groff here")
        for name, text in self.each("groff", "-ww", "-man", "-Tutf8"):
            for heading in (
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "OPTIONS",
                "EXIT STATUS",
                "ENVIRONMENT",
                "SEE ALSO",
            ):
                self.assertRegex(text, rf"\b{heading}\b", name)

    def test_typeset__man_has_no_warning(self):
        if not shutil.which("man"):
            self.skipTest("there is no man here")
        for name, text in self.each("man", "--warnings=w", "-l"):
            self.assertIn(f"{name} - ", text)
            self.assertIn("--help", text)


if __name__ == "__main__":
    installed.main()
