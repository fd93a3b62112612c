#!/usr/bin/env python3
"""What every command has: --help, unknown options, exit code 2; and `automodel doctor`."""
import json
import os

from cli_test import ROOT, main, refused, run

COMMANDS = ("prepare", "train", "eval", "export", "generate", "inspect", "verify", "tokenize", "doctor")


def check_help(folder):
    listed = run("--help")
    for name in COMMANDS:
        assert f"\n  {name}" in listed
        text = run(name, "--help")
        assert text.startswith(f"usage: automodel {name}") and "--help" in text
    assert run("--version").startswith("automodel ")
    refused(2, 'did you mean "generate"?', "genrate")
    refused(2, "usage: automodel COMMAND")


def check_unknown_options(folder):
    for name in COMMANDS:
        refused(2, "has no option --jsson", name, "x", "--jsson")
    refused(2, "-o needs a value", "export", "x", "-o")
    refused(2, "is given twice", "export", "x", "-o", "a", "-o", "b")
    refused(2, "takes a whole number", "generate", "x", "--prompt-ids", "1", "-n", "many")


def families():
    """model types named by the cards of the tree"""
    cards = os.path.join(ROOT, "configs", "models")
    n = 0
    for name in os.listdir(cards):
        with open(os.path.join(cards, name), encoding="utf-8") as f:
            n += sum(len(line.split("#")[0].split()) - 1 for line in f if line.startswith("family "))
    return n


def check_doctor(folder):
    o = json.loads(run("doctor", "--json"))
    by_name = {c["name"]: c for c in o["checks"]}
    assert o["ok"] is True and all(c["ok"] for c in o["checks"])
    assert {"cores", "instructions", "memory", "memory limit", "huge pages", "MPI launcher", "chat templates", "HDF5", "model cards"} <= set(by_name)
    assert by_name["HDF5"]["found"].startswith("1.") and by_name["model cards"]["found"].startswith(f"{families()} families in ")
    assert "portable" in json.loads(run("doctor", "--json", env={"AM_ISA": "portable"}))["checks"][1]["found"]
    out = run("doctor", code=4, env={"AM_PYTHON": "/nowhere/python3"}, says="1 of")
    assert "MISSING  chat templates" in out and "apt-get install python3-jinja2" in out
    out = run("doctor", code=4, env={"PATH": folder}, says="1 of")
    assert "apt-get install openmpi-bin" in out
    out = run("doctor", "--json", code=4, env={"AM_CARDS": os.path.join(folder, "none")})
    assert [c["name"] for c in json.loads(out)["checks"] if not c["ok"]] == ["model cards"]
    refused(2, "one argument too many", "doctor", "now")


if __name__ == "__main__":
    main([check_help, check_unknown_options, check_doctor])
