#!/usr/bin/env python3
"""The order of the house, checked in the sources.      test_floors.py [--root DIR] | test_floors.py --self-test

Every check is a function check_*(tree) that yields (file, line, sentence); read FLOORS and the other tables first.
--self-test builds a small clean tree, sees that nothing is found, then plants one fault after the other and sees that
exactly the check meant for it speaks.  Exit code 0: in order; 1: findings, one a line as file:line: check: sentence.
"""
import argparse
import os
import re
import sys
import tempfile

# Top to bottom; a module includes public headers of lower floors and its own files, nothing else.
# mesh stands below comm, whose groups are named by mesh dimensions: it is arithmetic over base alone (docs/architecture.md).
FLOORS = [
    ["main"],
    ["cli"],
    ["train", "plan"],
    ["parallel", "ckpt"],
    ["graph", "data", "optim"],
    ["hf", "config"],
    ["device", "comm", "topo"],
    ["kernels"],
    ["mesh"],
    ["base"],
]
# Private besides *_internal.h.  kernels/cpu has one door for its device, and kernels.h is the operator table.
PRIVATE = {"graph/pass.h"}
KERNEL_DOORS = {"kernels/kernels.h": None, "kernels/cpu/kernels_cpu.h": {"device"}}
# A foreign library is spoken to in one place.
FOREIGN = {
    "mpi.h": {"comm"},
    "hdf5.h": {"data"},
    "yaml.h": {"config"},
    "hwloc.h": {"topo"},
    "omp.h": {"kernels", "device", "train"},
}
FOREIGN_ASKED = {"src/cli/cmd_doctor.c"}  # asks libraries for their versions
BANNED = {
    "strcpy": "snprintf or am_str", "strcat": "am_str", "sprintf": "snprintf", "vsprintf": "vsnprintf",
    "gets": "fgets or am_file_read", "strtok": "strcspn and strspn", "atoi": "am_parse_i64", "atol": "am_parse_i64",
    "atof": "am_parse_f64", "assert": "AM_CHECK or AM_ASSERT",
}
# Only main ends the process; am_comm_abort is the one other door, for a failure in the middle of a collective step.
ENDING = ("exit", "_exit", "_Exit", "quick_exit", "abort")
ENDING_DOORS = {"exit": {"src/main.c"}, "_exit": {"src/main.c", "src/comm/comm_mpi.c"},
                "_Exit": {"src/main.c", "src/comm/comm.c", "src/comm/comm_self.c"}}
MAX_LINES = 700
# What would tie the files to the machine or the network where they were written.
FOREIGN_TO_REPOSITORY = [
    (re.compile(r"(?<![\w.~$}])/(?:wor[k]|op[t]|roo[t]|home/\w+)(?=/|[\s\"'`),;:]|$)"), "a path of somebody's machine"),
    (re.compile(r"/tmp/buil[d]"), "a path of somebody's machine"),
    (re.compile(r"\b(?:deb\.debian\.org|security\.debian\.org|archive\.ubuntu\.com|(?:files\.)?pypi\.org|pythonhosted\.org|"
                r"registry\.npmjs\.org|crates\.io|proxy\.golang\.org|conda\.anaconda\.org)\b"), "the host name of a registry"),
    (re.compile(r"\b(?:s[e]ssions?|[a]gents?|sub[a]gents?|help[e]r-?\d+)\b", re.I),
     "a word about how the file came about, not about the program"),
]
SKIPPED_FOLDERS = {".git", "__pycache__", "runs", "demo"}
CODE = (".c", ".h", ".inc", ".cu", ".cuh")
SCRIPTS = (".py", ".sh")


