"""Vocabularies as GGUF files hold them, and the tokens that transformers gives texts with each: writes the folder vocabularies and
vocabularies.json beside itself.

    pip install -r ../python/requirements.txt && LORAFAB_CACHE=DIR python3 vocabularies.py

Small vocabularies are made here; the folder of models may hold gemma-3-270m-q4_k_m.gguf, whose tokens are written down as well.
"""

import json
import os
import pathlib

import gguf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
OUT = HERE / "vocabularies"
SAMPLE = [
    "The farmers of the hills keep their carpets and their salad in 1984 boxes, and the others don't.",
    "There are 12345 things that they'll say: this, that, and the other.  Two spaces,   three, \t and a tab.",
    "naïve café, straße, \u4f60\u597d\u4e16\u754c, \u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
    "def main():\n    return [x for x in range(10)]\n\n\nprint(main())\n",
] * 4
TEXTS = [
    "The farmers of the hills", " there", "  two  spaces   three    four ", "a\nb\n\nc\n\n\n\td\r\n e", "\t\ttabs\t and  \t", "",
    "12345 + 67.8 = 1e9, 1984", "I'LL say they'll, don't DON'T", "na\u00efve nai\u0308ve caf\u00e9 stra\u00dfe", "\u4f60\u597d\u4e16\u754c\u3002 \u041f\u0440\u0438\u0432\u0435\u0442",
    "\U0001f41d \U0001f469\u200d\U0001f52c \u0000 \u00a0|\u2028|", "def main():\n    return [x for x in range(10)]\n", "<s>a</s> <unk> <|eot|> <0x0A> <think>b</think> <eos>",
    "\u2581x \u2581\u2581 y", "<b>bold</b> &amp; \"q\" {{ x }} \\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]
CONTROL, USER = gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED


def trained(cut, decoder, alphabet, size):
    """A byte-pair vocabulary: pieces in their order, and merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = cut
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SAMPLE, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def write(name, architecture, model, pre, tokens, **more):
    """A GGUF file with a vocabulary and no tensors."""
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", architecture)
    writer.add_name(name)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([t for t, *_ in tokens])
    writer.add_token_types([k for _, k, *_ in tokens])
    if model == "llama":
        writer.add_token_scores([float(s) for _, _, s in tokens])
    for key, value in more.items():
        getattr(writer, f"add_{key}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pieces(before, user):
    """SentencePiece's order: control tokens, what the user defined, bytes, pieces by their scores, and letters."""
    found, _ = trained(pre_tokenizers.Metaspace(prepend_scheme="never", split=True), None, [], 420)
    found = [t for t in found if t not in {u for u, *_ in user}]
    letters = [t for t in found if len(t) == 1]
    longer = [t for t in found if len(t) > 1]
    tokens = before + user + [(f"<0x{b:02X}>", gguf.TokenType.BYTE, 0) for b in range(256)]
    return tokens + [(t, gguf.TokenType.NORMAL, -i) for i, t in enumerate(longer + letters)]


OUT.mkdir(exist_ok=True)
UNK = ("<unk>", gguf.TokenType.UNKNOWN, 0)
write("pieces_spaced", "llama", "llama", "default", pieces([UNK, ("<s>", CONTROL, 0), ("</s>", CONTROL, 0)], [("<think>", USER, -1000), ("</think>", USER, -1000)]),
      bos_token_id=1, eos_token_id=2, unk_token_id=0, add_bos_token=True, add_space_prefix=True)
runs = [(c * n, USER, -1000) for c in "\n " for n in range(2, 7)]
write("pieces_bare", "gemma3", "llama", "default",
      pieces([("<pad>", CONTROL, -1000), ("<eos>", CONTROL, -1000), ("<bos>", CONTROL, -1000), ("<unk>", CONTROL, -1000)],
             [("<think>", USER, -1000)] + runs + [("<b>", USER, -1000)]),
      bos_token_id=2, eos_token_id=1, unk_token_id=3, pad_token_id=0, add_bos_token=True, add_space_prefix=False)
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
PRES = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "tekken"]
for pre in PRES:
    byte_tokens, merges = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), None, LETTERS, 400)
    # A word that no merge makes: some take it as it is.
    normal = [(t, gguf.TokenType.NORMAL) for t in byte_tokens + ["\u0120zebra"]]
    tokens = normal + [("<|eot|>", CONTROL), ("<think>", USER), ("</think>", USER)]
    write(f"bytes_{pre}", "llama", "gpt2", pre, tokens, token_merges=[" ".join(m) for m in merges], eos_token_id=len(normal), bos_token_id=len(normal),
          **({"add_bos_token": True} if pre in ("llama-bpe", "tekken") else {}))


def read(folder, file, pre=None):
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    backend = tokenizer.backend_tokenizer
    # What the models' own tokenizer.json files say, and transformers does not take from a GGUF file.
    if pre == "smollm":
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    if pre in ("llama-bpe", "tekken"):
        backend.model.ignore_merges = True
    return tokenizer


def case(name, tokenizer):
    backend = tokenizer.backend_tokenizer
    # Control tokens that a text spells stay text here, so texts that spell one are left out.
    special = set(tokenizer.all_special_tokens) | {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    texts = [t for t in TEXTS + [" zebra"] if not any(s in t for s in special)]
    ids = [backend.encode(t, add_special_tokens=False).ids for t in texts]
    return {"name": name, "texts": texts, "ids": ids, "alone": tokenizer("a b")["input_ids"], "decoded": [backend.decode(i) for i in ids]}


out = [case(f"pieces_{kind}", read(OUT, f"pieces_{kind}.gguf")) for kind in ("spaced", "bare")]
out += [case(f"bytes_{pre}", read(OUT, f"bytes_{pre}.gguf", pre)) for pre in PRES]
real = pathlib.Path(os.environ.get("LORAFAB_CACHE", ".")) / "gemma-3-270m-q4_k_m.gguf"
gemma = case(real.name, read(real.parent, real.name)) if real.exists() else None
(HERE / "vocabularies.json").write_text(json.dumps({"cases": out, "real": gemma}) + "\n")
