#!/usr/bin/env python3
"""Write tokenizer_files.json: tiny files of every format that is not a tokenizer.json of our own making, and the ids that their own
libraries give: SentencePiece models (sentencepiece), tiktoken's ranked lines (tiktoken), Mistral's tekken.json (mistral-common),
and Unigram with SentencePiece's table of replacements (tokenizers).  All text is written here.

    make_tokenizer_files.py [--wide AUTOMODEL]

--wide writes nothing: it compares AUTOMODEL with sentencepiece and tokenizers on the whole tables nmt_nfkc and nmt_nfkc_cf (hundreds of
kB, so not kept) and on every character of Unicode.  Needs: pip install sentencepiece protobuf tiktoken mistral-common tokenizers."""
import base64
import io
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

import sentencepiece
import tiktoken
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from sentencepiece import sentencepiece_model_pb2 as proto
from tiktoken._educational import bpe_train
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tiktoken_ext import openai_public

HERE = os.path.dirname(os.path.abspath(__file__))
ADD_SPECIAL, AS_TEXT = 1, 2  # AM_ENCODE_ADD_SPECIAL, AM_ENCODE_SPECIAL_AS_TEXT
FEW = 5  # texts where only what is put around them is new
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then the other fox does the same.",
    "In 1984 there were 365 days; in 2024 there were 366, they say.",
    "She doesn't know what they'll do: it's theirs, isn't it?", "Tokens are pieces of words; words are pieces of text.",
    "def square(x):\n    return x * x  # the square of x", "for (int i = 0; i < n; i++) { sum += a[i]; }",
    "naïve café déjà vu, été, Straße, señor, smørrebrød", "Привет, мир! Это текст на русском языке, и ещё один текст.",
    "東京都は日本の首都です。漢字とかなを混ぜて書く。", "カタカナ ガギグゲゴ パピプペポ", "한국어 텍스트 각 단어", "हिन्दी में लिखा हुआ पाठ",
    "the then them there these those that this", "HELLO WORLD, Hello World, hello world",
] * 3
TEXTS = [
    "", " ", "   ", "Hello world", " leading", "trailing  ", "two  spaces   and\ttabs\n\n\nlines \n x\r\n\r\n y", "The answer is 42, not 1234567.",
    "I DON'T; she'll, WE'VE it\u2019s 'S 'm", "café CAFÉ e\u0301 a\u0323\u0302 s\u0323\u0307 \u0301x", "Привет мир, ещё раз и\u0306",
    "東京都市 漢字かな混じり文 カタカナ か\u3099 ﾊﾞﾋﾟﾊｶﾞ", "한국어 각 \u1112\u1161\u11ab \u1100\u1161", "हिन्दी में", "👩\u200d👩\u200d👧 😀\ufe0f 🇫🇷🇩🇪 👍🏽",
    "x\x00y\x1fz\x7f\u00a0w\u2028v\u200bu\ufefft\u00ads\u3000r", "ＦＵＬＬ ｗｉｄｔｈ １２３　ﬁﬂ ﬃ Ⅳ ² ½ ﷺ ｶ\u3099", "<s> </s><unk> <0x41> <pad> [INST]x[/INST]",
    "a" * 70, "the " * 20, "def f(x):\n    return x ** 2  # comment\n", "mixed中文English混合123абв", "▁under ▁▁x _", "\ufffd \U0010ffff \ue000",
    "Ǆǅǆ ſ \u212a K\u0130", "<|endoftext|><|im_start|>user\nhi<|im_end|> <|eot_id|>\n<|begin_of_text|>", "word<mask>word <mask> <MASK>", "12345 ١٢٣ Ⅷ ３",
    "...!!! --- //path/to \"quoted\" (x)[y]{z}\n\n", "thethethe othertherefore", "漢字mix漢字mix x漢字 mix漢字 myWord myWordmyWord", "½\u0301 x½\u0301½²\u0301",
]


# ---- SentencePiece ------------------------------------------------------------------------------------------------


