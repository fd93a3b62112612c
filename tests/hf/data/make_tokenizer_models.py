#!/usr/bin/env python3
"""Write tokenizer_models.json: tiny tokenizers of every model kind (trained here) and what the Python library `tokenizers` makes
of texts with them.  Needs: pip install tokenizers."""
import json
import os

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = ["The quick brown fox jumps over the lazy dog.", "the then them there these those that this, don't",
          "In 1984 there were 365 days; in 2024: 366.", "naïve café Straße Привет мир 東京都 한국어 हिन्दी"] * 4
TEXTS = ["", " ", "Hello world", "The answer is 42, not 1234567.", "  two  spaces   and\ttabs\n\n\nlines \n x", "I DON'T; café CAFÉ e\u0301",
         "Привет мир 東京都市 漢字 한국어 हिन्दी", "👩\u200d👩\u200d👧 😀\ufe0f \u200b\ufeff\ufffd", "x\x00y\x1fz\x7f \u00a0 \u2028", "the " * 30,
         "<unk> [UNK] unknownword", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]


def trained(model, trainer, pre, normalizer=None, decoder=None):
    t = Tokenizer(model)
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    if decoder:
        t.decoder = decoder
    t.train_from_iterator(CORPUS, trainer)
    return t


def all_kinds():
    bert, words = pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Whitespace()
    unigram = trained(models.Unigram(), trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>",
                                                                show_progress=False), pre_tokenizers.Metaspace(), None,
                      decoders.Metaspace())
    yield "unigram", json.loads(unigram.to_str())
    with_bytes = json.loads(unigram.to_str())
    with_bytes["model"]["byte_fallback"] = True
    with_bytes["model"]["vocab"] += [["<0x%02X>" % i, -20.0] for i in range(256)]
    yield "unigram_bytes", with_bytes
    piece = trained(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"],
                                                                                  show_progress=False), bert,
                    normalizers.BertNormalizer(), decoders.WordPiece())
    yield "wordpiece", json.loads(piece.to_str())
    yield "wordlevel", json.loads(trained(models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(
        special_tokens=["[UNK]"], show_progress=False), words).to_str())
    yield "suffix", json.loads(trained(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), trainers.BpeTrainer(
        vocab_size=150, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False), bert,
        normalizers.BertNormalizer(), decoders.BPEDecoder()).to_str())
    yield "prefix", json.loads(trained(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"), trainers.BpeTrainer(
        vocab_size=150, special_tokens=["<unk>"], continuing_subword_prefix="##", show_progress=False),
        pre_tokenizers.WhitespaceSplit()).to_str())
    for name, norm, pre in (("nmt", {"type": "Nmt"}, {"type": "CharDelimiterSplit", "delimiter": "e"}),
                            ("bytes", {"type": "ByteLevel"}, {"type": "FixedLength", "length": 3}),
                            ("scripts", None, {"type": "UnicodeScripts"})):
        j = json.loads(unigram.to_str())
        j["normalizer"], j["pre_tokenizer"] = norm, pre
        yield name, j


def main():
    out = []
    for name, j in all_kinds():
        t = Tokenizer.from_str(json.dumps(j))
        cases = [{"text": x, "ids": t.encode(x).ids, "decoded": t.decode(t.encode(x).ids)} for x in TEXTS]
        out.append({"name": name, "tokenizer": j, "cases": cases})
    with open(os.path.join(HERE, "tokenizer_models.json"), "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


main()
