#!/usr/bin/env python3
"""Write byte_bpe/tokenizer.json, char_bpe/tokenizer.json (some 600 tokens each, trained here) and tokenizer_cases.json: what
the Python library `tokenizers` makes of texts with these two and with variants of them (other normalizers, pre-tokenizers,
added tokens …).  Needs: pip install tokenizers.  Offsets are converted from characters to bytes of UTF-8.
With --real DIR (folders NAME/tokenizer.json) it writes real_tokenizer_cases.json instead; with --nfc it prints a hash."""
import hashlib
import json
import os
import sys

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = ["The quick brown fox jumps over the lazy dog.", "What is the answer to the question, and who is asking?",
          "def encode(text): return [vocab[t] for t in tokenize(text)]", "In 1984 there were 365 days; in 2024: 366.",
          "naïve café, Straße, Привет мир, 東京都, 한국어, שלום, हिन्दी", "I don't, you'll, they've, she's, we'd, I'm",
          "    indented\n\tcode\n\nwith blank lines   and   spaces", "the then them there these those that this"] * 4
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
TEXTS = ["", " ", "Hello world", "The answer is 42, not 1234567.", "  two  spaces   and\ttabs\n\n\nlines \n x", "I DON'T, you'LL; 'ſ",
         "naïve café Straße ÅÉ e\u0301 n\u0303 \u212b \ufb01 Ａ１ ½ ²", "Привет мир 東京都市 漢字 한국어 조선글 שלום हिन्दी",
         "\u1100\u1161\u11a8 \u1e9b\u0323 A\u030a\u0327", "👩\u200d👩\u200d👧 🇩🇪 😀\ufe0f", "a\u180eb\u3000c\u00a0d\u2028e\u0085f\u200bg",
         "x\x00y\x1fz\x7f", "<s>inside</s> <|im_start|>user\n hi<|im_end|>\n", "<NORM><Norm><norm> <norm>", "the them theme the",
         "word the word.the_the the", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "the" * 40,
         "def f(x):\r\n    return x**2 # ok?\r\n", "İstanbul ẞ ΟΔΥΣΣΕΥΣ", "12345678901234567890 ١٢٣ ⅷ", " leading", "trailing ",
         "http://a.b/c?d=e&f=[g]", "     five", "A <Norm> BC <norm> 12 x",
         "cafe fox\nold\ndog xxxy xy 1234567 be\u180ef  e", "か゚ー々〆、。漢ｱ﹏ ½ ⅷ ²x_y\u200d",
         " \U0001fa77love \U0001fae8\U0001fabfx \U00031350字 \U00010d4e",  # of Unicode 15 and 16
         "\U00020000\U0001d54f\U0010ffff\ufffd\ud7ff"]


def byte_tokenizer():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return json.loads(t.to_str())


def char_tokenizer():
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=600, limit_alphabet=80, show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)]))
    j = json.loads(t.to_str())
    j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
    return j


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(space=False, regex=False, trim=True):
    return {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": trim, "use_regex": regex}


def template(before, after, ids):
    def special(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [special(n) for n in before] + [{"Sequence": {"id": "A", "type_id": 0}}]
            + [special(n) for n in after], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [ids[n]], "tokens": [n]} for n in before + after}}


def added(base, *tokens):
    n = len(base["model"]["vocab"])
    return base["added_tokens"] + [
        {"id": n + i, "content": c, "single_word": "w" in f, "lstrip": "l" in f, "rstrip": "r" in f, "normalized": "n" in f,
         "special": "s" in f} for i, (c, f) in enumerate(tokens)]