def rules():
    """A small table of replacements with every kind of entry: one to one, to many, to nothing, sequences, sequences that begin alike."""
    table = {}
    for ranged in (range(0xff01, 0xff5f), range(0xff66, 0xffa0), range(0xfb00, 0xfb07), range(0x2160, 0x2170), (0xb2, 0xbd, 0xfdfa, 0xa0, 0x3000)):
        for cp in ranged:
            if unicodedata.normalize("NFKC", chr(cp)) != chr(cp):
                table[chr(cp)] = unicodedata.normalize("NFKC", chr(cp))
    for base, mark in itertools.product("aeiousAEIOU", "\u0301\u0302\u0323\u0307"):
        table[base + mark] = unicodedata.normalize("NFKC", base + mark)
        table[base + "\u0323" + mark] = unicodedata.normalize("NFKC", base + "\u0323" + mark)
    for cp in range(0xff76, 0xff83):
        table[chr(cp) + "\uff9e"] = unicodedata.normalize("NFKC", chr(cp) + "\uff9e")
    for first, second in itertools.product(range(0x1100, 0x1113, 6), range(0x1161, 0x1166)):
        table[chr(first) + chr(second)] = unicodedata.normalize("NFKC", chr(first) + chr(second))
    table["\u1112\u1161\u11ab"] = "한"
    table.update({c: " " for c in "\t\n\r\u2028\u200b\ufeff"})
    table.update({c: "" for c in "\x1f\x7f\xad"})
    table.update({"...": "\u2026", "\u2019": "'", "か\u3099": "が", "½\u0301": "the"})  # ½ alone stands there, too
    return {k: v for k, v in table.items() if k != v}


def write_rules(path):
    with open(path, "w", encoding="utf-8") as f:
        for source, target in rules().items():
            f.write(" ".join("%X" % ord(c) for c in source) + "\t" + " ".join("%X" % ord(c) for c in target) + "\n")


def trained(model_type, vocab_size, normalization="identity", **options):
    """The bytes of a model; normalization: a table's name, or "rules"."""
    with tempfile.TemporaryDirectory() as folder:
        if normalization == "rules":
            write_rules(os.path.join(folder, "rules.tsv"))
            options["normalization_rule_tsv"] = os.path.join(folder, "rules.tsv")
        else:
            options["normalization_rule_name"] = normalization
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=out, model_type=model_type, vocab_size=vocab_size, character_coverage=0.98,
            hard_vocab_limit=False, num_threads=1, minloglevel=2, **options)
    m = proto.ModelProto.FromString(out.getvalue())
    m.normalizer_spec.normalization_rule_tsv = ""
    return m


def with_types(m, **types):
    """Some pieces of another type: UNUSED=[pieces] …"""
    for kind, pieces in types.items():
        for p in m.pieces:
            if p.piece in pieces:
                p.type = proto.ModelProto.SentencePiece.Type.Value(kind)
    return m


def made_by_hand(pieces, model_type, byte_fallback=False):
    m = proto.ModelProto()
    for piece, score, kind in pieces:
        m.pieces.add(piece=piece, score=score, type=proto.ModelProto.SentencePiece.Type.Value(kind))
    m.trainer_spec.model_type = proto.TrainerSpec.ModelType.Value(model_type)
    m.trainer_spec.byte_fallback = byte_fallback
    m.normalizer_spec.name = "identity"
    m.normalizer_spec.add_dummy_prefix = False
    m.normalizer_spec.remove_extra_whitespaces = False
    return m


def spm_entry(name, m, file="tokenizer.model", texts=None, adds=(False, False), config=None):
    """adds: what encoding with ADD_SPECIAL puts around: (bos, eos)."""
    sp = sentencepiece.SentencePieceProcessor(model_proto=m.SerializeToString())
    listed = TEXTS if texts is None else texts
    ids = [sp.encode(t) for t in listed]
    front, back = [sp.bos_id()] * adds[0], [sp.eos_id()] * adds[1]
    special = [{sp.unk_id(), sp.bos_id(), sp.eos_id()} & set(i) for i in ids]
    return {"name": name, "file": file, "base64": base64.b64encode(m.SerializeToString()).decode(), "config": config, "texts": texts, "modes": [
        {"flags": AS_TEXT, "ids": ids, "decoded": [None if s else sp.decode(i) for i, s in zip(ids, special)]},
        {"flags": AS_TEXT | ADD_SPECIAL, "ids": [front + i + back for i in ids[:FEW]]}]}


