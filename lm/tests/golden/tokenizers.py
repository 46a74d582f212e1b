"""The parts that the families' tokenizer.json files are put together from, around small vocabularies, and the tokens that transformers
gives texts and conversations: writes tokenizers.json beside itself.

    pip install -r ../python/requirements.txt && python3 tokenizers.py
"""

import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
# This file's own name is the library's.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != HERE.resolve()]
from transformers import AutoTokenizer  # noqa: E402

SAMPLE = ["the farmers of the hills keep their things", "This and that, in 1984 or in 12345."]
TEXTS = ["the farmers of the hills", " the  hills ", "a\nb\n\n\n c\t\td", "12345 in 1984, I'LL they'll", "nai\u0308ve caf\u00e9 \u4f60\u597d \U0001f41d", "",
         "<think>the</think> <s> <0x0A>", "\u2581the \u2581\u2581", "This, that: {{ x }} \\n", "\r\n \u00a0 end  "]
USER, REPLY = "the things  of\nthat", "This and the hills."


def added(first, *contents, special=True, **flags):
    return [{"id": first + i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special, **flags}
            for i, c in enumerate(contents)]


def merges(words):
    """Pairs that make words, from their beginnings on, and the pieces that they make."""
    pieces, pairs = [], []
    for word in words:
        for end in range(2, len(word) + 1):
            left, right = word[:end - 1], word[end - 1]
            if word[:end] not in pieces:
                pieces.append(word[:end])
                pairs.append([left, right])
    return pieces, pairs


def pieces_model(space="\u2581"):
    words = [space + w for line in SAMPLE for w in line.split()] + ["in", "at", space * 2]
    pieces, pairs = merges(words)
    letters = sorted({c for line in SAMPLE for c in line if c != " "} | {space, "b", "c", "d", "x", "\n"})
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + pieces + [c for c in letters if c not in pieces]
    tokens = list(dict.fromkeys(tokens))
    return {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": True, "ignore_merges": False, "vocab": {t: i for i, t in enumerate(tokens)}, "merges": pairs}


def bytes_alphabet():
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def bytes_model(**more):
    spelled = bytes_alphabet()
    spell = lambda text: "".join(spelled[b] for b in text.encode())
    words = [spell((" " if i else "") + w) for line in SAMPLE for i, w in enumerate(line.split())] + [spell(w) for w in ["123", "1984", "\n\n", "\t\t", "'LL"]]
    pieces, pairs = merges(words)
    tokens = list(dict.fromkeys(list(spelled.values()) + pieces + [spell(" whole")]))
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
            "byte_fallback": False, "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [" ".join(p) for p in pairs], **more}


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
UNSPACED = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")


def split(pattern):
    return {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, BYTES]}


def sequence(kind, *parts):
    return {"type": "Sequence", kind: list(parts)}


def first(token, token_id):
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    text = lambda i: {"Sequence": {"id": "AB"[i], "type_id": i}}
    return {"type": "TemplateProcessing", "single": [special, text(0)], "pair": [special, text(0), special, text(1)],
            "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}}}


def whole(model, tokens, normalizer=None, pre=None, post=None, decoder=None):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer, "pre_tokenizer": pre,
            "post_processor": post, "decoder": decoder, "model": model}


S = added(0, "<unk>", "<s>", "</s>")
N = len(bytes_model()["vocab"])
M = len(pieces_model()["vocab"])
CHATML = added(N, "<|endoftext|>", "<|im_start|>", "<|im_end|>")
HEADERS = added(N, "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
TURNS = added(M, "<start_of_turn>", "<end_of_turn>")
THINK = ["<think>", "</think>"]
INST = "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
ZEPHYR = "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
IM = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
HEADER = "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
TURN = "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m.role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n' }}{% endif %}"
SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
BS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
spaced = lambda scheme: {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}
CASES = {
    "Llama 2": (whole(pieces_model(), S, sequence("normalizers", {"type": "Prepend", "prepend": "\u2581"}, REPLACE), None, first("<s>", 1), sequence("decoders", *UNSPACED, STRIP)),
                {**BS, "chat_template": SYSTEM + INST}),
    "Llama 2, newer": (whole(pieces_model(), S, None, spaced("first"), first("<s>", 1), sequence("decoders", *UNSPACED, STRIP)), {**BS, "chat_template": SYSTEM + INST}),
    "Mistral": (whole(pieces_model(), S + added(M, "[INST]", "[/INST]"), None, spaced("first"), first("<s>", 1), sequence("decoders", *UNSPACED, STRIP)),
                {**BS, "chat_template": SYSTEM + INST}),
    "Zephyr": (whole(pieces_model(), S, sequence("normalizers", {"type": "Prepend", "prepend": "\u2581"}, REPLACE), None, first("<s>", 1), sequence("decoders", *UNSPACED, STRIP)),
               {**BS, "chat_template": SYSTEM + ZEPHYR}),
    "Zephyr, newer": (whole(pieces_model(), S, None, spaced("first"), first("<s>", 1), sequence("decoders", *UNSPACED, STRIP)), {**BS, "chat_template": SYSTEM + ZEPHYR}),
    "Gemma": (whole(pieces_model(), S + TURNS, REPLACE, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}, first("<s>", 1),
                    sequence("decoders", *UNSPACED)), {**BS, "chat_template": SYSTEM + TURN}),
    "Llama 3": (whole(bytes_model(ignore_merges=True), HEADERS, None, split(LLAMA3),
                      sequence("processors", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, first("<|begin_of_text|>", N)),
                      {**BYTES, "use_regex": True}), {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": SYSTEM + HEADER}),
    "Qwen": (whole(bytes_model(), CHATML + added(N + 3, *THINK, special=False), {"type": "NFC"}, split(QWEN2), BYTES, BYTES),
             {"eos_token": "<|im_end|>", "chat_template": SYSTEM + IM}),
    "OLMo 2": (whole(bytes_model(), CHATML, None, split(LLAMA3), None, BYTES), {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "chat_template": SYSTEM + ZEPHYR}),
    "SmolLM 3": (whole(bytes_model(ignore_merges=True), CHATML + added(N + 3, *THINK, special=False), None, split(LLAMA3), None, BYTES),
                 {"eos_token": "<|im_end|>", "chat_template": SYSTEM + IM}),
}

out = []
for name, (tokenizer, config) in CASES.items():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
        loaded = AutoTokenizer.from_pretrained(folder)
        special = [t["content"] for t in tokenizer["added_tokens"] if t["special"]]
        texts = [t for t in TEXTS + [" whole"] if not any(s in t for s in special)]
        ids = [loaded.backend_tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
        user = {"role": "user", "content": USER}
        chat = lambda messages, opened: loaded.apply_chat_template(messages, add_generation_prompt=opened, tokenize=True, return_dict=False)
        out.append({"name": name, "tokenizer": tokenizer, "config": config, "texts": texts, "ids": ids, "decoded": [loaded.backend_tokenizer.decode(i) for i in ids],
                    "alone": loaded("the a")["input_ids"], "prompt": chat([user], True), "whole": chat([user, {"role": "assistant", "content": REPLY}], False)})
(HERE / "tokenizers.json").write_text(json.dumps({"user": USER, "reply": REPLY, "cases": out}) + "\n")