def variants(byte, char):
    ids = byte["model"]["vocab"]
    bos = {"post_processor": {"type": "Sequence", "processors": [byte_level(True, True), template(["<s>"], [], ids)]}}
    llama3 = {"pre_tokenizer": sequence(split(LLAMA3), byte_level())}
    yield "gpt2", "byte_bpe", {}
    yield "gpt2_prefix_space_trimmed", "byte_bpe", {"pre_tokenizer": byte_level(True, True),
                                                    "post_processor": byte_level(True, True)}
    yield "llama3", "byte_bpe", {**llama3, **bos, "model": {"ignore_merges": True}}
    yield "qwen2", "byte_bpe", {"normalizer": {"type": "NFC"}, "pre_tokenizer": sequence(
        split(LLAMA3.replace("{1,3}", "")), byte_level(trim=False)), "post_processor": byte_level(trim=False)}
    yield "smollm2", "byte_bpe", {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, byte_level(regex=True))}
    yield "deepseek_v3", "byte_bpe", {"normalizer": {"type": "Sequence", "normalizers": []}, "pre_tokenizer": sequence(
        split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
        split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
              "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"), byte_level())}
    yield "kimi_intersections", "byte_bpe", {"pre_tokenizer": sequence(
        split(r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+(?i:'s|'t)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), byte_level())}
    yield "bloom_nested_class", "byte_bpe", {"pre_tokenizer": sequence(split(" ?[^(\\s|[.,!?…。，、।۔،])]+"), byte_level())}
    yield "falcon_bytes_before_digits", "byte_bpe", {"pre_tokenizer": sequence(
        {"type": "Punctuation", "behavior": "Contiguous"}, byte_level(regex=True),
        {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"))}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield ("split_%s_%s" % (behavior, invert), "byte_bpe",
                   {"pre_tokenizer": sequence(split(r"\s|[aeiou]", behavior, invert), byte_level())})
    for name, regex in (("word", r"\w+"), ("posix", "[[:alpha:]]+|[[:punct:]]"), ("hex", r"\h{2}"), ("boundary", r"\bth|\Bin"),
                        ("ruby_m", "(?m:o.w)|.e$|^d"), ("ruby_interval", r"\p{N}{1,3}+|x{,2}y"), ("possessive", r"\s++|\S+?e"),
                        ("scripts", r"\p{Hiragana}|\p{Han}+|\p{Latin}+"), ("newer_letters", r"\p{L}"),
                        ("newer_signs", r"[\p{P}\p{S}]"), ("not_word", r"[^\w]|\d"), ("escapes", r"\u0061|\x62|\x{3042}|\v")):
        yield "regex_" + name, "byte_bpe", {"pre_tokenizer": sequence(split(regex, "Removed"), byte_level())}
    for kind in ("Whitespace", "WhitespaceSplit", "Punctuation"):
        yield kind.lower(), "byte_bpe", {"pre_tokenizer": sequence({"type": kind, **({"behavior": "Isolated"} if kind == "Punctuation"
                                                                                    else {})}, byte_level())}
    norm = [("<Norm>", "n"), ("café", "n"), ("Ａ", "")]
    for kind in ("NFD", "NFKC", "Lowercase", "StripAccents"):
        yield "normalizer_" + kind, "byte_bpe", {"normalizer": {"type": kind}, "added_tokens": added(byte, *norm)}
    yield "normalized_added_rewritten", "byte_bpe", {
        "normalizer": {"type": "Lowercase"}, "added_tokens": added(byte, ("<Norm>", "n")), "pre_tokenizer": sequence(
            byte_level(space=True, regex=True), {"type": "Digits", "individual_digits": True})}
    yield "normalizer_sequence", "byte_bpe", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": "_ "}, {"type": "Prepend", "prepend": "^^"}]}}
    yield "added_tokens", "byte_bpe", {"added_tokens": added(byte, ("the", "w"), ("theme", "l"), ("<|im_start|>user", "rs"), ("ta", "nl"),
                                                             ("\n\n", ""), ("é", ""))}
    yield "around", "byte_bpe", {"post_processor": template(["<s>"], ["</s>"], ids)}
    yield "roberta", "byte_bpe", {"post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0],
                                                     "trim_offsets": True, "add_prefix_space": False}}
    strip = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                              {"type": "ByteFallback"}, {"type": "Fuse"},
                                              {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    yield "llama2", "char_bpe", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None, "decoder": strip, "added_tokens": added(char, ("<|im_end|>", "s"), ("the", "n"))}
    yield "gemma", "char_bpe", {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "pre_tokenizer": {
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "decoder": {"type": "Sequence", "decoders": strip["decoders"][:3]}}
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
            yield "metaspace_%s_%s" % (scheme, cut), "char_bpe", {"pre_tokenizer": meta, "decoder": meta,
                                                                 "added_tokens": added(char, ("the", "n"), ("<|im_end|>", "s"))}
    old = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    yield "metaspace_old", "char_bpe", {"pre_tokenizer": old, "decoder": old}
    yield "unknown_not_fused", "char_bpe", {"model": {"byte_fallback": False, "fuse_unk": False}}
    yield "unknown_fused", "char_bpe", {"model": {"byte_fallback": False}, "decoder": strip}


def merged(base, overrides):
    j = {**base, **{k: v for k, v in overrides.items() if k != "model"}}
    j["model"] = {**base["model"], **overrides.get("model", {})}
    return j


def run(tokenizer, text):
    e = tokenizer.encode(text)
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    # marks that normalisation reorders: their offsets within the character are not compared
    offsets = None if "\u0323" in text else [[at[a], at[b]] for a, b in e.offsets]
    return {"text": text, "ids": e.ids, "offsets": offsets, "decoded": tokenizer.decode(e.ids)}


def write(name, value):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def main_small():
    base = {"byte_bpe": byte_tokenizer(), "char_bpe": char_tokenizer()}
    for name, j in base.items():
        os.makedirs(os.path.join(HERE, name), exist_ok=True)
        write(name + "/tokenizer.json", j)
    cases = []
    for name, which, overrides in variants(base["byte_bpe"], base["char_bpe"]):
        t = Tokenizer.from_str(json.dumps(merged(base[which], overrides)))
        cases.append({"name": name, "base": which, "overrides": overrides, "cases": [run(t, x) for x in TEXTS]})
    write("tokenizer_cases.json", cases)


def main_real(folder):
    cases = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name, "tokenizer.json")
        t = Tokenizer.from_file(path)
        digest = hashlib.sha256(open(path, "rb").read()).hexdigest()
        cases.append({"name": name, "sha256": digest, "cases": [run(t, x) for x in TEXTS + CORPUS[:8]]})
    write("real_tokenizer_cases.json", cases)


def nfc_of_all_characters():
    """SHA-256 of the NFC of every character below U+20000, alone and before a mark, 64 characters a text."""
    marks = [0x301, 0x323, 0x338, 0x3099, 0x1161, 0x11a8]
    digest = hashlib.sha256()
    for first in range(0x40, 0x20000, 64):
        if not 0xd800 <= first < 0xe000:
            text = "".join("x" + chr(c) + "\n" + chr(c) + chr(marks[c % 6]) + "\n" for c in range(first, first + 64))
            digest.update(normalizers.NFC().normalize_str(text).encode())
    return digest.hexdigest()


if sys.argv[1:2] == ["--nfc"]:  # test_hf_tokenizer.c has it
    sys.exit(print(nfc_of_all_characters()))
main_real(sys.argv[2]) if sys.argv[1:2] == ["--real"] else main_small()