def split_pieces(m):
    """Merges of the library for a BPE model: every split of a piece into two, the better scores first."""
    ids = {p.piece: i for i, p in enumerate(m.pieces) if p.type == 1}
    found = [(-m.pieces[i].score, ids[s[:k]], ids[s[k:]], (s[:k], s[k:])) for s, i in ids.items() for k in range(1, len(s))
             if s[:k] in ids and s[k:] in ids]
    return [pair for *_, pair in sorted(found)]


def converted(m):
    """The library's form of a Llama model, as it is kept in tokenizer.json files: to find control pieces in text with."""
    t = Tokenizer(models.BPE({p.piece: i for i, p in enumerate(m.pieces)}, split_pieces(m), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(p.piece, normalized=False) for p in m.pieces if p.type in (2, 3)])
    return t


# What an unknown character costs decides: 10 below the least score.  "bcdef" needs an unknown "a" before it; the three pairs need
# none and add up to 0.2 more (text 1) or 0.2 less (text 2).  The same with the pieces' least score elsewhere.
PENALTY_PIECES = [("<unk>", 0.0, "UNKNOWN"), ("<s>", 0.0, "CONTROL"), ("</s>", 0.0, "CONTROL"), ("low", -6.0, "NORMAL"), ("bcdef", -1.0, "NORMAL"),
                  ("ab", -5.6, "NORMAL"), ("cd", -5.6, "NORMAL"), ("ef", -5.6, "NORMAL"), ("hijkl", -1.0, "NORMAL"), ("gh", -5.7, "NORMAL"),
                  ("ij", -5.7, "NORMAL"), ("kl", -5.8, "NORMAL"), ("x", -3.0, "NORMAL"), ("▁", -2.0, "NORMAL")]
PENALTY_TEXTS = ["abcdef", "ghijkl", "xabcdefx", "xghijklx", "x ghijkl abcdef", "zz", "zxz", "lowz", "zzzabcdefzz"]


def texts_of_equal_ways(m):
    """Texts that can be cut in two ways with the same sum, of which sentencepiece, adding in float, takes another than the library, in double."""
    sp, t, r = sentencepiece.SentencePieceProcessor(model_proto=m.SerializeToString()), Tokenizer(unigram_of(m)), random.Random(9)
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = ["l", "ll", "o", "oo", " ", "u", "x", "e", "s", "ss", "the", "re", "7", "и"]
    texts = ["".join(r.choice(parts) for _ in range(r.randint(3, 16))).strip() for _ in range(20000)]
    return sorted((x for x in texts if "  " not in x and sp.encode(x) != t.encode(x).ids), key=len)[:8]


def sentencepiece_entries():
    plain = dict(remove_extra_whitespaces=False)
    yield spm_entry("spm_unigram_rules", trained("unigram", 190, "rules", user_defined_symbols=["<mask>", "e\u0301"], control_symbols=["<pad>"]))
    yield spm_entry("spm_unigram_bytes", trained("unigram", 430, byte_fallback=True, add_dummy_prefix=False, **plain), "spiece.model",
                    adds=(True, True), config={"add_bos_token": True, "add_eos_token": True})
    llama = trained("bpe", 480, byte_fallback=True, split_digits=True, **plain)
    entry = spm_entry("spm_bpe_llama", llama, adds=(True, False))
    t = converted(llama)
    ids = [t.encode(x).ids for x in TEXTS]
    entry["modes"].append({"flags": 0, "ids": ids, "decoded": [t.decode(i) for i in ids]})
    yield entry
    yield spm_entry("spm_bpe_rules", trained("bpe", 220, "rules", user_defined_symbols=["<mask>", "  "]), "sentencepiece.bpe.model",
                    config={"add_bos_token": False})
    pieces = [("<unk>", 0.0, "UNKNOWN"), ("ab", -1.0, "UNUSED"), ("a", -2.0, "NORMAL"), ("b", -3.0, "NORMAL")]
    entry = spm_entry("spm_bpe_unused", made_by_hand(pieces, "BPE"), texts=[])
    yield {**entry, "error": "marked unused"}
    m = trained("unigram", 170)
    singles = [p.piece for p in m.pieces if p.type == 1 and len(p.piece) == 1 and p.piece in "aot"]
    longest = sorted((p.piece for p in m.pieces if p.type == 1 and p.piece.isascii()), key=len)[-3:]
    yield spm_entry("spm_unigram_unused", with_types(m, UNUSED=singles + longest), texts=["the other there", "a toast", "the same words of the text", "ooo"])
    m = trained("unigram", 160)
    yield spm_entry("spm_unigram_float", m, texts=texts_of_equal_ways(m))
    yield spm_entry("spm_unigram_penalty", made_by_hand(PENALTY_PIECES, "UNIGRAM"), texts=PENALTY_TEXTS)


