#!/usr/bin/env python3
"""Write files/tiny (a byte-level BPE of some 300 tokens with a ChatML template) and print what test_data_prepare expects:
ids by the Python library `tokenizers`, masks by character offsets, computed here."""
import json
import os

import jinja2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files", "tiny")
TEMPLATE = ("{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]

t = Tokenizer(models.BPE())
t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
t.decoder = decoders.ByteLevel()
t.train_from_iterator(["what is the answer to the question", "the user asks and the assistant answers"] * 3,
                      trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False,
                                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
t.save(os.path.join(here, "tokenizer.json"))
with open(os.path.join(here, "tokenizer_config.json"), "w") as f:
    json.dump({"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE,
               "tokenizer_class": "PreTrainedTokenizerFast"}, f, indent=1)
    f.write("\n")


def show(name, ids, mask):
    print(f"static const uint32_t {name}_ids[] = {{{', '.join(map(str, ids))}}};")
    print(f"static const uint8_t {name}_mask[] = {{{', '.join(map(str, mask))}}};")


def plain(name, prompt, answer):
    e = t.encode(prompt + answer)
    show(name, e.ids + [1], [int(b > 0 and a >= len(prompt)) for a, b in e.offsets] + [1])


def chat(name, messages):
    render = lambda m, g: jinja2.Template(TEMPLATE, keep_trailing_newline=True).render(messages=m, add_generation_prompt=g)
    text, spans = render(messages, False), []
    for i, m in enumerate(messages):
        if m["role"] == "assistant":
            spans.append((len(render(messages[:i], True)), len(render(messages[:i + 1], False))))
    e = t.encode(text, add_special_tokens=False)
    show(name, e.ids, [int(any(x <= a < y for x, y in spans)) for a, _ in e.offsets])


plain("text", "", "the answer is 42")
plain("pair", "what is the question?", " the answer")
chat("chat", [{"role": "user", "content": "the question"}, {"role": "assistant", "content": "an answer"},
              {"role": "user", "content": "and"}, {"role": "assistant", "content": "is the"}])
