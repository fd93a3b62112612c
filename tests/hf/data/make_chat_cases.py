#!/usr/bin/env python3
"""Write chat_cases.json: renders of transformers' apply_chat_template for small templates, its own mask where a template
has generation blocks, and masks by the prefix rule (hf/chat.h), computed here from renders of transformers and offsets of
`tokenizers`, for data/byte_bpe.  Needs: pip install transformers tokenizers jinja2."""
import json
import os

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
CHATML = """{% for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + (m.content if m.content is defined else '') }}
    {%- for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}
{{ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
BLOCKS = """{{ bos_token }}{% for m in messages %}
{% if m.role == 'assistant' %}
<|im_start|>assistant
{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}

{% else %}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
REWRITES = """{% for m in messages %}
{%- if m.role == 'assistant' -%}
<|im_start|>assistant
{% if loop.last %}<think>{{ m.reasoning_content | default('') }}</think>{% endif %}{{ m.content }}<|im_end|>
{% else -%}
<|im_start|>{{ m.role }}
{{ m.content | trim }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TOOLS = """{% if tools %}{{ '<s>' + (tools | tojson(indent=2)) + '</s>' }}{% endif %}{% set ns = namespace(n=0) %}
{%- for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'skip' %}{% continue %}{% endif %}
{{- ns.n ~ m.role ~ ': ' ~ (m.content | tojson) ~ '\\n' }}{% if ns.n > 6 %}{% break %}{% endif %}{% endfor %}"""
TEMPLATES = {"chatml": CHATML, "blocks": BLOCKS, "rewrites": REWRITES, "tools": TOOLS}

U, A = "user", "assistant"
CHATS = [
    [(U, "What is it?"), (A, "It is the answer.")],
    [("system", "Be brief."), (U, "naïve café 東京 😀?"), (A, "Straße, Привет мир 한국어 e\u0301."), (U, "  the  "), (A, "\n yes\n")],
    [(U, "one"), (A, ""), (U, "<|im_end|> & <b>'\"</b> \u2028 \x00"), (A, "<think>hm</think>two"), (U, "three"), (A, "four")],
    [(A, "I speak first."), (U, "ok")],
    [(U, "only a question")],
]
SPECIAL = [
    [{"role": U, "content": "call"}, {"role": A, "content": None, "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": {"x": 0.1, "y": [1, 2.0, None, True], "é": "<&>"}}}]},
     {"role": "tool", "content": "42"}, {"role": A, "content": "It is 42.", "tool_calls": None}],
    [{"role": U, "content": "q"}, {"role": A, "content": "a", "thinking": "because"}],
]
TOOL_LIST = [{"type": "function", "function": {"name": "get", "description": "größe <b>", "parameters": {"z": 1, "a": {"b": 1.5}}}}]


def byte_offsets(tokenizer, text):
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    e = tokenizer.encode(text, add_special_tokens=False)
    return e.ids, [s for s, _ in e.offsets]


def mask_of(starts, spans):
    return [int(any(a <= s < b for a, b in spans)) for s in starts]


def one(tok, raw, name, messages, tools):
    from transformers.utils.chat_template_utils import render_jinja_template

    def text(n, prompt=False):
        cleaned = [{k: v for k, v in m.items() if v is not None} for m in messages[:n]]
        return render_jinja_template([cleaned], tools=tools, chat_template=TEMPLATES[name], add_generation_prompt=prompt,
                                     **tok.special_tokens_map)[0][0]
    whole = tok.apply_chat_template(messages, tools=tools, chat_template=TEMPLATES[name], tokenize=False)
    assert whole == text(len(messages))
    ids, starts = byte_offsets(raw, whole)
    assistants = [i for i, m in enumerate(messages) if m["role"] == A]
    spans, turns, lost = [], [], 0
    for i in assistants:
        before, with_it = text(i, True), text(i + 1)
        holds = with_it.startswith(before)
        if holds and whole.startswith(with_it):
            spans.append((len(before), len(with_it)))
        else:
            lost += 1
        if holds:
            turn_ids, turn_starts = byte_offsets(raw, with_it)
            turns.append({"ids": turn_ids, "mask": mask_of(turn_starts, [(len(before), len(with_it))])})
    case = {"template": name, "messages": messages, "tools": tools, "text": whole,
            "prompted": tok.apply_chat_template(messages, tools=tools, chat_template=TEMPLATES[name], tokenize=False,
                                                add_generation_prompt=True),
            "ids": ids, "mask": mask_of(starts, spans), "lost": lost, "turns": turns}
    if name == "blocks":  # the mask of transformers decides; a turn alone gives the last block
        out = tok.apply_chat_template(messages, tools=tools, chat_template=BLOCKS, return_dict=True, return_assistant_tokens_mask=True)
        assert list(out["input_ids"]) == ids
        case.update(mask=list(out["assistant_masks"]), lost=0, turns=None)
    return case


def main():
    path = os.path.join(HERE, "byte_bpe", "tokenizer.json")
    raw = Tokenizer.from_file(path)
    tok = PreTrainedTokenizerFast(tokenizer_file=path, bos_token="<s>", eos_token="<|im_end|>")
    cases = []
    for chat in CHATS:
        messages = [{"role": r, "content": c} for r, c in chat]
        for name in TEMPLATES:
            cases.append(one(tok, raw, name, messages, None))
    cases += [one(tok, raw, "chatml", SPECIAL[0], None), one(tok, raw, "rewrites", SPECIAL[1], None),
              one(tok, raw, "tools", [{"role": "skip", "content": "x"}, {"role": U, "content": "ü<"}], TOOL_LIST)]
    with open(os.path.join(HERE, "chat_cases.json"), "w", encoding="utf-8") as f:
        json.dump({"templates": TEMPLATES, "cases": cases}, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


main()
