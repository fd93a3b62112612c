#!/usr/bin/env python3
"""`automodel tokenize` as a person runs it: ids and masks of the files in data/, errors in place, exit codes.
    test_hf_tokenize_command.py AUTOMODEL"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "data")
AUTOMODEL = sys.argv[1]


def tokenize(model, lines, *options, code=0, env=None):
    text = "".join(line + "\n" for line in lines)
    done = subprocess.run([AUTOMODEL, "tokenize", model, *options], input=text.encode(), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env={**os.environ, **(env or {})}, check=False)
    assert done.returncode == code, (done.returncode, done.stderr)
    return [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]


def dump(value):
    return json.dumps(value, ensure_ascii=False)


def check_text_and_decode():
    model = os.path.join(DATA, "byte_bpe")
    cases = json.load(open(os.path.join(DATA, "tokenizer_cases.json"), encoding="utf-8"))[0]["cases"]
    got = tokenize(model, [dump({"text": c["text"]}) for c in cases])
    assert got == [{"ids": c["ids"]} for c in cases]
    got = tokenize(model, [dump({"ids": c["ids"]}) for c in cases], "--decode")
    assert got == [{"text": c["decoded"]} for c in cases]
    assert tokenize(model, ['{"ids": [3]}'], "--decode", "--keep-special") == [{"text": "<|im_end|>"}]


def check_messages(folder):
    j = json.load(open(os.path.join(DATA, "chat_cases.json"), encoding="utf-8"))
    shutil.copy(os.path.join(DATA, "byte_bpe", "tokenizer.json"), folder)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        f.write('{"bos_token": "<s>", "eos_token": "<|im_end|>"}')
    for name, template in j["templates"].items():
        with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8") as f:
            f.write(template)
        cases = [c for c in j["cases"] if c["template"] == name]
        got = tokenize(folder, [dump({"messages": c["messages"], "tools": c["tools"]}) for c in cases])
        assert got == [{"ids": c["ids"], "loss_mask": c["mask"]} for c in cases], name


def check_errors(folder):
    good = '{"text": "the"}'
    got = tokenize(folder, [good, "{bad", "", '{"text": 1}', '{"other": 1}', '{"messages": []}', '{"text": "a\\ud800"}', good], code=3)
    assert [sorted(g) for g in got] == [["ids"]] + [["error"]] * 6 + [["ids"]], got
    got = tokenize(folder, ['{"ids": [1, 99999]}', '{"text": "x"}', '{"ids": [-1]}'], "--decode", code=3)
    assert all("error" in g for g in got) and "99999" in got[0]["error"], got
    chat = '{"messages": [{"role": "user", "content": "x"}]}'
    tokenize(folder, [chat], code=4, env={"AM_PYTHON": "/no/such/python"})
    os.remove(os.path.join(folder, "chat_template.jinja"))
    got = tokenize(folder, [chat, good], code=3)
    assert "no chat template" in got[0]["error"] and "ids" in got[1], got
    tokenize(os.path.join(folder, "absent"), [good], code=3)
    tokenize(folder, [good], "--decod", code=2)


def main():
    if subprocess.run([os.environ.get("AM_PYTHON", "/usr/bin/python3"), "-I", "-c", "import jinja2"],
                      stderr=subprocess.DEVNULL, check=False).returncode != 0:
        print("skipped: no Python with Jinja2 (apt-get install python3-jinja2)")
        sys.exit(77)
    check_text_and_decode()
    with tempfile.TemporaryDirectory() as folder:
        check_messages(folder)
        check_errors(folder)


main()