# ---- Unigram and Precompiled in a tokenizer.json -------------------------------------------------------------------


def json_entry(name, t, texts=None):
    listed = TEXTS if texts is None else texts
    ids = [t.encode(x).ids for x in listed]
    return {"name": name, "file": "tokenizer.json", "text": t.to_str(), "texts": texts,
            "modes": [{"flags": ADD_SPECIAL, "ids": ids, "decoded": [t.decode(i) for i in ids]}]}


def unigram_of(m):
    return models.Unigram([(p.piece, p.score) for p in m.pieces], next(i for i, p in enumerate(m.pieces) if p.type == 2), False)


def precompiled_entries():
    m = trained("unigram", 190, "rules")
    t = Tokenizer(unigram_of(m))
    t.normalizer = normalizers.Precompiled(m.normalizer_spec.precompiled_charsmap)
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    yield json_entry("precompiled", t)
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(m.normalizer_spec.precompiled_charsmap), normalizers.Replace("  ", " "),
                                         normalizers.Strip()])
    yield json_entry("precompiled_in_a_row", t)
    t = Tokenizer(unigram_of(made_by_hand(PENALTY_PIECES, "UNIGRAM")))
    t.decoder = decoders.Fuse()
    yield json_entry("unigram_penalty", t, PENALTY_TEXTS)


# ---- tiktoken and tekken -------------------------------------------------------------------------------------------


def public(name):
    """Pattern and special tokens of an encoding of the tiktoken package, which would fetch its ranks."""
    load = openai_public.load_tiktoken_bpe
    openai_public.load_tiktoken_bpe = lambda *a, **k: {}
    try:
        e = getattr(openai_public, name)()
    finally:
        openai_public.load_tiktoken_bpe = load
    return e["pat_str"], e["special_tokens"]


# As the models' own Python files have them: Llama 3's tokenizer.py, tokenization_qwen.py, tokenization_kimi.py.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace("{1,3}", "")
LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]%s[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]%s(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
KIMI = "|".join([r"[\p{Han}]+", LETTERS % ("*", "+"), LETTERS % ("+", "*"), r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)",
                 r"\s+"])
LLAMA3_NAMES = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
                "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
LLAMA3_NAMES += ["<|reserved_special_token_%d|>" % (2 + i) for i in range(256 - len(LLAMA3_NAMES))]
QWEN_NAMES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + ["<|extra_%d|>" % i for i in range(205)]
KIMI_NAMED = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_start|>"}


def kimi_specials(n):
    return {KIMI_NAMED.get(i, "<|reserved_token_%d|>" % (n + i)): n + i for i in range(256)}