class Tree:
    """The text files of a folder: {path relative to the root: text}."""

    def __init__(self, root):
        self.root = root
        self.files = {}
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith("build"))
            for name in sorted(names):
                path = os.path.join(folder, name)
                if not os.path.isfile(path) or name.endswith((".safetensors", ".h5", ".hdf5", ".o")):
                    continue
                with open(path, "rb") as f:
                    data = f.read(8 << 20)
                if b"\0" in data:
                    continue
                self.files[os.path.relpath(path, root)] = data.decode("utf-8", "replace")

    def code(self, *folders, endings=CODE):
        for path, text in self.files.items():
            if path.endswith(endings) and path.split("/")[0] in folders:
                yield path, text


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def without_comments_and_strings(text):
    """The same length and lines, so that positions hold."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def module_of(path):
    """src/graph/emit.c → graph; src/main.c → main; kernels/cpu/act.c → kernels; tests/graph/x.c → graph"""
    parts = path.split("/")
    if parts[0] == "kernels":
        return "kernels"
    if len(parts) == 2:
        return os.path.splitext(parts[1])[0]
    return parts[1]


def floor_of(module):
    for height, modules in enumerate(reversed(FLOORS)):
        if module in modules:
            return height
    return None


def includes(tree, *folders):
    """(file, line, quoted name, resolved path or None) of every #include "…" """
    for path, text in tree.code(*folders):
        for m in re.finditer(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', text, re.M):
            name, found = m.group(1), None
            for base in (os.path.dirname(path), "src", "kernels"):
                candidate = os.path.normpath(os.path.join(base, name))
                if candidate in tree.files:
                    found = candidate
                    break
            yield path, line_of(text, m.start()), name, found


def check_floor(tree):
    """no include climbs, and every folder of src has a floor"""
    for path, line, name, found in includes(tree, "src", "kernels"):
        mine = module_of(path)
        if floor_of(mine) is None:
            yield path, line, f"module {mine} stands on no floor; add it to FLOORS"
        elif found is None:
            yield path, line, f'"{name}" is found neither beside the file nor in src or kernels'
        elif module_of(found) != mine and floor_of(module_of(found)) is not None \
                and floor_of(module_of(found)) >= floor_of(mine):
            yield path, line, f"{mine} includes {name}: {module_of(found)} is not on a lower floor"


def check_private(tree):
    """nobody reaches into another module's private header"""
    for path, line, name, found in includes(tree, "src", "kernels", "tests"):
        if found is None or not found.startswith(("src/", "kernels/")):
            continue
        mine, theirs = module_of(path), module_of(found)
        if mine == theirs or path.startswith("tests/walls/"):  # the walls look inside on purpose
            continue
        private = found.endswith("_internal.h") or found[len("src/"):] in PRIVATE
        if theirs == "kernels":
            private = found not in KERNEL_DOORS or (KERNEL_DOORS[found] is not None and mine not in KERNEL_DOORS[found])
        if private:
            yield path, line, f"{name} is private to {theirs}"


def check_foreign(tree):
    """a foreign library's header is included by the module that wraps it"""
    for path, text in tree.code("src", "kernels"):
        for m in re.finditer(r'^[ \t]*#[ \t]*include[ \t]+[<"]([^>"]+)[>"]', text, re.M):
            owners = FOREIGN.get(m.group(1))
            if owners and module_of(path) not in owners and path not in FOREIGN_ASKED:
                yield path, line_of(text, m.start()), f"<{m.group(1)}> belongs to {', '.join(sorted(owners))}"


def check_banned(tree):
    """functions that cannot be used safely, and ends of the process outside main"""
    for path, text in tree.code("src", "kernels", "tests"):
        bare = without_comments_and_strings(text)
        for m in re.finditer(r"(?<![\w.>])(%s)[ \t]*\(" % "|".join(BANNED), bare):
            yield path, line_of(text, m.start()), f"{m.group(1)}() is banned; use {BANNED[m.group(1)]}"
        if path.startswith("tests/"):
            continue
        for m in re.finditer(r"(?<![\w.>])(%s)[ \t]*\(" % "|".join(ENDING), bare):
            if path not in ENDING_DOORS.get(m.group(1), ()):
                yield path, line_of(text, m.start()), f"{m.group(1)}() outside main.c: return a status"


def is_written_by_a_script(text):
    return re.match(r"/\* \S+ written by \S+\.py", text) is not None


def check_length(tree):
    """a file that a person can read in one sitting; tables written by a script are none"""
    for path, text in tree.code("src", "kernels", "tests", "tools", endings=CODE + SCRIPTS):
        lines = text.count("\n")
        if lines > MAX_LINES and not is_written_by_a_script(text):
            yield path, lines, f"{lines} lines; at most {MAX_LINES}: is there a second room in it?"


def check_opening(tree):
    """every file says at its top what it is"""
    for path, text in tree.code("src", "kernels", "tests"):
        if not text.lstrip().startswith(("/*", "//")):
            yield path, 1, "opens without a comment that says what it is"
    for path, text in tree.code("tests", "tools", ".ci", endings=SCRIPTS):
        body = re.sub(r"\A#![^\n]*\n", "", text).lstrip()
        if not body.startswith(("#", '"""', 'r"""')):
            yield path, 1, "opens without a comment that says what it is"


def check_hygiene(tree):
    """nothing ties the repository to the place where it was written"""
    for path, text in tree.files.items():
        for pattern, what in FOREIGN_TO_REPOSITORY:
            for m in pattern.finditer(text):
                yield path, line_of(text, m.start()), f"\"{m.group(0)}\" is {what}"


def check_promises(tree):
    """what is missing is refused by a sentence, not promised in a comment"""
    for path, text in tree.files.items():
        for m in re.finditer(r"\b(?:TOD[O]|FIXM[E]|XX[X])\b|\bnot (?:yet )?implemente[d]\b", text):
            yield path, line_of(text, m.start()), f"\"{m.group(0)}\": finish it, or refuse it with a sentence"


CHECKS = [check_floor, check_private, check_foreign, check_banned, check_length, check_opening, check_hygiene,
          check_promises]


def findings(root):
    tree = Tree(root)
    for check in CHECKS:
        for path, line, sentence in check(tree):
            yield path, line, check.__name__[len("check_"):], sentence


# ---- self-test ----

CLEAN = {
    "src/main.c": '/* main */\n#include "cli/cli.h"\nint main(void)\n{\n    exit(0);\n}\n',
    "src/cli/cli.h": "/* cli */\n",
    "src/base/base.h": "/* base: no exit(), no strcpy() here */\n",
    "src/base/base.c": '/* base */\n#include "base/base.h"\nstatic const char *text = "never call gets(x)";\n',
    "src/mesh/mesh.h": '/* mesh */\n#include "base/base.h"\n',
    "src/comm/comm.h": '/* comm */\n#include "mesh/mesh.h"\n',
    "src/comm/comm_internal.h": '/* comm, inside */\n#include "comm/comm.h"\n',
    "src/comm/comm_self.c": '/* comm */\n#include "comm/comm_internal.h"\n#include <mpi.h>\nvoid f(void) { _Exit(1); }\n',
    "src/graph/graph.h": '/* graph */\n#include "kernels.h"\n#include "comm/comm.h"\n',
    "src/graph/pass.h": '/* passes */\n#include "graph/graph.h"\n',
    "src/graph/emit.c": '/* emit */\n#include "graph/pass.h"\n',
    "src/device/device.c": '/* device */\n#include "cpu/kernels_cpu.h"\n',
    "src/ckpt/ckpt.c": '/* ckpt */\n#include "graph/graph.h"\n',
    "kernels/kernels.h": '/* kernels */\n#include "base/base.h"\n',
    "kernels/cpu/kernels_cpu.h": '/* cpu */\n#include "kernels.h"\n',
    "kernels/cpu/act.c": '/* act */\n#include "kernels_cpu.h"\n',
    "tests/graph/test_graph_x.c": '/* test */\n#include "graph/pass.h"\nvoid f(void) { assert_true(1); exit(0); }\n',
    "tests/walls/test_walls_x.c": '/* test */\n#include "graph/pass.h"\n',
    "tests/graph/table.h": "/* table: written by make.py with torch */\n" + "1,\n" * 800,
    "tools/x.py": '#!/usr/bin/env python3\n"""x"""\n',
    "docs/a.md": "Install into $PREFIX; a/workshop is nobody's machine.\n",
}
# (file, text added to it (or a new file), check that must speak, part of its sentence)
PLANTED = [
    ("src/base/base.c", '#include "graph/graph.h"\n', "floor", "not on a lower floor"),
    ("src/graph/emit.c", '#include "ckpt/ckpt.h"\n', "floor", "neither beside"),
    ("src/comm/comm.h", '#include "device/device.h"\n', "floor", "not on a lower floor"),  # the same floor
    ("src/attic/a.c", '/* a */\n#include "base/base.h"\n', "floor", "no floor"),
    ("kernels/cpu/act.c", '#include "graph/graph.h"\n', "floor", "not on a lower floor"),
    ("src/graph/emit.c", '#include "comm/comm_internal.h"\n', "private", "private to comm"),
    ("src/ckpt/ckpt.c", '#include "graph/pass.h"\n', "private", "private to graph"),
    ("src/graph/emit.c", '#include "cpu/kernels_cpu.h"\n', "private", "private to kernels"),
    ("tests/graph/test_graph_x.c", '#include "comm/comm_internal.h"\n', "private", "private to comm"),
    ("src/graph/emit.c", "#include <mpi.h>\n", "foreign", "belongs to comm"),
    ("src/ckpt/ckpt.c", "void g(void) { exit (3); }\n", "banned", "outside main.c"),
    ("src/ckpt/ckpt.c", "void g(void) { _Exit(3); }\n", "banned", "outside main.c"),
    ("docs/a.md", "see /wor" + "k/main\n", "hygiene", "machine"),
    ("docs/a.md", "see `/op" + "t/ref`\n", "hygiene", "machine"),
    ("tools/x.py", "P = '/roo" + "t/x'\n", "hygiene", "machine"),
    ("tools/x.py", "P = '/tmp/buil" + "d-x'\n", "hygiene", "machine"),
    ("docs/a.md", "from pypi" + ".org\n", "hygiene", "registry"),
    ("docs/a.md", "the A" + "gent wrote\n", "hygiene", "came about"),
    ("docs/a.md", "by help" + "er-3\n", "hygiene", "came about"),
    ("src/graph/emit.c", "int x;\n" * 701, "length", "at most 700"),
    ("tools/x.py", "x = 1\n" * 701, "length", "at most 700"),
    ("src/base/base.c", "/* TOD" + "O: more */\n", "promises", "finish it"),
    ("docs/a.md", "It is not implemente" + "d.\n", "promises", "finish it"),
    ("src/base/other.h", "#define X 1\n", "opening", "without a comment"),
    ("tools/y.py", "import os\n", "opening", "without a comment"),
] + [("src/base/base.c", f"void g(void) {{ {name}(0); }}\n", "banned", f"{name}() is banned") for name in BANNED]


def write_tree(root, files):
    for path, text in files.items():
        os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
        with open(os.path.join(root, path), "w") as f:
            f.write(text)


def found_in(files):
    with tempfile.TemporaryDirectory() as root:
        write_tree(root, files)
        return list(findings(root))


def self_test():
    wrong = [f"the clean tree: {f}" for f in found_in(dict(CLEAN, **{"src/device/device.h": "/* device */\n"}))]
    for path, text, check, part in PLANTED if not wrong else []:
        files = dict(CLEAN, **{"src/device/device.h": "/* device */\n"})
        files[path] = files.get(path, "") + text
        seen = found_in(files)
        if [f[2] for f in seen] != [check] or part not in seen[0][3]:
            wrong.append(f"{path} with {text[:40]!r}: expected one finding of {check} with {part!r}, got {seen}")
    for sentence in wrong:
        print(f"test_floors: self-test: {sentence}")
    print(f"test_floors: self-test: {len(PLANTED) + 1 - len(wrong)} of {len(PLANTED) + 1} as expected")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default=os.environ.get("AM_SOURCE_DIR", "."))
    parser.add_argument("--self-test", action="store_true", help="plant faults into a small tree and see each found")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    found = list(findings(args.root))
    for path, line, check, sentence in found:
        print(f"{path}:{line}: {check}: {sentence}")
    print(f"test_floors: {len(found)} findings in {len(Tree(args.root).files)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