def filler(i):
    return bytes([0xff, 0xfe, 0x80 + i // 64, 0x80 + i % 64])  # no UTF-8: never met in a text


def tiktoken_entry(name, file, ranks, pattern, specials, config=None, front=(), fillers=0, prepare=lambda x: x):
    """fillers: so many more tokens, which the test writes itself, where ids far beyond the tiny vocabulary are given."""
    all_ranks = {**ranks, **{filler(i): len(ranks) + i for i in range(fillers)}}
    e = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=all_ranks, special_tokens=specials)
    texts = TEXTS + ["%s%s x%s\n" % (s, s, s) for s in itertools.islice(specials, 3, 70, 11)] + list(itertools.islice(specials, 3, 12))
    found = [e.encode(prepare(x), allowed_special="all") for x in texts]
    plain = [e.encode_ordinary(prepare(x)) for x in texts]
    back = [e.decode([i for i in ids if i not in specials.values()]) for ids in found]
    out = {"name": name, "file": file, "config": config, "fillers": fillers, "texts": texts, "modes": [
        {"flags": 0, "ids": found, "decoded": back}, {"flags": AS_TEXT, "ids": plain, "decoded": [e.decode(i) for i in plain]}]}
    if front:
        out["modes"].append({"flags": ADD_SPECIAL, "ids": [[specials[f] for f in front] + i for i in found[:FEW]]})
    return out


def tiktoken_entries(ranks):
    lines = "".join("%s %d\n" % (base64.b64encode(b).decode(), r) for b, r in ranks.items())
    n = len(ranks)
    entry = tiktoken_entry("tiktoken_llama3", "tokenizer.model", ranks, LLAMA3, {s: n + i for i, s in enumerate(LLAMA3_NAMES)}, front=LLAMA3_NAMES[:1])
    yield {**entry, "text": lines}
    qwen = {s: n + i for i, s in enumerate(QWEN_NAMES)}
    yield tiktoken_entry("tiktoken_qwen", "qwen.tiktoken", ranks, QWEN, qwen, prepare=lambda x: unicodedata.normalize("NFC", x))
    named = {str(n + i): {"content": s, "special": True} for i, s in KIMI_NAMED.items()}
    yield tiktoken_entry("tiktoken_kimi", "tiktoken.model", ranks, KIMI, kimi_specials(n), config={"added_tokens_decoder": named})
    for name in ("cl100k_base", "o200k_base", "r50k_base", "p50k_base"):
        yield tiktoken_entry(name, name + ".tiktoken", ranks, *public(name), fillers={"cl100k_base": 200, "o200k_base": 2000}.get(name, 0))


def tekken_entry(name, ranks, version, specials, num_special, dropped):
    """specials: names in the file, or None (older files); dropped: so many of the last ranks lie beyond default_vocab_size."""
    def shown(b):
        try:
            return b.decode()
        except UnicodeDecodeError:
            return None
    j = {"config": {"pattern": public("o200k_base")[0].replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", ""), "num_vocab_tokens": len(ranks),
                    "default_vocab_size": len(ranks) - dropped + num_special, "default_num_special_tokens": num_special, "version": version},
         "vocab": [{"rank": r, "token_bytes": base64.b64encode(b).decode(), "token_str": shown(b)} for b, r in ranks.items()]}
    if specials:
        j["special_tokens"] = [{"rank": i, "token_str": s, "is_control": True} for i, s in enumerate(specials)]
    text = json.dumps(j, ensure_ascii=False, indent=0 if specials else None)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tekken.json")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        t = Tekkenizer.from_file(path)
    ids = [t.encode(x, False, False) for x in TEXTS]
    parts = ["<s>[INST] hi [/INST]", "x</s><SPECIAL_%d>" % (num_special - 1)]
    listed = [[t.get_special_token("<s>"), t.get_special_token("[INST]"), *t.encode(" hi ", False, False), t.get_special_token("[/INST]")],
              [*t.encode("x", False, False), t.get_special_token("</s>"), num_special - 1]]
    return {"name": name, "file": "tekken.json", "text": text, "texts": TEXTS + parts, "modes": [
        {"flags": AS_TEXT, "ids": ids + [t.encode(x, False, False) for x in parts], "decoded": [t.decode(i) for i in ids]},
        {"flags": AS_TEXT | ADD_SPECIAL, "ids": [t.encode(x, True, False) for x in TEXTS[:FEW]]},
        {"flags": 0, "ids": [None] * len(TEXTS) + listed}]}


def tekken_entries(ranks):
    fewer = dict(itertools.islice(ranks.items(), 340))
    yield tekken_entry("tekken", fewer, "v11", ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL]"], 12, 0)
    yield tekken_entry("tekken_old", dict(itertools.islice(ranks.items(), 290)), "v3", None, 24, 20)


# ---- all of it ----------------------------------------------------------------------------------------------------


def write():
    mixed = ["漢字mix漢字mix x漢字 123 345 myWord"] * 12  # tokens across borders at which only some patterns split
    ranks = bpe_train("\n".join(CORPUS[: len(CORPUS) // 3] + mixed), 436, LLAMA3, visualise=None)
    out = {"texts": TEXTS, "files": [*sentencepiece_entries(), *precompiled_entries(), *tiktoken_entries(ranks), *tekken_entries(ranks)]}
    for entry in out["files"]:
        for key in ("config", "texts", "fillers"):
            if not entry.get(key):
                entry.pop(key, None)
        listed = entry.get("texts", TEXTS)
        for mode in entry["modes"]:
            if "decoded" in mode:
                mode["decoded"] = [True if d == x else d for d, x in zip(mode["decoded"], listed)]
        if listed[:len(TEXTS)] == TEXTS and "texts" in entry:
            entry["more_texts"] = entry.pop("texts")[len(TEXTS):]
    path = os.path.join(HERE, "tokenizer_files.json")
    with open(path, "w", encoding="utf-8") as f:
        f.write('{"texts":' + json.dumps(TEXTS, separators=(",", ":")) + ',"files":[\n')
        f.write(",\n".join(json.dumps(e, ensure_ascii=True, separators=(",", ":")) for e in out["files"]) + "\n]}\n")
    print("%d files, %d kB" % (len(out["files"]), os.path.getsize(path) // 1000))


# ---- the whole tables ---------------------------------------------------------------------------------------------


def wide_texts():
    r = random.Random(5)
    everything = [chr(c) for c in range(1, 0x110000) if not 0xd800 <= c < 0xe000]
    for i in range(0, len(everything), 64):
        yield "".join(everything[i:i + 64])
        yield "a".join(everything[i:i + 64])
    marks = [c for c in everything if unicodedata.combining(c)]
    special = [c for c in everything if unicodedata.normalize("NFKC", c) != c]
    words = [t for t in TEXTS if t] + CORPUS[:14]
    for _ in range(40000):
        kinds = [r.choice(special), r.choice(marks), r.choice(everything[:0x3400]), r.choice("  \t\n aeiou"), r.choice(words)]
        yield "".join(r.choice(kinds) for _ in range(r.randint(1, 12)))
    for _ in range(20000):
        yield "".join(r.choice(words) + r.choice(["", " ", "  ", "\n"]) for _ in range(r.randint(1, 6)))


def ours(automodel, folder, texts):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as f:
        f.writelines(json.dumps({"text": x}) + "\n" for x in texts)
        f.flush()
        done = subprocess.run([automodel, "tokenize", folder, "--input", f.name], stdout=subprocess.PIPE, check=True)
    return [json.loads(line)["ids"] for line in done.stdout.decode().splitlines()]


def wide(automodel):
    texts, bad = list(wide_texts()), 0
    texts = [t.replace("<s>", "").replace("</s>", "").replace("<unk>", "") for t in texts]  # control pieces are found in text here
    kinds = [("unigram", "nmt_nfkc", {}), ("bpe", "nmt_nfkc", {}), ("unigram", "nmt_nfkc_cf", dict(byte_fallback=True)), ("bpe", "nfkc", dict(byte_fallback=True)),
             ("unigram", "nfkc", dict(remove_extra_whitespaces=False, add_dummy_prefix=False))]
    for model_type, table, options in kinds:
        m = trained(model_type, 600 if options.get("byte_fallback") else 250, table, **options)
        sp = sentencepiece.SentencePieceProcessor(model_proto=m.SerializeToString())
        forms = [("tokenizer.model", m.SerializeToString(), sp.encode(texts))]
        if model_type == "unigram":
            t = Tokenizer(unigram_of(m))
            t.normalizer = normalizers.Precompiled(m.normalizer_spec.precompiled_charsmap)
            t.pre_tokenizer = pre_tokenizers.Metaspace()
            forms.append(("tokenizer.json", t.to_str().encode(), [e.ids for e in t.encode_batch(texts)]))
        for file, data, expected in forms:
            with tempfile.TemporaryDirectory() as folder:
                with open(os.path.join(folder, file), "wb") as f:
                    f.write(data)
                with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
                    f.write('{"add_bos_token": false}')
                got = ours(automodel, folder, texts)
            wrong = [(x, a, b) for x, a, b in zip(texts, expected, got) if a != b]
            bad += len(wrong)
            print("%s %s %s: %d of %d texts differ" % (file, model_type, table, len(wrong), len(texts)), flush=True)
            for x, a, b in sorted(wrong, key=lambda w: len(w[0]))[:6]:
                print("  %s\n    library   %s\n    automodel %s" % (ascii(x)[:200], [sp.id_to_piece(i) for i in a][:40], [sp.id_to_piece(i) for i in b][:40]))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--wide"]:
        wide(sys.argv[2])
    write()
